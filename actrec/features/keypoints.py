"""Hands, face and motion in the image: 2D points and optical flow, the 2D part of Deep Action Stamps.

DeepActsNet, "The Proposed Deep Action Stamps": channels x, y and x + y, of a hand's 21 joints, of the face's 68
landmarks, and of the optical flow at the body's joints.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from actrec.features.base import Feature, missing_key_error
from actrec.features.skeleton import fill_missing
from actrec.features.specs import InputSpec
from actrec.skeleton import layouts
from actrec.types import KEYS, Clip
from actrec.utils.config import setting
from actrec.utils.errors import InputError

BODY_LAYOUT = "kinect_v2_25"
"""Layout of "pixels", which center and scale the keypoints."""


@dataclass(frozen=True)
class MotionPreprocessing:
    """Normalization of optical flow."""

    scale: str = setting(
        "body",
        "unit of length: the body's median torso, the image's height, or the pixel",
        choices=("body", "image", "none"),
    )


@dataclass(frozen=True)
class KeypointPreprocessing:
    """Normalization of 2D points."""

    center: str = setting(
        "body",
        "origin: mean of the body's spine_base over the window, the image's center, or its corner",
        choices=("body", "image", "none"),
    )
    scale: str = setting(
        "body",
        "unit of length: the body's median torso, the image's height, or the pixel",
        choices=("body", "image", "none"),
    )


class KeypointsFeature(Feature):
    """2D points of the bodies as (x, y, x + y), (M, 3, T, V); zero for an absent stream or body.

    Attributes:
        key: Key of the clip.
        sets: Number of sets of the layout's joints a body has, concatenated along V.
    """

    config_class: ClassVar[type] = KeypointPreprocessing
    key: ClassVar[str]
    sets: ClassVar[int] = 1

    def make(self, clip: Clip, spec: InputSpec, memo: dict[Any, Any]) -> np.ndarray:
        """Compute the input, once per clip."""
        memo_key = (self.key, spec.layout, spec.shape, tuple(sorted(spec.preprocessing.items())))
        if memo_key not in memo:
            memo[memo_key] = self._make(clip, spec)
        return memo[memo_key]

    def _make(self, clip: Clip, spec: InputSpec) -> np.ndarray:
        bodies, channels, frames, joints = spec.shape
        if (channels, joints) != (3, self.sets * len(layouts.get(spec.layout))):
            raise InputError(
                f"input '{spec.name}' ({spec.modality}) has shape {list(spec.shape)}, but {self.sets} × {spec.layout} "
                f"gives [M, 3, T, {self.sets * len(layouts.get(spec.layout))}]"
            )
        made = np.zeros((bodies, frames, joints, 2), np.float32)
        points = clip.get(self.key)
        if points is not None:
            self._check(np.asarray(points), spec)
            shaped = np.array(points, np.float32).reshape(len(points), frames, joints, 2)
            if not np.isnan(shaped).all():
                made[: len(points)] = self._fill(self._normalize(shaped, clip, spec), spec.layout)
        return with_sum(made)

    def _check(self, points: np.ndarray, spec: InputSpec) -> None:
        bodies, _, frames, joints = spec.shape
        per_set = (self.sets, joints // self.sets, 2) if self.sets > 1 else (joints, 2)
        if points.shape[1:] != (frames, *per_set) or len(points) > bodies:
            raise InputError(
                f"{self.key} is {list(points.shape)} {KEYS[self.key][1]} but input '{spec.name}' takes up to {bodies} "
                f"bodies of {frames} frames × {' × '.join(map(str, per_set[:-1]))} points ({spec.layout})"
            )

    def _normalize(self, points: np.ndarray, clip: Clip, spec: InputSpec) -> np.ndarray:
        options = self.options(spec)
        body = _body_pixels(clip, spec) if "body" in dataclasses.astuple(options) else None
        return (points - _origin(options.center, points, body, clip, spec)) / _unit(
            options.scale, points, body, clip, spec
        )

    def _fill(self, points: np.ndarray, layout: str) -> np.ndarray:
        """Move missing points to their parent and a missing root to the mean of its set; absent sets are zero."""
        shape = points.shape
        sets = points.reshape(*shape[:2], self.sets, -1, 2)  # (M, T, sets, V / sets, 2)
        root = next(v for v, parent in enumerate(layouts.get(layout).parents) if v == parent)
        known = ~np.isnan(sets).any(axis=-1, keepdims=True)
        middle = np.where(known, sets, 0).sum(axis=-2) / np.maximum(known.sum(axis=-2), 1)
        sets[..., root, :] = np.where(known[..., root, :], sets[..., root, :], middle)
        return fill_missing(sets, layout).reshape(shape)


class HandsFeature(KeypointsFeature):
    """2D joints of both hands, left then right, (M, 3, T, 42)."""

    streams: ClassVar = {"hands": False}
    key = "hand_pixels"
    sets = 2


class FaceFeature(KeypointsFeature):
    """2D landmarks of the face, (M, 3, T, 68)."""

    streams: ClassVar = {"face": False}
    key = "face_pixels"


class MotionFeature(KeypointsFeature):
    """Optical flow at the body's joints, (M, 3, T, 25); a joint of unknown flow gets its parent's."""

    config_class = MotionPreprocessing
    streams: ClassVar = {"flow": False}
    key = "motion"

    def _normalize(self, points: np.ndarray, clip: Clip, spec: InputSpec) -> np.ndarray:
        scale = self.options(spec).scale
        body = _body_pixels(clip, spec) if scale == "body" else None
        return points / _unit(scale, points, body, clip, spec)

    def _fill(self, points: np.ndarray, layout: str) -> np.ndarray:
        return fill_missing(points, layout)


def with_sum(points: np.ndarray) -> np.ndarray:
    """Convert points [M, T, V, 2] to channels x, y and x + y, (M, 3, T, V) (DeepActsNet)."""
    channels = np.concatenate([points, points.sum(axis=-1, keepdims=True)], axis=-1)
    return np.ascontiguousarray(channels.transpose(0, 3, 1, 2), dtype=np.float32)  # (M, C, T, V)


def _body_pixels(clip: Clip, spec: InputSpec) -> np.ndarray:
    """Return the joints [T, V, 2] px of the clip's body."""
    if "pixels" not in clip:
        raise missing_key_error(spec, "pixels", clip)
    pixels = np.asarray(clip["pixels"], np.float32)
    if pixels.ndim != 4 or pixels.shape[2:] != (len(layouts.get(BODY_LAYOUT)), 2):
        raise InputError(
            f"pixels are {list(pixels.shape)}, but input '{spec.name}' needs [M, T, 25, 2] "
            f"({BODY_LAYOUT}) for its center and scale; use preprocessing without 'body'"
        )
    return pixels[0]


def _origin(
    center: str, points: np.ndarray, body: np.ndarray | None, clip: Clip, spec: InputSpec
) -> np.ndarray | np.float32:
    """Return the origin [2] px."""
    if center == "image":
        return _image_size(clip, spec) / 2
    if center == "none":
        return np.float32(0)
    assert body is not None
    for candidate in (body[:, layouts.get(BODY_LAYOUT).index["spine_base"]], body, points):
        found = _present(candidate)
        if len(found):
            return found.mean(axis=0)
    return np.float32(0)


def _unit(scale: str, points: np.ndarray, body: np.ndarray | None, clip: Clip, spec: InputSpec) -> float:
    """Return the unit of length in px."""
    if scale == "image":
        return float(_image_size(clip, spec)[1])
    if scale == "none":
        return 1.0
    assert body is not None
    index = layouts.get(BODY_LAYOUT).index
    for a, b, torsos in (("spine_shoulder", "spine_base", 1.0), ("shoulder_left", "shoulder_right", 0.7)):
        length = np.linalg.norm(body[:, index[a]] - body[:, index[b]], axis=-1)
        length = length[np.isfinite(length) & (length > 1.0)]
        if len(length):
            return float(np.median(length)) / torsos
    # No torso in the image: joints are about one torso from their mean.
    for candidate in (body, points):
        found = _present(candidate)
        spread = float(np.sqrt(found.var(axis=0).sum())) if len(found) else 0.0
        if spread > 1.0:
            return spread
    return 1.0


def _present(points: np.ndarray) -> np.ndarray:
    flat = points.reshape(-1, 2)
    return flat[np.isfinite(flat).all(axis=-1)]


def _image_size(clip: Clip, spec: InputSpec) -> np.ndarray:
    if "size" not in clip:
        raise missing_key_error(spec, "size", clip)
    return np.asarray(clip["size"], np.float32)
