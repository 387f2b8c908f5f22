"""Joint sequence as one matrix, the input of Res-TCN-BJCN (Magoulianitis & Psaltis, Section 4.2)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from actrec.features.base import Feature, missing_key_error
from actrec.features.skeleton import fill_missing
from actrec.features.specs import InputSpec
from actrec.skeleton import layouts
from actrec.types import Clip
from actrec.utils.config import setting
from actrec.utils.errors import ConfigError, InputError


@dataclass(frozen=True)
class JointMapPreprocessing:
    """Range and scope of the joint map."""

    lower_m: tuple[float, ...] = setting((-2.5, -2.5, 0.0), "x, y and z that map to −1; less is clipped", unit="m")
    upper_m: tuple[float, ...] = setting((2.5, 2.5, 5.0), "x, y and z that map to 1; more is clipped", unit="m")
    scope: str = setting("clip", "the map covers the clip, or the whole window of the clip", choices=("clip", "window"))
    rate: int = setting(1, "columns per frame, interpolated linearly", range=(1, 30))


class JointMap(Feature):
    """Joints over time, body after body: (3·K, N) float32 in [−1, 1], K = M·V.

    Row 3k + d is dimension d of joint k (Eq. 2). Column 0 is the first frame with a body; earlier frames of a window,
    which repeat its pose, are skipped. Absent bodies and the columns after the last frame are zero.
    """

    config_class = JointMapPreprocessing
    streams: ClassVar = {"bodies": True}

    def make(self, clip: Clip, spec: InputSpec, memo: dict[Any, Any]) -> np.ndarray:
        """Compute the map from "bodies" of any T with T · rate ≤ N."""
        options: JointMapPreprocessing = self.options(spec)
        bodies = _checked(clip, spec, options.rate)
        visible = interpolate(bodies[:, first_visible_frame(bodies) :], options.rate)
        values = fill_missing(normalize(visible, options), spec.layout)
        count, frames, joints, _ = values.shape
        made = np.zeros(spec.shape, np.float32)
        rows = values.transpose(0, 2, 3, 1).reshape(count * joints * 3, frames)  # (M·V·3, T)
        made[: len(rows), :frames] = rows
        return made


def normalize(bodies: np.ndarray, options: JointMapPreprocessing) -> np.ndarray:
    """Map each dimension of [M, T, V, 3] linearly to [−1, 1]; NaN stays.

    Raises:
        ConfigError: There are not three bounds, or they are not in order.
    """
    lower, upper = np.array(options.lower_m, np.float32), np.array(options.upper_m, np.float32)
    if lower.shape != (3,) or upper.shape != (3,) or (lower >= upper).any():
        raise ConfigError(
            f"JointMapPreprocessing maps {options.lower_m} to {options.upper_m} m, expected three lower bounds, "
            "each below its upper one"
        )
    return np.clip((bodies - lower) * (2 / (upper - lower)) - 1, -1, 1)


def first_visible_frame(bodies: np.ndarray) -> int:
    """Return the first frame of [M, T, V, 3] with a body, after any repetitions of its pose."""
    visible = np.isfinite(bodies).any(axis=(0, 2, 3))
    if not visible.any():
        return 0
    first = int(visible.argmax())
    pose = bodies[:, first : first + 1]
    same = ((bodies == pose) | (np.isnan(bodies) & np.isnan(pose))).all(axis=(0, 2, 3))
    others = np.flatnonzero(~same[first:])
    return first + (int(others[0]) if len(others) else len(same) - first) - 1


def interpolate(bodies: np.ndarray, rate: int) -> np.ndarray:
    """Interpolate [M, T, V, 3] linearly to (T − 1) · rate + 1 frames."""
    at = np.arange((bodies.shape[1] - 1) * rate + 1) / rate
    before, after = np.floor(at).astype(int), np.ceil(at).astype(int)
    share = (at - before).astype(np.float32)[:, None, None]
    return bodies[:, before] * (1 - share) + bodies[:, after] * share


def _checked(clip: Clip, spec: InputSpec, rate: int) -> np.ndarray:
    if "bodies" not in clip:
        raise missing_key_error(spec, "bodies", clip)
    bodies = np.asarray(clip["bodies"], np.float32)
    rows, columns = spec.shape
    joints = len(layouts.get(spec.layout))
    most, longest = rows // (3 * joints), columns // rate
    if bodies.ndim != 4 or bodies.shape[2:] != (joints, 3) or len(bodies) > most or bodies.shape[1] > longest:
        raise InputError(
            f"bodies are {list(bodies.shape)} [M, T, V, 3] but input '{spec.name}' takes up to {most} bodies of up to "
            f"{longest} frames × {joints} joints ({spec.layout})"
        )
    return bodies
