"""Kinect v2 captures as CSV: a row a frame, `time, then x, y, z, state of 25 joints`, time in ticks of 100 ns."""

from pathlib import Path

import numpy as np

from actrec.errors import InputError
from actrec.recordings.sequence import TRACKED_SCORES, SkeletonSequence, from_kinect, read_text

TICK_NS = 100
"""The Kinect's relative time counts 100 ns: 30 Hz frames lie 330,000 apart."""
_LATEST = 2**53
"""Ticks: 28 years."""
_VALUES = 1 + 25 * 4


def read_kinect_csv(path: str | Path) -> SkeletonSequence:
    """Reads one capture; stamps are the sensor's.

    Raises:
        DeviceError: There is no such file.
        InputError: A row has too few values (a truncated file), something that is no number, or a time that does not
            come after that of the row before.
    """
    path = Path(path)
    rows = [line.rstrip().rstrip(",").split(",") for line in read_text(path).splitlines() if line.strip()]
    if not rows:
        raise InputError(f"'{path}' is empty; record it again")
    for number, row in enumerate(rows, 1):
        if len(row) != _VALUES:
            raise InputError(f"'{path}' line {number} has {len(row)} values, expected {_VALUES}; remove or complete it")
    try:
        ticks = np.array([int(row[0]) for row in rows], dtype=np.int64)
        joints = np.array([row[1:] for row in rows], dtype=np.float64).reshape(1, len(rows), 25, 4)
    except (ValueError, OverflowError) as error:
        raise InputError(f"'{path}' is no Kinect v2 capture: {error}") from error
    _check_times(path, ticks)
    states = joints[..., 3]
    if not np.isin(states, (0, 1, 2)).all():
        raise InputError(f"'{path}' is no Kinect v2 capture: a tracking state is none of 0, 1, 2")
    meta = {"format": "kinect_v2_csv"}
    scores = TRACKED_SCORES[states.astype(int)]
    return from_kinect(path.stem, joints[..., :3], "kinect_v2_25", ticks * TICK_NS, scores=scores, meta=meta)


def _check_times(path: Path, ticks: np.ndarray) -> None:
    wrong = np.flatnonzero((np.diff(ticks, prepend=-1) <= 0) | (ticks > _LATEST))
    if len(wrong):
        raise InputError(
            f"'{path}' line {wrong[0] + 1}: its time, {ticks[wrong[0]]}, is not after that of the line before, or no "
            "time of a Kinect; remove it"
        )
