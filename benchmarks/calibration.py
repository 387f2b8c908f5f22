"""`actrec bench calibration` and `calibration-robot`: errors of all calibrations against known truth.

Intrinsics of rendered boards and of OpenCV's photographs of a chessboard; depth, hand-eye and floor on simulated views.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from actrec.cli import Parser, count
from actrec.perception.floor_plane import Readings, find_floor
from actrec.types import Intrinsics
from actrec.utils.errors import DeviceError
from actrec_calibration import depth, floor, hand_eye
from actrec_calibration.board import CHARUCO, CHESSBOARD, Board
from actrec_calibration.detection import BoardCorners, BoardView
from actrec_calibration.intrinsics import PLUMB_BOB, calibrate, fit
from actrec_calibration.poses import pose_difference
from actrec_calibration.views import ColorImage, list_images, read_image, view_of
from tests.reference import calibration_views as simulated
from tests.reference.board_rendering import render, sample_poses

BLUR_PX, NOISE = 0.8, 3.0

CAMERAS = (
    Intrinsics(640, 480, 525.0, 523.0, 322.3, 237.1, (0.08, -0.15, 0.001, -0.0015, 0.03)),
    Intrinsics(1280, 720, 905.0, 907.0, 645.2, 352.4, (0.12, -0.25, -0.0007, 0.0009, 0.1)),
)

BOARDS = (Board.of(kind=CHARUCO), Board.of(kind=CHESSBOARD, square=0.025))


def measure(arguments: list[str]) -> dict[str, Any]:
    """Calibrate rendered boards with a known lens and, if given, OpenCV's photographs of a chessboard."""
    parser = Parser(
        prog="actrec bench calibration",
        description="Intrinsics of rendered boards and of photographs against the truth.",
    )
    parser.add_argument("--seeds", type=count, default=10, help="sets of views of each board and camera")
    parser.add_argument("--views", type=count, default=20, help="views of a set")
    parser.add_argument(
        "--photographs", type=Path, help="folder of left01.jpg … right14.jpg (Debian: /usr/share/doc/opencv-doc/…/data)"
    )
    args = parser.parse_args(arguments)
    figures: dict[str, Any] = {"rendered": [_rendered(board, one, args) for board in BOARDS for one in CAMERAS]}
    if args.photographs:
        figures["photographs"] = [row for side in ("left", "right") for row in _photographed(args.photographs, side)]
        if not figures["photographs"]:
            raise DeviceError(f"'{args.photographs}' has no left*.jpg and right*.jpg: give the folder of opencv-doc")
    return figures


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
        "center px mean": float(mean[1]),
        "center px worst": float(worst[1]),
        "seconds": float(np.mean(spent)),
    }


def rendered_views(board: Board, camera: Intrinsics, count: int, seed: int) -> list[BoardView]:
    """Render and detect views of a board, with blur and noise."""
    found = []
    for number, pose in enumerate(sample_poses(board, camera, count, seed)):
        image, _ = render(board, camera, pose, blur=BLUR_PX, noise=NOISE, seed=1000 * seed + number)
        view = view_of(board, ColorImage(f"view {number}", 0, image))
        if view is not None:
            found.append(view)
    return found


def _photographed(folder: Path, side: str) -> list[dict[str, Any]]:
    board = Board.of(kind=CHESSBOARD, columns=9, rows=6, square=0.025)
    paths = [path for path in list_images(folder) if path.name.startswith(side)]
    if not paths:
        return []
    views = [view for path in paths if (view := view_of(board, read_image(path))) is not None]
    ours = calibrate(board, views)
    theirs = _by_opencv(board, folder, [view.name for view in views])
    return [
        _row(side, "actrec", ours.camera, ours.rms, len(ours.views), ours.held_out_rms),
        _row(side, "OpenCV's recipe", *theirs),
    ]


def _by_opencv(board: Board, folder: Path, names: list[str]) -> tuple[Intrinsics, float, int]:
    """Calibrate as in OpenCV's tutorial: findChessboardCorners, cornerSubPix with a window of 11, calibrateCamera."""
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 30, 0.001)
    seen = []
    for name in names:
        gray = cv2.cvtColor(read_image(folder / name).color, cv2.COLOR_RGB2GRAY)
        found, corners = cv2.findChessboardCorners(gray, board.corners)
        if found:
            corners = cv2.cornerSubPix(gray, corners, (11, 11), (-1, -1), stop).reshape(-1, 2)
            detection = BoardCorners(np.arange(len(corners)), corners.astype(np.float64))
            seen.append(BoardView(name, gray.shape[::-1], detection))
    done = fit(board, seen, seen[0].size, PLUMB_BOB)
    return done.camera, done.rms, len(seen)


def _row(
    side: str, by: str, camera: Intrinsics, rms: float, count: int, held_out: float | None = None
) -> dict[str, Any]:
    lens = {name: round(getattr(camera, name), 2) for name in ("fx", "fy", "cx", "cy")}
    checked = {} if held_out is None else {"held out px": held_out}
    return {"camera": side, "by": by, "views": count, **lens, "RMS px": rms, **checked}


SENSORS = ("time_of_flight", "stereo", "structured_light")

SCALE, BIAS = 1.004, -0.012

FLOOR_VIEWS = 5

_ARM_CAMERA = Intrinsics(1280, 720, 910.0, 910.0, 641.0, 358.0, (0.1, -0.2, 0.001, 0.0, 0.0))


def measure_robot(arguments: list[str]) -> dict[str, Any]:
    """Calibrate simulated cameras, one per seed, and compare with the truth."""
    parser = Parser(
        prog="actrec bench calibration-robot", description="Depth, hand-eye and floor calibrations against the truth."
    )
    parser.add_argument("--seeds", type=count, default=10, help="calibrations of each kind")
    parser.add_argument("--views", type=count, default=25, help="of each calibration (the floor takes 5)")
    args = parser.parse_args(arguments)
    rows = []
    for sensor in SENSORS:
        for infrared in (True, False):
            name = f"depth to color, {sensor}, {'infrared' if infrared else 'depth alone'}"
            rows.append(
                _robot_row(name, args.seeds, partial(_depth, views=args.views, sensor=sensor, infrared=infrared))
            )
    for mount in hand_eye.MOUNTS:
        rows.append(
            _robot_row(f"hand-eye, camera on the {mount}", args.seeds, partial(_arm, views=args.views, mount=mount))
        )
    for sensor in SENSORS:
        rows.append(_robot_row(f"floor and board, {sensor}", args.seeds, partial(_floor, sensor=sensor)))
    return {"seeds": args.seeds, "views": args.views, "calibrations": rows}


_Errors = tuple[tuple[float, float], float, float | None]
"""Distance in meters and angle in degrees from the truth; estimated standard deviation in m; bias error in m."""


def _robot_row(name: str, seeds: int, calibrate: Callable[[int], _Errors]) -> dict[str, Any]:
    errors = [calibrate(seed) for seed in range(seeds)]
    mm, degrees = 1e3 * np.array([distance for (distance, _), _, _ in errors]), np.array([a for (_, a), _, _ in errors])
    row = {
        "calibration": name,
        "mm mean": round(float(mm.mean()), 3),
        "mm worst": round(float(mm.max()), 3),
        "degrees mean": round(float(degrees.mean()), 4),
        "degrees worst": round(float(degrees.max()), 4),
        "stated mm": round(1e3 * float(np.mean([sigma for _, sigma, _ in errors])), 3),
    }
    if errors[0][2] is not None:
        bias = 1e3 * np.array([bias for _, _, bias in errors], np.float64)
        row |= {"bias mm mean": round(float(bias.mean()), 3), "bias mm worst": round(float(bias.max()), 3)}
    return row


def _depth(seed: int, views: int, sensor: str, infrared: bool) -> _Errors:
    rig = simulated.kinect(sensor=sensor, scale=SCALE, bias=BIAS)
    board = Board.of(columns=10, rows=7, square=0.06, marker=0.045)
    seen = simulated.simulate_rgbd_views(board, rig, views, seed, infrared)
    found = depth.calibrate(board, seen, depth.CameraPair(rig.color, rig.depth))
    error = pose_difference(found.geometry.to_color, rig.to_color)
    return error, float(np.linalg.norm(found.sigma_m)), abs(found.geometry.bias - BIAS)


def _arm(seed: int, views: int, mount: str) -> _Errors:
    arm, board = simulated.Arm.random(mount, seed), Board.of()
    seen = simulated.simulate_hand_eye_views(arm, board, _ARM_CAMERA, views, seed)
    found = hand_eye.calibrate(seen, _ARM_CAMERA, mount)
    return pose_difference(found.camera, arm.camera), float(np.linalg.norm(found.sigma_m)), None


def _floor(seed: int, sensor: str) -> _Errors:
    rig = simulated.kinect(sensor=sensor)
    board = Board.of(columns=7, rows=5, square=0.08, marker=0.06)
    room = simulated.Room.random(board, seed)
    random = np.random.default_rng(seed)
    views = []
    for number in range(FLOOR_VIEWS):
        seen = simulated.simulate_corners(board, rig.color, room.board(), rig.corner_px, random)
        views.append((seen, find_floor(Readings.of(room.depth(rig, seed, number), rig.depth))))
    found = floor.calibrate(board, views, room.placed, rig.color, rig.to_color)
    return pose_difference(found.camera, room.camera), float(np.linalg.norm(found.sigma_m)), None
