"""The readers of images of a board, each with a valid file: folders that `actrec calibrate` takes."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from actrec.types import Intrinsics
from actrec_calibration import views
from actrec_calibration.board import Board
from tests.reference import board_rendering

LENS = Intrinsics(320, 240, 262.0, 262.0, 159.5, 119.5)


@cache
def board() -> Board:
    """Return the board that is in the images."""
    return Board.of()


@cache
def images() -> dict[str, bytes]:
    """Return the files of a view of the board: color, depth in mm and infrared."""
    pose = board_rendering.sample_poses(board(), LENS, 1, seed=7)[0]
    color, depth = board_rendering.render(board(), LENS, pose, blur=0.5, noise=2)
    millimeters = np.nan_to_num(1000 * depth).astype(np.uint16)
    infrared = color[..., 1].astype(np.uint16) << 4
    found = {"color/1.jpg": color[..., ::-1], "depth/1.png": millimeters, "ir/1.png": infrared}
    return {name: cv2.imencode(Path(name).suffix, image)[1].tobytes() for name, image in found.items()}


def write_view(name: str) -> Callable[[Path], Path]:
    """Return a function that writes a folder of one view and returns one of its files."""

    def write(folder: Path) -> Path:
        for file, content in images().items():
            (folder / file).parent.mkdir()
            (folder / file).write_bytes(content)
        return folder / name

    return write


def read_lens_images(path: Path) -> object:
    """Detect the board in each image of a folder, as `actrec calibrate intrinsics` does."""
    return [views.view_of(board(), views.read_image(file)) for file in views.list_images(path.parent)]


def read_views(path: Path) -> object:
    """Read a folder of color, depth and infrared, as `actrec calibrate depth` does."""
    return views.read_rgbd_folder(path.parents[1], board(), (LENS, LENS))


def write_points(folder: Path) -> Path:
    """Write points with their pixels."""
    rows = [f"{x / 10},{y / 10},2.0,{160 + 13 * x},{120 + 13 * y}" for x in range(-4, 5) for y in range(-3, 4)]
    (folder / "points.csv").write_text("\n".join(["x,y,z,u,v", *rows]))
    return folder / "points.csv"


def write_poses(folder: Path) -> Path:
    """Write poses of a robot's hand."""
    rows = [f"{k}.jpg,0.4,0.{k},0.3,0.0,0.6,0.0,0.8" for k in range(1, 9)]
    (folder / "poses.csv").write_text("\n".join(["image,x,y,z,qx,qy,qz,qw", *rows]))
    return folder / "poses.csv"


def read_points(path: Path) -> object:
    """Read points with their pixels, as `actrec calibrate intrinsics --points` does."""
    return views.read_points([path], "color", (LENS.width, LENS.height))
