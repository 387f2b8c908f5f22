"""What every estimator gives: joints in pixels, with their shape in metres where it knows it."""

from dataclasses import dataclass

import numpy as np

from actrec.errors import InputError
from actrec.frames import RgbdFrame


@dataclass
class Detection:
    """One body, hand or face in one colour image.

    Attributes:
        layout: Name of a layout in `actrec.skeleton.layouts`.
        pixels: [V, 2] float32 (u, v), pixel centres at integers; may lie outside the image.
        world: [V, 3] float32 metres about the object's own centre, axes as the optical frame's (x right, y down, z away
            from the camera); NaN where the estimator has no metric shape.
        scores: [V] float32 in 0..1.
        side: The person's own "left" or "right" for a hand, else empty.
        body_id: The body it belongs to, empty where that is unknown.
    """

    layout: str
    pixels: np.ndarray
    world: np.ndarray
    scores: np.ndarray
    side: str = ""
    body_id: str = ""


def colour_of(frame: RgbdFrame) -> np.ndarray:
    """The frame's colour image, [H, W, 3] uint8 RGB, contiguous.

    Raises:
        InputError: The frame has none, or its shapes and types contradict the contract.
    """
    frame.check()
    if frame.colour is None:
        raise InputError(
            "an estimator needs a colour image, but this source gives joints alone: do without the estimator"
        )
    return np.ascontiguousarray(frame.colour)


class StampGuard:
    """Tells when an estimator's memory of the last frame no longer holds."""

    def __init__(self, max_gap_s: float):
        self._max_gap_ns = int(max_gap_s * 1e9)
        self._last: int | None = None

    def broken(self, stamp_ns: int) -> bool:
        """True where time jumped back, or on by more than the gap allowed, since the last call; false on the first."""
        last, self._last = self._last, stamp_ns
        return last is not None and not 0 <= stamp_ns - last <= self._max_gap_ns
