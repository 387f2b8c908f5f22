"""Whether a hand moved enough, and in enough ways, for its camera's place to follow."""

import numpy as np

from actrec.errors import InputError
from actrec_calibration.transforms import turn

LEAST_TURN = 10.0  # degrees that two pictures must differ by
LEAST_SECOND = 4.0  # degrees about axes other than the main one, root mean square
MAX_REACH = 20.0  # metres; farther away than any arm: the poses are in millimetres


def check_motion(poses: list[np.ndarray], what: str) -> None:
    """Looks at how the poses turn from one another.

    A hand that only shifts, or turns about one axis alone (a wrist, a mobile base), leaves the camera's place along
    that axis open, whatever the number of pictures.

    Raises:
        InputError: Turns are too small, or all about one axis (it is named); or translations cannot be metres.
    """
    places = np.array([pose[:3, 3] for pose in poses])
    if np.abs(places).max() > MAX_REACH:
        raise InputError(
            f"a pose of {what} is {np.abs(places).max():.0f} m from the base: are they millimetres? add --unit mm"
        )
    # In degrees about the axes of the base.
    turns = np.array([np.degrees(turn(b[:3, :3] @ a[:3, :3].T)) for i, a in enumerate(poses) for b in poses[i + 1 :]])
    largest = float(np.linalg.norm(turns, axis=1).max())
    if largest < LEAST_TURN:
        raise InputError(
            f"{what} turns by {largest:.1f}° at most between the pictures: turn it by 20° to 60° about two axes or more"
        )
    spread, axes = np.linalg.eigh(turns.T @ turns / len(turns))
    if np.sqrt(max(spread[1], 0)) < LEAST_SECOND:
        axis = ", ".join(f"{value:+.2f}" for value in axes[:, 2])
        raise InputError(
            f"{what} turns about one axis alone ({axis} of the base frame), which leaves the camera's place along it "
            "open: tilt about a second axis as well, by 20° or more"
        )
