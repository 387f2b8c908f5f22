"""Deep Action Stamps: joints over time as images for convolutional networks (DeepActsNet, Eq. 1 and Fig. 2)."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np

from actrec.features.keypoints import (
    FaceFeature,
    HandsFeature,
    KeypointPreprocessing,
    KeypointsFeature,
    MotionFeature,
    MotionPreprocessing,
)
from actrec.features.leveling import level_clip, without_gravity
from actrec.features.skeleton import BodyFeature, BonesFeature, SkeletonPreprocessing
from actrec.features.specs import Feature, InputSpec
from actrec.skeleton import layouts
from actrec.types import Clip
from actrec.utils.config import setting
from actrec.utils.errors import ConfigError, InputError


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
    source_config: ClassVar[type]  # preprocessing of the source

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
        own = {field.name: getattr(options, field.name) for field in dataclasses.fields(self.source_config)}
        return self.source().make(clip, dataclasses.replace(spec, shape=shape, preprocessing=own), memo)


class BodyStamp(Stamp):
    """Stamp of the normalized 3D joints."""

    config_class = BodyStampPreprocessing
    source, source_config = BodyFeature, SkeletonPreprocessing


class BonesStamp(Stamp):
    """Stamp of the bones."""

    config_class = BonesStampPreprocessing
    source, source_config = BonesFeature, SkeletonPreprocessing


class HandsStamp(Stamp):
    """Stamp of both hands' 2D joints."""

    config_class = KeypointStampPreprocessing
    source, source_config = HandsFeature, KeypointPreprocessing


class FaceStamp(Stamp):
    """Stamp of the face's 2D landmarks."""

    config_class = KeypointStampPreprocessing
    source, source_config = FaceFeature, KeypointPreprocessing


class MotionStamp(Stamp):
    """Stamp of the optical flow at the joints."""

    config_class = MotionStampPreprocessing
    source, source_config = MotionFeature, MotionPreprocessing


STAMPS: dict[str, type[Stamp]] = {
    "body_stamp": BodyStamp, "bones_stamp": BonesStamp, "hands_stamp": HandsStamp, "face_stamp": FaceStamp,
    "motion_stamp": MotionStamp,
}  # fmt: skip


def extrema(clips: Iterable[Clip], specs: Iterable[InputSpec], axes: str = "leveled") -> dict[str, list[float]]:
    """Compute c_min and c_max of Eq. 1 over the training clips, for the option `extrema` of the DeepActs networks.

    `axes` is one of `actrec.features.specs.AXES`.

    Returns:
        Modality ("body", "hands", …) to [minimum, maximum]; modalities without data are omitted.
    """
    wanted = [spec for spec in specs if spec.modality in STAMPS]
    found: dict[str, list[float]] = {}
    for clip in map(level_clip if axes == "leveled" else without_gravity, clips):
        memo: dict[Any, Any] = {}
        for spec in wanted:
            values = STAMPS[spec.modality]().coordinates(clip, spec, memo)
            if values.any():
                name = spec.modality.removesuffix("_stamp")
                low, high = found.get(name, [np.inf, -np.inf])
                found[name] = [min(low, float(values.min())), max(high, float(values.max()))]
    return found
