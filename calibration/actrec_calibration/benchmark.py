"""`actrec bench calibration`: how near the truth intrinsics come on rendered boards, and what real photographs give."""

import argparse
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from actrec.cli import Parser
from actrec.cli.arguments import count
from actrec.errors import ConfigError, DeviceError
from actrec.frames import Intrinsics
from actrec_calibration.boards import CHARUCO, CHESSBOARD, Board, Detection
from actrec_calibration.gathering import from_folder, view_of
from actrec_calibration.intrinsics import PLUMB_BOB, calibrate, fit
from actrec_calibration.pictures import Picture, of_folder, read_file
from actrec_calibration.rendering import render, views
from actrec_calibration.views import View

BLUR_PX, NOISE = 0.8, 3.0
CAMERAS = (
    Intrinsics(640, 480, 525.0, 523.0, 322.3, 237.1, (0.08, -0.15, 0.001, -0.0015, 0.03)),
    Intrinsics(1280, 720, 905.0, 907.0, 645.2, 352.4, (0.12, -0.25, -0.0007, 0.0009, 0.1)),
)
BOARDS = (Board.of(kind=CHARUCO), Board.of(kind=CHESSBOARD, square=0.025))


def measure(arguments: list[str]) -> dict[str, Any]:
    """Calibrates rendered boards whose lens is known, and OpenCV's photographs of a chessboard where they are given.

    Args:
        arguments: `--seeds N`, `--views N`, `--photographs FOLDER`.

    Returns:
        Errors of focal length and centre, mean and worst over the seeds; and for each camera of the photographs the
        lens found, and what OpenCV's own recipe finds on the same files.
    """
    parser = Parser(prog="actrec bench calibration", description=measure.__doc__)
    parser.add_argument("--seeds", type=count, default=10, help="sets of views of each board and camera")
    parser.add_argument("--views", type=count, default=20, help="views of a set")
    parser.add_argument(
        "--photographs", type=Path, help="folder of left01.jpg … right14.jpg (Debian: /usr/share/doc/opencv-doc/…/data)"
    )
    args = parser.parse_args(arguments)
    if args.seeds < 1 or args.views < 1:
        raise ConfigError("--seeds and --views must be 1 or more")
    said: dict[str, Any] = {"rendered": [_rendered(board, one, args) for board in BOARDS for one in CAMERAS]}
    if args.photographs:
        said["photographs"] = [row for side in ("left", "right") for row in _photographed(args.photographs, side)]
        if not said["photographs"]:
            raise DeviceError(f"'{args.photographs}' has no left*.jpg and right*.jpg: give the folder of opencv-doc")
    return said


def _rendered(board: Board, camera: Intrinsics, args: argparse.Namespace) -> dict[str, Any]:
    errors, spent = [], []
    for seed in tqdm(range(args.seeds), desc=f"{board.kind} {camera.width}", disable=None, leave=False):
        seen = rendered_views(board, camera, args.views, seed)
        began = time.process_time()
        found = calibrate(board, seen).camera
        spent.append(time.process_time() - began)
        focal = max(abs(found.fx / camera.fx - 1), abs(found.fy / camera.fy - 1))
        errors.append((100 * focal, max(abs(found.cx - camera.cx), abs(found.cy - camera.cy))))
    mean, worst = np.mean(errors, axis=0), np.max(errors, axis=0)
    return {
        "board": board.kind,
        "image": f"{camera.width}x{camera.height}",
        "sets": args.seeds,
        "focal % mean": float(mean[0]),
        "focal % worst": float(worst[0]),
        "centre px mean": float(mean[1]),
        "centre px worst": float(worst[1]),
        "seconds": float(np.mean(spent)),
    }


def rendered_views(board: Board, camera: Intrinsics, count: int, seed: int) -> list[View]:
    """Views of a rendered board, blurred and noisy as a camera's."""
    found = []
    for number, pose in enumerate(views(board, camera, count, seed)):
        image, _ = render(board, camera, pose, blur=BLUR_PX, noise=NOISE, seed=1000 * seed + number)
        view = view_of(board, Picture(f"view {number}", 0, image))
        if view is not None:
            found.append(view)
    return found


def _photographed(folder: Path, side: str) -> list[dict[str, Any]]:
    board = Board.of(kind=CHESSBOARD, columns=9, rows=6, square=0.025)
    names = [path.name for path in of_folder(str(folder)) if path.name.startswith(side)]
    if not names:
        return []
    gathered = [view for view in from_folder(board, str(folder)).views if view.name in names]
    ours = calibrate(board, gathered)
    theirs = _by_opencv(board, folder, [view.name for view in gathered])
    return [
        _row(side, "actrec", ours.camera, ours.rms, len(ours.views), ours.held_out_rms),
        _row(side, "OpenCV's recipe", *theirs),
    ]


def _by_opencv(board: Board, folder: Path, names: list[str]) -> tuple[Intrinsics, float, int]:
    """The recipe of OpenCV's tutorial: findChessboardCorners, cornerSubPix with a window of 11, calibrateCamera."""
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 30, 0.001)
    seen = []
    for name in names:
        grey = cv2.cvtColor(read_file(folder / name).colour, cv2.COLOR_RGB2GRAY)
        found, corners = cv2.findChessboardCorners(grey, board.corners)
        if found:
            corners = cv2.cornerSubPix(grey, corners, (11, 11), (-1, -1), stop).reshape(-1, 2)
            seen.append(View(name, grey.shape[::-1], Detection(np.arange(len(corners)), corners.astype(np.float64))))
    done = fit(board, seen, seen[0].size, PLUMB_BOB)
    return done.camera, done.rms, len(seen)


def _row(
    side: str, by: str, camera: Intrinsics, rms: float, count: int, held_out: float | None = None
) -> dict[str, Any]:
    lens = {name: round(getattr(camera, name), 2) for name in ("fx", "fy", "cx", "cy")}
    checked = {} if held_out is None else {"held out px": held_out}
    return {"camera": side, "by": by, "views": count, **lens, "RMS px": rms, **checked}
