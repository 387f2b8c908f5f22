"""Observations in one frame: joints, hands and faces, checked and grouped by body."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actrec.skeleton import layouts
from actrec.skeleton.conversions import convert
from actrec.types import UNASSIGNED_HAND, Body, Face, Hand
from actrec.utils.errors import InputError

_SIDES = ("left", "right")


@dataclass(frozen=True)
class Joints:
    """One body's joints in one frame.

    Attributes:
        positions: [V, 3] m, NaN for missing.
        pixels: [V, 2] px in the color image, NaN for missing; None if the model does not need them.
    """

    positions: np.ndarray
    pixels: np.ndarray | None = None


def joints_by_id(bodies: Sequence[Body], layout: str, with_pixels: bool = False) -> dict[str, Joints]:
    """Return the joints of a frame's bodies, converted to `layout`, by body id; bodies without any joint are dropped.

    Each hand counts as a body of its own: "body_1_left" if its body is known, else its own id, "hand_1".

    Raises:
        InputError: A body has no id, a duplicate id, an unknown layout, a wrong shape, or infinite coordinates.
    """
    found: dict[str, Joints] = {}
    for body in bodies:
        body_id = _track_id(body)
        if not body_id:
            raise InputError("a body has no id: track the skeletons first (skeleton_node does)")
        if body_id in found:
            raise InputError(f"two bodies of one frame have the id '{body_id}': give each body its own id")
        positions = _converted(body, body_id, "positions", layout)
        if not np.isnan(positions).any(axis=-1).all():
            found[body_id] = Joints(positions, _converted(body, body_id, "pixels", layout) if with_pixels else None)
    return found


def _track_id(body: Body) -> str:
    if isinstance(body, Hand) and not body.body_id.startswith(UNASSIGNED_HAND):
        return f"{body.body_id or 'hand'}_{body.side}"
    return body.body_id


def _converted(body: Body, body_id: str, name: str, layout: str) -> np.ndarray:
    values = body.positions if name == "positions" else body.pixels
    if body.layout not in layouts.LAYOUTS:
        known = ", ".join(sorted(layouts.LAYOUTS))
        raise InputError(f"body '{body_id}' has the unknown layout '{body.layout}'; known: {known}")
    expected = (len(layouts.get(body.layout)), 3 if name == "positions" else 2)
    if values.shape != expected:
        raise InputError(
            f"body '{body_id}' has {name} {list(values.shape)}, expected {list(expected)} of {body.layout}"
        )
    # Checked before the conversion, which would turn an infinite joint into a large finite number.
    if np.isinf(values).any():
        raise InputError(f"body '{body_id}' has infinite coordinates; set a missing joint to NaN")
    return convert(values, np.ones(expected[0], dtype=np.float32), body.layout, layout)[0]


def hands_by_id(hands: Sequence[Hand]) -> dict[str, dict[str, np.ndarray]]:
    """Return `hands` [2, 21, 3] and `hand_pixels` [2, 21, 2] (left, right; NaN for missing) by body id.

    Raises:
        InputError: A hand has a wrong shape or infinite coordinates.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    for hand in hands:
        _check_points(hand, "hand", 21)
        pair = found.setdefault(
            hand.body_id,
            {
                "hands": np.full((2, 21, 3), np.nan, np.float32),
                "hand_pixels": np.full((2, 21, 2), np.nan, np.float32),
            },
        )
        side = _SIDES.index(hand.side)
        pair["hands"][side], pair["hand_pixels"][side] = hand.positions, hand.pixels
    return found


def faces_by_id(faces: Sequence[Face]) -> dict[str, dict[str, np.ndarray]]:
    """Return `face` [68, 3] and `face_pixels` [68, 2] by body id.

    Raises:
        InputError: A face has a wrong shape or infinite coordinates.
    """
    for face in faces:
        _check_points(face, "face", 68)
    return {face.body_id: {"face": face.positions, "face_pixels": face.pixels} for face in faces}


def _check_points(found: Hand | Face, kind: str, points: int) -> None:
    if found.positions.shape != (points, 3) or found.pixels.shape != (points, 2):
        raise InputError(
            f"{kind} of '{found.body_id}' has positions {list(found.positions.shape)} and pixels "
            f"{list(found.pixels.shape)}, expected [{points}, 3] and [{points}, 2] of {kind}_{points}"
        )
    if np.isinf(found.positions).any() or np.isinf(found.pixels).any():
        raise InputError(f"{kind} of '{found.body_id}' has infinite coordinates; set a missing point to NaN")
