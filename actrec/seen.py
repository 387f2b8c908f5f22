"""What one frame's skeletons, or hands, tell a recognizer: checked, and in the layout that its model takes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actrec.errors import InputError
from actrec.frames import LOOSE, Body, Hand
from actrec.skeleton import layouts
from actrec.skeleton.conversions import convert


@dataclass(frozen=True)
class Seen:
    """One body's joints in one frame.

    Attributes:
        positions: [V, 3] metres, NaN for missing.
        pixels: [V, 2] px in the colour image, NaN for missing; None where nobody needs them.
    """

    positions: np.ndarray
    pixels: np.ndarray | None = None


def by_id(bodies: Sequence[Body], layout: str, with_pixels: bool = False) -> dict[str, Seen]:
    """The bodies of which anything is seen, by id; one without any joint counts as not there.

    A hand is a body of its own, called after whose and which it is, "body_1_left"; one of no known body bears its own
    name, "hand_1".

    Args:
        bodies: Of one frame, in any layout that converts to `layout`.
        layout: What the model takes.
        with_pixels: Convert pixels too.

    Raises:
        InputError: A body without id or with that of another, of unknown layout or with the wrong number of joints, or
            with infinite coordinates.
    """
    seen: dict[str, Seen] = {}
    for body in bodies:
        name = _name(body)
        if not name:
            raise InputError("a body has no id: track the skeletons first (skeleton_node does)")
        if name in seen:
            raise InputError(f"two bodies of one frame have the id '{name}'")
        positions = _converted(body, name, body.positions, 3, layout)
        if not np.isnan(positions).any(axis=-1).all():
            seen[name] = Seen(positions, _converted(body, name, body.pixels, 2, layout) if with_pixels else None)
    return seen


def _name(body: Body) -> str:
    if isinstance(body, Hand) and not body.body_id.startswith(LOOSE):
        return f"{body.body_id or 'hand'}_{body.side}"
    return body.body_id


def _converted(body: Body, name: str, values: np.ndarray, axes: int, layout: str) -> np.ndarray:
    if body.layout not in layouts.LAYOUTS:
        known = ", ".join(sorted(layouts.LAYOUTS))
        raise InputError(f"body '{name}' has the unknown layout '{body.layout}'; known: {known}")
    expected = (len(layouts.get(body.layout)), axes)
    if values.shape != expected:
        what = "positions" if axes == 3 else "pixels"
        raise InputError(f"body '{name}' has {what} {list(values.shape)}, expected {list(expected)} of {body.layout}")
    # Before the conversion, in which an infinite joint would come out as a great finite number.
    if np.isinf(values).any():
        raise InputError(f"body '{name}' has infinite coordinates; a missing joint is NaN")
    return convert(values, np.ones(expected[0], dtype=np.float32), body.layout, layout)[0]
