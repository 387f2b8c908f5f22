"""Hands, face and motion in the image, and Deep Action Stamps: joints over time as images (DeepActsNet).

2D points have the channels x, y and x + y: of a hand's 21 joints, of the face's 68 landmarks, and of the optical flow
at the body's joints. Stamps (Eq. 1 and Fig. 2) are images of these, and of joints and bones.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np

from actrec import features
from actrec.features.leveling import level_clip, without_gravity
from actrec.features.skeleton import BodyFeature, SkeletonPreprocessing, fill_missing
from actrec.features.specs import Feature, InputSpec, required
from actrec.skeleton import layouts
from actrec.types import KEYS, Clip
from actrec.utils.config import setting
from actrec.utils.errors import ConfigError, InputError

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
class KeypointPreprocessing(MotionPreprocessing):
    """Normalization of 2D points."""

    center: str = setting(
        "body",
        "origin: mean of the body's spine_base over the window, the image's center, or its corner",
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
    center, unit = getattr(options, "center", "none"), 1.0
    origin: np.ndarray = np.zeros(2, np.float32)
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


@dataclass(frozen=True)
class _Extrema:
    """Parameters of Eq. 1. The defaults cover joints in torso lengths in everyday actions."""

    minimum: float = setting(-4.0, "c_min of Eq. 1: the minimum of the training data")
    maximum: float = setting(4.0, "c_max of Eq. 1: the maximum of the training data")
    frames: int = setting(60, "T, frames of the clip, resized to W columns", range=(1, 1000))


@dataclass(frozen=True)
class BodyStampPreprocessing(_Extrema, SkeletonPreprocessing):
    """Preprocessing of normalized joints."""


@dataclass(frozen=True)
class BonesStampPreprocessing(_Extrema, SkeletonPreprocessing):
    """Preprocessing of bones; no bone is longer than about a torso."""

    minimum: float = setting(-1.5, "c_min of Eq. 1: the minimum of the training data")
    maximum: float = setting(1.5, "c_max of Eq. 1: the maximum of the training data")


@dataclass(frozen=True)
class KeypointStampPreprocessing(_Extrema, KeypointPreprocessing):
    """Preprocessing of hands and face."""


@dataclass(frozen=True)
class MotionStampPreprocessing(_Extrema, MotionPreprocessing):
    """Preprocessing of optical flow, in torso lengths per second."""

    minimum: float = setting(-8.0, "c_min of Eq. 1: the minimum of the training data")
    maximum: float = setting(8.0, "c_max of Eq. 1: the maximum of the training data")


def normalize(values: np.ndarray, minimum: float, maximum: float) -> np.ndarray:
    """Apply Eq. 1, d = 255 × (p − c_min) / (c_max − c_min), clipped to 0…255."""
    d = 255.0 * (values - minimum) / (maximum - minimum)
    return np.clip(d, 0.0, 255.0).astype(np.float32)


def stamp(values: np.ndarray, minimum: float, maximum: float, size: int) -> np.ndarray:
    """Return the Deep Action Stamp of one body's coordinates [3, T, V], with the extrema c_min and c_max of Eq. 1.

    Returns:
        (3, size, size) float32 in 0…255: time along the width, joints along the height.
    """
    image = normalize(values, minimum, maximum).transpose(2, 1, 0)  # (H = V, W = T, C)
    resized = cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(resized.transpose(2, 0, 1))  # (C, H, W)


class Stamp(Feature):
    """Stamps of M bodies, (M, 3, size, size) in 0…255; zero for an absent stream or body."""

    source: ClassVar[type[Feature]]  # feature of the coordinates

    def __init_subclass__(cls) -> None:
        cls.streams = cls.source.streams

    def make(self, clip: Clip, spec: InputSpec, memo: dict[Any, Any]) -> np.ndarray:
        """Compute the stamps."""
        options = self.options(spec)
        if not options.minimum < options.maximum:
            raise ConfigError(
                f"input '{spec.name}': minimum is {options.minimum:g}, maximum {options.maximum:g}; "
                "minimum must be below maximum (Eq. 1)"
            )
        _, channels, height, width = spec.shape
        if channels != 3 or height != width:
            raise InputError(f"input '{spec.name}' has shape {list(spec.shape)}, expected [M, 3, size, size]")
        made = np.zeros(spec.shape, np.float32)
        for m, values in enumerate(self.coordinates(clip, spec, memo)):
            if values.any():
                made[m] = stamp(values, options.minimum, options.maximum, width)
        return made

    def coordinates(self, clip: Clip, spec: InputSpec, memo: dict[Any, Any]) -> np.ndarray:
        """Return the coordinates for Eq. 1, (M, 3, T, V), as in the graph network's input."""
        options = self.options(spec)
        sets = self.source.sets if issubclass(self.source, KeypointsFeature) else 1
        shape = (spec.shape[0], 3, options.frames, sets * len(layouts.get(spec.layout)))
        own = {field.name: getattr(options, field.name) for field in dataclasses.fields(self.source.config_class)}
        modality = spec.modality.removesuffix("_stamp")
        points = dataclasses.replace(spec, modality=modality, shape=shape, preprocessing=own)
        return self.source().make(clip, points, memo)


class BodyStamp(Stamp):
    """Stamp of the normalized 3D joints."""

    config_class = BodyStampPreprocessing
    source = BodyFeature


class BonesStamp(Stamp):
    """Stamp of the bones."""

    config_class = BonesStampPreprocessing
    source = BodyFeature


class HandsStamp(Stamp):
    """Stamp of both hands' 2D joints."""

    config_class = KeypointStampPreprocessing
    source = HandsFeature


class FaceStamp(Stamp):
    """Stamp of the face's 2D landmarks."""

    config_class = KeypointStampPreprocessing
    source = FaceFeature


class MotionStamp(Stamp):
    """Stamp of the optical flow at the joints."""

    config_class = MotionStampPreprocessing
    source = MotionFeature


def extrema(clips: Iterable[Clip], specs: Iterable[InputSpec], axes: str = "leveled") -> dict[str, list[float]]:
    """Compute c_min and c_max of Eq. 1 over the training clips, for the option `extrema` of the DeepActs networks.

    `axes` is one of `actrec.features.specs.AXES`.

    Returns:
        Modality ("body", "hands", …) to [minimum, maximum]; modalities without data are omitted.
    """
    wanted = [(spec, made) for spec in specs if isinstance(made := features.feature(spec.modality), Stamp)]
    found: dict[str, list[float]] = {}
    for clip in map(level_clip if axes == "leveled" else without_gravity, clips):
        memo: dict[Any, Any] = {}
        for spec, made in wanted:
            values = made.coordinates(clip, spec, memo)
            if values.any():
                name = spec.modality.removesuffix("_stamp")
                low, high = found.get(name, [np.inf, -np.inf])
                found[name] = [min(low, float(values.min())), max(high, float(values.max()))]
    return found
