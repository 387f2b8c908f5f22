"""Views of a board: how each was held, and which of many are worth calibrating with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from actrec.frames import Intrinsics
from actrec_calibration.boards import Board, Detection
from actrec_calibration.poses import lens

NOVEL = 0.06
"""How far a view must be from every other to tell anything new: about 6 % of the image, or 4° of tilt."""
_TILT_DEG = 60.0  # a tilt of so much counts as moving across the whole image
_FOCAL = 0.9  # of the image's width: good enough to say how a board was held, before the lens is known


@dataclass(frozen=True)
class View:
    """One picture's detection.

    Attributes:
        name: Of the picture: its file, or a number.
        size: Width and height of the image in pixels.
        detection: The corners seen.
    """

    name: str
    size: tuple[int, int]
    detection: Detection


@dataclass(frozen=True)
class Holding:
    """How the board was held, roughly.

    Attributes:
        place: [2] the middle of the corners seen, in 0..1 of the image's width and height.
        scale: How large the whole board would be from the front, in image widths.
        tilt_deg: [2] how far its right and its lower edge are turned away from the camera; negative towards it.
    """

    place: np.ndarray
    scale: float
    tilt_deg: np.ndarray

    @property
    def vector(self) -> np.ndarray:
        """[5] place, size and tilt on one scale, for distances between views."""
        return np.concatenate([self.place, [np.log2(max(self.scale, 1e-3)) / 2], self.tilt_deg / _TILT_DEG])


def rough(size: tuple[int, int]) -> Intrinsics:
    """A lens such as most cameras have, before the true one is known."""
    width, height = size
    return Intrinsics(width, height, _FOCAL * width, _FOCAL * width, (width - 1) / 2, (height - 1) / 2)


def holding(board: Board, view: View, camera: Intrinsics | None = None) -> Holding:
    """How the board was held in a view.

    Args:
        board: What is seen.
        view: Where.
        camera: Its lens, where it is known already.
    """
    camera = camera or rough(view.size)
    points, pixels = board.points[view.detection.ids], view.detection.pixels
    _, turn, shift = cv2.solvePnP(points, pixels, camera.matrix, lens(camera), flags=cv2.SOLVEPNP_IPPE)
    rotation = cv2.Rodrigues(turn)[0]
    # A board turned in the image plane is not tilted: what counts is where its normal points.
    normal = rotation[:, 2] if rotation[2, 2] > 0 else -rotation[:, 2]
    tilt = -np.degrees(np.arcsin(np.clip(normal[:2], -1, 1)))
    distance = float(rotation[2] @ [board.size[0] / 2, board.size[1] / 2, 0] + shift[2, 0])
    scale = camera.fx * max(board.size) / max(distance, 1e-6) / camera.width
    return Holding(pixels.mean(axis=0) / view.size, float(scale), tilt)


def chosen(
    board: Board, views: Sequence[View], most: int, progress: Callable[[int], None] = lambda number: None
) -> list[View]:
    """The views that differ most from one another, at most `most`, in their first order; unmoved ones are left out.

    Args:
        board: What they show.
        views: Any number of them.
        most: To keep.
        progress: Called with the number kept so far.
    """
    if not views:
        return []
    vectors = np.array([holding(board, view).vector for view in views])
    corners = np.array([len(view.detection) for view in views])
    kept = [int(np.argmax(corners))]
    away = np.linalg.norm(vectors - vectors[kept[0]], axis=1)
    while len(kept) < most and away.max() > NOVEL:
        kept.append(int(np.argmax(away)))
        away = np.minimum(away, np.linalg.norm(vectors - vectors[kept[-1]], axis=1))
        progress(len(kept))
    return [views[number] for number in sorted(kept)]
