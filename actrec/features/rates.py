"""Frame rates: of a recording or camera, and of the images that a network takes.

Joints, hands, faces and their motion are interpolated to a network's stamps, so that any frame rate gives the same
window, with less detail at a lower one. Images and scene flow are not interpolated: at a lower rate than the network's,
images repeat. Training, evaluation and the live recognizer decide by this module.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from actrec import features
from actrec.features.specs import FrameFeature, InputSpec, WindowSpec
from actrec.types import NANOSECONDS

LEAST_SHARE = 0.9
"""A source of this share of a network's rate is fast enough: about every tenth image repeats."""

LEAST_JOINT_HZ = 5.0
"""Lowest rate of joints: at 5 Hz three shipped packages lose up to 3 points of accuracy, at 3 Hz 6 to 15."""


def frame_rate(stamps_ns: Sequence[int] | np.ndarray) -> float:
    """Return the mean rate in Hz of increasing stamps [T], ns; 0 for fewer than two."""
    span = (int(stamps_ns[-1]) - int(stamps_ns[0])) / NANOSECONDS if len(stamps_ns) > 1 else 0.0
    return (len(stamps_ns) - 1) / span if span > 0 else 0.0


def slowest_rate(stamps_ns: Iterable[Sequence[int]], least_s: float) -> float:
    """Return the lowest rate in Hz of the streams, by their stamps, that last `least_s` or longer; 0 if none does."""
    lasting = [each for each in stamps_ns if each and each[-1] - each[0] >= least_s * NANOSECONDS]
    return min(map(frame_rate, lasting), default=0.0)


def image_rate(specs: Iterable[InputSpec], window: WindowSpec) -> float:
    """Return the rate in Hz at which a network takes images or scene flow; 0 if it takes neither."""
    return window.rate if any(isinstance(features.feature(spec.modality), FrameFeature) for spec in specs) else 0.0


def with_rates(specs: Iterable[InputSpec], window: WindowSpec) -> tuple[InputSpec, ...]:
    """Return the specs with the rate of each stack of images declared."""
    return tuple(dataclasses.replace(spec, rate=round(image_rate([spec], window), 3)) for spec in specs)


def fit_window(specs: Iterable[InputSpec], window: WindowSpec, source_hz: float) -> WindowSpec:
    """Return the window for training on recordings of `source_hz`.

    A network of images takes T consecutive images at the recordings' rate if that is lower than its own, as its paper
    does on such a dataset; its window is then longer.
    """
    rate = image_rate(specs, window)
    if not 0 < source_hz < LEAST_SHARE * rate:
        return window
    return dataclasses.replace(window, seconds=round(window.frames / source_hz, 4))


def describe_rate(specs: Iterable[InputSpec], window: WindowSpec, source_hz: float) -> str:
    """Return a warning about a source of `source_hz` that is too slow for a network, with a remedy; empty if it is not.

    A `source_hz` of 0 is unknown.
    """
    rate = image_rate(specs, window)
    if 0 < source_hz < LEAST_SHARE * rate:
        frames, seconds = window.clip_frames, window.frames / source_hz
        distinct = min(frames, round(frames * source_hz / rate))
        return (
            f"frames come at {source_hz:.3g} Hz, but the network takes images at {rate:.3g} Hz: only "
            f"{distinct} of its {frames} images differ; use a source of {rate:.3g} Hz, "
            f"or train the network for this one (actrec train --set window_s={seconds:.3g})"
        )
    if 0 < source_hz < LEAST_SHARE * LEAST_JOINT_HZ:
        return f"frames come at {source_hz:.3g} Hz: fast motion is lost; use a source of {LEAST_JOINT_HZ:g} Hz or more"
    return ""
