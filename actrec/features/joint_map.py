"""The whole sequence of joints as one matrix, the input of Res-TCN-BJCN (Magoulianitis & Psaltis, Section 4.2)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from actrec.features.base import Feature, absent
from actrec.features.skeleton import seat_missing
from actrec.features.specs import InputSpec
from actrec.skeleton import layouts
from actrec.types import Clip
from actrec.utils.config import setting
from actrec.utils.errors import ConfigError, InputError


@dataclass(frozen=True)
class JointMapPreprocessing:
    """Which values map to −1 and 1, and what the map is of."""

    lower_m: tuple[float, ...] = setting((-2.5, -2.5, 0.0), "x, y and z that map to −1; less is cut", unit="m")
    upper_m: tuple[float, ...] = setting((2.5, 2.5, 5.0), "x, y and z that map to 1; more is cut", unit="m")
    scope: str = setting(
        "clip", "the map shows the clip, or the whole window that the clip is a part of", choices=("clip", "window")
    )
    rate: int = setting(1, "columns from one frame to the next, interpolated linearly", range=(1, 30))


class JointMap(Feature):
    """Joints placed successively, body after body, over time: (3·K, N) float32 in [−1, 1], K = M·V.

    Row 3k + d is dimension d of joint k, as Eq. 2 takes it. Column 0 is the first frame in which somebody is seen, not
    the frames before it in which a window holds that pose. Absent bodies, and the columns after the last frame, are
    zero.
    """

    config_class = JointMapPreprocessing
    streams: ClassVar = {"bodies": True}

    def make(self, clip: Clip, spec: InputSpec, memo: dict[Any, Any]) -> np.ndarray:
        """From "bodies" of any T with T · rate ≤ N."""
        options: JointMapPreprocessing = self.options(spec)
        bodies = _checked(clip, spec, options.rate)
        shown = interpolate(bodies[:, first_shown(bodies) :], options.rate)
        values = seat_missing(normalize(shown, options), spec.layout)
        count, frames, joints, _ = values.shape
        made = np.zeros(spec.shape, np.float32)
        rows = values.transpose(0, 2, 3, 1).reshape(count * joints * 3, frames)  # (M·V·3, T)
        made[: len(rows), :frames] = rows
        return made


def normalize(bodies: np.ndarray, options: JointMapPreprocessing) -> np.ndarray:
    """Maps each plane of motion of [M, T, V, 3] linearly to [−1, 1]; NaN stays.

    Raises:
        ConfigError: The bounds are not three, or not in order.
    """
    lower, upper = np.array(options.lower_m, np.float32), np.array(options.upper_m, np.float32)
    if lower.shape != (3,) or upper.shape != (3,) or (lower >= upper).any():
        raise ConfigError(
            f"JointMapPreprocessing maps {options.lower_m} to {options.upper_m} m, expected three lower bounds, "
            "each below its upper one"
        )
    return np.clip((bodies - lower) * (2 / (upper - lower)) - 1, -1, 1)


def first_shown(bodies: np.ndarray) -> int:
    """The frame of [M, T, V, 3] with which what was seen begins: before it is nobody, or that very pose, held."""
    seen = np.isfinite(bodies).any(axis=(0, 2, 3))
    if not seen.any():
        return 0
    first = int(seen.argmax())
    pose = bodies[:, first : first + 1]
    same = ((bodies == pose) | (np.isnan(bodies) & np.isnan(pose))).all(axis=(0, 2, 3))
    others = np.flatnonzero(~same[first:])
    return first + (int(others[0]) if len(others) else len(same) - first) - 1


def interpolate(bodies: np.ndarray, rate: int) -> np.ndarray:
    """[M, T, V, 3] at `rate` times as many instants, (T − 1) · rate + 1, from the first frame to the last."""
    at = np.arange((bodies.shape[1] - 1) * rate + 1) / rate
    before, after = np.floor(at).astype(int), np.ceil(at).astype(int)
    share = (at - before).astype(np.float32)[:, None, None]
    return bodies[:, before] * (1 - share) + bodies[:, after] * share


def _checked(clip: Clip, spec: InputSpec, rate: int) -> np.ndarray:
    if "bodies" not in clip:
        raise absent(spec, "bodies", clip)
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
