"""Conversions between skeleton layouts; each joint is a weighted sum of source joints.

Body layouts convert to `kinect_v2_25`, hands to `hand_22`. A joint that a sensor lacks (finger tips on Kinect v1, the
spine in MediaPipe) is computed from its neighbors; an extrapolated joint has half the score.
"""

from functools import cache

import numpy as np

from actrec.skeleton import layouts
from actrec.utils.errors import InputError

CANONICAL = "kinect_v2_25"

EXTRAPOLATED_SCORE = 0.5
"""Factor on the score of an extrapolated joint."""

Weights = dict[str, float]


def _sides(table: dict[str, Weights]) -> dict[str, Weights]:
    """Expand rows with {s} to the left and the right side."""
    rows: dict[str, Weights] = {}
    for target, weights in table.items():
        for side in ("left", "right") if "{s}" in target else ("",):
            rows[target.replace("{s}", side)] = {k.replace("{s}", side): w for k, w in weights.items()}
    return rows


def _same(*joints: str) -> dict[str, Weights]:
    return {joint: {joint: 1.0} for joint in joints}


_LIMBS = _same("shoulder_{s}", "elbow_{s}", "wrist_{s}", "hip_{s}", "knee_{s}", "ankle_{s}")

TABLES: dict[str, dict[str, Weights]] = {
    "kinect_v1_20": _sides(
        {
            **_LIMBS,
            **_same("hand_{s}", "foot_{s}", "head"),
            "spine_base": {"hip_center": 1.0},
            # The "spine" of Kinect v1 is just above the hips, that joint of v2 halfway up.
            "spine_mid": {"hip_center": 0.5, "shoulder_center": 0.5},
            "spine_shoulder": {"shoulder_center": 1.0},
            "neck": {"shoulder_center": 0.7, "head": 0.3},
            "hand_tip_{s}": {"hand_{s}": 2.0, "wrist_{s}": -1.0},
            "thumb_{s}": {"hand_{s}": 1.0},
        }
    ),
    "azure_kinect_32": _sides(
        {
            **_LIMBS,
            **_same("hand_{s}", "foot_{s}", "head", "neck", "hand_tip_{s}", "thumb_{s}"),
            "spine_base": {"pelvis": 1.0},
            "spine_mid": {"pelvis": 0.5, "spine_chest": 0.25, "neck": 0.25},
            "spine_shoulder": {"spine_chest": 0.25, "neck": 0.75},
        }
    ),
    "mediapipe_33": _sides(
        {
            **_LIMBS,
            "spine_base": {"hip_left": 0.5, "hip_right": 0.5},
            # Fitted to recordings of a Kinect v2: spine_mid at 57 % of the way from spine_base to the shoulders, the
            # neck at 114 %, hips closer together, feet short of the toes, a longer thumb.
            "hip_left": {"hip_left": 0.93, "hip_right": 0.07},
            "hip_right": {"hip_right": 0.93, "hip_left": 0.07},
            "spine_mid": {"hip_left": 0.215, "hip_right": 0.215, "shoulder_left": 0.285, "shoulder_right": 0.285},
            "spine_shoulder": {"shoulder_left": 0.5, "shoulder_right": 0.5},
            "neck": {"shoulder_left": 0.325, "shoulder_right": 0.325, "ear_left": 0.175, "ear_right": 0.175},
            "head": {"ear_left": 0.5, "ear_right": 0.5},
            "hand_{s}": {"index_{s}": 0.5, "pinky_{s}": 0.5},
            "hand_tip_{s}": {"index_{s}": 0.95, "pinky_{s}": 0.95, "wrist_{s}": -0.9},
            "thumb_{s}": {"thumb_{s}": 1.6, "wrist_{s}": -0.6},
            "foot_{s}": {"foot_index_{s}": 0.75, "ankle_{s}": 0.25},
        }
    ),
    "lcrnet_13": _sides(
        {
            **_LIMBS,
            **_same("head"),
            "spine_base": {"hip_left": 0.5, "hip_right": 0.5},
            # Medians over NTU RGB+D: spine_mid at 60 % of the way from the hips to the shoulders, the neck at 44 % of
            # the way from there to the head, the hand 30 % of the forearm beyond the wrist.
            "spine_mid": {"hip_left": 0.2, "hip_right": 0.2, "shoulder_left": 0.3, "shoulder_right": 0.3},
            "spine_shoulder": {"shoulder_left": 0.5, "shoulder_right": 0.5},
            "neck": {"shoulder_left": 0.28, "shoulder_right": 0.28, "head": 0.44},
            "hand_{s}": {"wrist_{s}": 1.3, "elbow_{s}": -0.3},
            "hand_tip_{s}": {"wrist_{s}": 1.5, "elbow_{s}": -0.5},
            "thumb_{s}": {"wrist_{s}": 1.3, "elbow_{s}": -0.3},
            "foot_{s}": {"ankle_{s}": 1.1, "knee_{s}": -0.1},
        }
    ),
    CANONICAL: {joint: {joint: 1.0} for joint in layouts.KINECT_V2_25.joints},
}

HANDS: dict[str, dict[str, Weights]] = {
    # The palm of SHREC'17 is in the middle of the metacarpals.
    "hand_21": {**_same(*layouts.HAND_21.joints), "palm": {"wrist": 0.5, "middle_base": 0.5}}
}
"""Conversion tables to `hand_22`."""


@cache
def matrix(source: str, target: str = CANONICAL) -> np.ndarray:
    """Return the weights [V', V] float32 from `source` joints to `target` joints.

    Raises:
        InputError: There is no such conversion; the message lists the known ones.
    """
    tables = {CANONICAL: TABLES, "hand_22": HANDS}.get(target)
    if tables is None:
        raise InputError(f"no conversion from layout '{source}' to '{target}', only to {CANONICAL} and hand_22")
    if source not in tables:
        raise InputError(f"no conversion from layout '{source}' to {target}; known: {', '.join(sorted(tables))}")
    origin, goal = layouts.get(source), layouts.get(target)
    weights = np.zeros((len(goal), len(origin)), dtype=np.float32)
    for joint, row in tables[source].items():
        for name, weight in row.items():
            weights[goal.index[joint], origin.index[name]] = weight
    return weights


def convert(
    positions: np.ndarray, scores: np.ndarray, source: str, target: str = CANONICAL
) -> tuple[np.ndarray, np.ndarray]:
    """Convert joints of one layout to another.

    Args:
        positions: [..., V, D] m or pixels, NaN if missing.
        scores: [..., V] in 0..1.
        source: Layout of the input.
        target: `source` itself, `kinect_v2_25`, or `hand_22` for a hand.

    Returns:
        Positions [..., V', D] and scores [..., V'], float32. A joint with a missing source is NaN with score 0.

    Raises:
        InputError: Unknown pair of layouts, or V does not match the source layout.
    """
    positions = np.asarray(positions, dtype=np.float32)
    scores = np.asarray(scores, dtype=np.float32)
    expected = len(layouts.get(source))
    if positions.shape[-2] != expected or scores.shape != positions.shape[:-1]:
        raise InputError(
            f"positions {list(positions.shape)} and scores {list(scores.shape)} do not fit {source}, "
            f"which has {expected} joints"
        )
    if source == target:
        missing = np.isnan(positions).any(axis=-1)
        return np.where(missing[..., None], np.float32(np.nan), positions), np.where(missing, np.float32(0), scores)
    return _convert(positions, scores, source, target)


@cache
def _sources(source: str, target: str) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the sources of the V' target joints (first, second, … [V'] each) and the score factors [V']."""
    weights = matrix(source, target)
    used = [np.flatnonzero(row) for row in weights]
    most = max(map(len, used))
    # A joint with fewer sources repeats its last one; this changes neither missing joints nor the lowest score.
    columns = [np.array([row[min(k, len(row) - 1)] for row in used]) for k in range(most)]
    return columns, np.where((weights < 0).any(axis=1), EXTRAPOLATED_SCORE, 1.0)


def _convert(positions: np.ndarray, scores: np.ndarray, source: str, target: str) -> tuple[np.ndarray, np.ndarray]:
    columns, factors = _sources(source, target)
    missing = np.isnan(positions).any(axis=-1)
    converted = matrix(source, target) @ np.nan_to_num(positions)
    missing_joint, lowest = missing[..., columns[0]], scores[..., columns[0]]
    for column in columns[1:]:
        missing_joint = missing_joint | missing[..., column]
        lowest = np.minimum(lowest, scores[..., column])
    converted[missing_joint] = np.nan
    # The least certain source sets the score.
    return converted, np.where(missing_joint, 0.0, lowest * factors).astype(np.float32)
