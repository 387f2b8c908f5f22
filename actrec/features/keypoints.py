"""Hands, face and motion in the image: 2D points and optical flow, the 2D part of Deep Action Stamps.

DeepActsNet, "The Proposed Deep Action Stamps": channels x, y and x + y, of a hand's 21 joints, of the face's 68
landmarks, and of the optical flow at the body's joints.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from actrec.features.skeleton import fill_missing
from actrec.features.specs import Feature, InputSpec, required
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
    """2D points of the bodies as (x, y, x + y), (M, 3, T, V); zero for an absent stream or body."""

    config_class: ClassVar[type] = KeypointPreprocessing
    key: ClassVar[str]  # key of the clip
    sets: ClassVar[int] = 1  # number of sets of the layout's joints a body has, concatenated along V

    def make(self, clip: Clip, spec: InputSpec, memo: dict[Any, Any]) -> np.ndarray:
        """Compute the input, once per clip."""
        memo_key = (self.key, spec.layout, spec.shape, tuple(sorted(spec.preprocessing.items())))
        if memo_key not in memo:
            memo[memo_key] = self._make(clip, spec)
        return memo[memo_key]

    def _make(self, clip: Clip, spec: InputSpec) -> np.ndarray:
        bodies, channels, frames, joints = spec.shape
        per_set = len(layouts.get(spec.layout))
        if (channels, joints) != (3, self.sets * per_set):
            raise InputError(
                f"input '{spec.name}' ({spec.modality}) has shape {list(spec.shape)}, but {self.sets} × {spec.layout} "
                f"gives [M, 3, T, {self.sets * per_set}]"
            )
        made = np.zeros((bodies, frames, joints, 2), np.float32)
        if self.key in clip:
            points = np.array(clip[self.key], np.float32)
            shape = (self.sets, per_set) if self.sets > 1 else (per_set,)
            if points.shape[1:] != (frames, *shape, 2) or len(points) > bodies:
                raise InputError(
                    f"{self.key} is {list(points.shape)} {KEYS[self.key][1]} but input '{spec.name}' takes up to "
                    f"{bodies} bodies of {frames} frames × {' × '.join(map(str, shape))} points ({spec.layout})"
                )
            if not np.isnan(points).all():
                points = _normalize(points.reshape(len(points), frames, joints, 2), self.options(spec), clip, spec)
                made[: len(points)] = self._fill(points, spec.layout)
        channels_last = np.concatenate([made, made.sum(axis=-1, keepdims=True)], axis=-1)  # x, y and x + y
        return np.ascontiguousarray(channels_last.transpose(0, 3, 1, 2))  # (M, C, T, V)

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

    def _fill(self, points: np.ndarray, layout: str) -> np.ndarray:
        return fill_missing(points, layout)


def _normalize(
    points: np.ndarray, options: KeypointPreprocessing | MotionPreprocessing, clip: Clip, spec: InputSpec
) -> np.ndarray:
    """Center and scale points [M, T, V, 2]; optical flow has no center."""
    center, origin, unit = getattr(options, "center", "none"), np.zeros(2, np.float32), 1.0
    if "image" in (center, options.scale):
        size = required(clip, "size", spec).astype(np.float32)
        origin = size / 2 if center == "image" else origin
        unit = float(size[1]) if options.scale == "image" else unit
    if "body" in (center, options.scale):
        pixels = required(clip, "pixels", spec).astype(np.float32)
        if pixels.ndim != 4 or pixels.shape[2:] != (len(layouts.get(BODY_LAYOUT)), 2):
            raise InputError(
                f"pixels are {list(pixels.shape)}, but input '{spec.name}' needs [M, T, 25, 2] "
                f"({BODY_LAYOUT}) for its center and scale; use preprocessing without 'body'"
            )
        origin = _body_center(pixels[0], points) if center == "body" else origin
        unit = _body_unit(pixels[0], points) if options.scale == "body" else unit
    return (points - origin) / unit


def _body_center(body: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the mean [2] px of a body's spine_base, or else of its joints, or else of the points."""
    for candidate in (body[:, layouts.get(BODY_LAYOUT).index["spine_base"]], body, points):
        found = _present(candidate)
        if len(found):
            return found.mean(axis=0)
    return np.zeros(2, np.float32)


def _body_unit(body: np.ndarray, points: np.ndarray) -> float:
    """Return the torso of a body [T, 25, 2] in px."""
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
