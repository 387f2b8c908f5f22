"""`actrec calibrate depth`, `floor` and `points`: a depth camera, and a camera's place on a mobile robot."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from actrec.cli import arguments
from actrec.types import Intrinsics
from actrec.utils import calibration_files, config
from actrec.utils.calibration_files import COLOR, DEPTH, MOUNT, CameraFiles, DepthGeometry, Mount
from actrec.utils.errors import ConfigError, InputError
from actrec_calibration import depth as calibration_depth
from actrec_calibration import floor, live, points, report
from actrec_calibration.board import Board
from actrec_calibration.commands import options


def add(subparsers: Any) -> None:
    """Adds the commands."""
    for name, help_line, declare, run, epilog in (
        ("depth", "where the depth camera sits, and what its readings are off by", _add_depth, run_depth, _DEPTH),
        ("floor", "the camera's place on a mobile robot, by floor and board", _add_floor, run_floor, _FLOOR),
        ("points", "intrinsics from points in space and their pixels", _add_points, run_points, _POINTS),
    ):
        parser = report.add_command(subparsers, name, help_line, epilog)
        declare(parser)
        report.add_output(parser)
        parser.set_defaults(run=run)


# -- depth -------------------------------------------------------------------------------------------------------------

_DEPTH = """\
FOLDER holds color/, depth/ (16-bit PNG, millimetres, 0 for nothing) and, where the depth camera has them, ir/;
pictures that belong together have the same number, the last one in their names. Show the board near and far, tilted
about two axes, 25 times or more: with 15, depth of a stereo camera alone leaves 0.14° at worst.

Example:
  actrec calibrate depth views --serial 0123 --columns 10 --rows 7 --square 0.06 --marker 0.045
  actrec calibrate depth --driver realsense --serial 0123
  actrec calibrate depth --driver realsense --registered --serial 0123      # scale and bias alone
"""


def _add_depth(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="?", metavar="FOLDER", help="views, see below")
    _add_driver(parser, "views", 20)
    parser.add_argument(
        "--registered", action="store_true", help="depth is registered to color: find its scale and bias alone"
    )
    parser.add_argument(
        "--model",
        choices=calibration_depth.MODELS,
        default="scale",
        help="of the readings: scale and bias, bias, or none",
    )
    parser.add_argument(
        "--unit", type=arguments.amount, default=0.001, metavar="M", help="metres of one step of the depth images"
    )
    parser.add_argument("--color-intrinsics", type=Path, metavar="YAML", help="(default: SERIAL_color.yaml)")
    parser.add_argument("--depth-intrinsics", type=Path, metavar="YAML", help="(default: SERIAL_depth.yaml)")
    options.add_board(parser)


def _add_driver(parser: argparse.ArgumentParser, what: str, count: int) -> None:
    parser.add_argument("--driver", help=f"take the {what} from this running camera")
    parser.add_argument("--driver-option", action="append", default=[], metavar="KEY=VALUE", help="a setting of it")
    parser.add_argument(
        f"--{what}", type=arguments.count, default=count, help=f"how many to take from the driver (default: {count})"
    )


def run_depth(args: argparse.Namespace) -> int:
    """Calibrates, writes SERIAL_depth.yaml, prints."""
    _one_source(args)
    driver_options = _driver_options(args) if args.driver else {}
    board, path = options.board_of(args), report.target(args, DEPTH)
    known = calibration_files.load(args.serial, args.cameras)
    if known.geometry is not None or args.depth_intrinsics or args.driver:
        report.refuse_existing(path, args.overwrite)
    if args.registered:
        _refuse_corrected(known.geometry, path)
    if args.driver:
        known, cameras, views = _from_driver(args, driver_options, board, known)
    else:
        known, cameras, views = _from_folder(args, board, known)
    found = calibration_depth.calibrate(board, views, cameras, args.model)
    geometry = found.geometry
    if args.registered:
        assert known.geometry is not None
        geometry = DepthGeometry(known.geometry.to_color, geometry.scale, geometry.bias)
    figures = _depth_figures(found, path)
    assert known.depth is not None
    calibration_files.write_intrinsics(
        path, known.depth, f"{args.serial}_depth", geometry, report.note("depth", figures)
    )
    report.report(args, figures)
    return 0


def _one_source(args: argparse.Namespace) -> None:
    if bool(args.images) == bool(args.driver):
        raise ConfigError("name a folder of views or a camera with --driver: one of them")


def _refuse_other(told: CameraFiles, serial: str) -> None:
    if told.serial and told.serial != serial:
        raise ConfigError(f"the camera's serial number is {told.serial}, not {serial}: name that with --serial")


_Views = tuple[CameraFiles, calibration_depth.Cameras, list[calibration_depth.Pair]]


def _driver_options(args: argparse.Namespace) -> dict[str, Any]:
    """The driver's settings; without --registered its depth is to be left as it is read."""
    given = config.parse_pairs(args.driver_option, "driver option")
    if args.registered:
        return given
    if not options.takes(args.driver, "register"):
        raise ConfigError(f"driver {args.driver} gives registered depth alone: add --registered")
    return {**given, "register": False}


def _from_driver(args: argparse.Namespace, driver_options: dict[str, Any], board: Board, known: CameraFiles) -> _Views:
    """Views of a running camera; what no file says of it, it tells itself."""
    with options.interruptible() as stopped:
        told, views = live.live(args.driver, driver_options, board, args.views, stopped)
    _refuse_other(told, args.serial)
    if known.geometry is None or known.depth is None:
        known = told
    _refuse_unknown(known)
    assert told.color is not None and told.depth is not None and told.geometry is not None
    if not args.registered:
        return (
            replace(known, depth=told.depth),
            calibration_depth.Cameras(told.color, told.depth, None, told.geometry.to_color),
            views,
        )
    return known, calibration_depth.Cameras(told.color, told.color, np.eye(4)), views


def _from_folder(args: argparse.Namespace, board: Board, known: CameraFiles) -> _Views:
    depth = report.intrinsics(args, args.depth_intrinsics, DEPTH, "--depth-intrinsics")
    color = report.intrinsics(args, args.color_intrinsics, COLOR, "--color-intrinsics")
    known = replace(known, depth=depth)
    if args.registered:
        _refuse_unknown(known)
        cameras = calibration_depth.Cameras(color, color, np.eye(4))
        return known, cameras, live.read(args.images, board, (color, color), args.unit)
    start = None if known.geometry is None else known.geometry.to_color
    cameras = calibration_depth.Cameras(color, depth, None, start)
    return known, cameras, live.read(args.images, board, (color, depth), args.unit)


def _refuse_unknown(known: CameraFiles) -> None:
    if known.geometry is None or known.depth is None:
        raise InputError(
            f"where the depth camera {known.serial} sits is not known: calibrate with raw depth first, without "
            "--registered"
        )


def _refuse_corrected(known: DepthGeometry | None, path: Path) -> None:
    if known is not None and (known.scale, known.bias) != (1.0, 0.0):
        raise InputError(
            f"registered depth is corrected already, by the depth_scale and depth_bias of '{path}': set them to 1 and "
            "0, and take the views again"
        )


def _depth_figures(found: calibration_depth.Found, path: Path) -> dict[str, Any]:
    geometry = found.geometry
    figures: dict[str, Any] = {
        "file": str(path),
        "views": found.views,
        "depth_to_color": report.pose_figures(geometry.to_color, found.sigma_m, found.sigma_deg),
        "scale": round(geometry.scale, 6),
        "sigma_scale": round(found.sigma_scale, 6),
        "bias_mm": round(1e3 * geometry.bias, 3),
        "sigma_bias_mm": round(1e3 * found.sigma_bias, 3),
        "rms_color_px": round(found.rms_color, 3),
    }
    if np.isfinite(found.rms_infrared):
        figures["rms_infrared_px"] = round(found.rms_infrared, 3)
    return figures | {"residuals": found.rows, "left_out": found.rejected}


# -- floor -------------------------------------------------------------------------------------------------------------

_FLOOR = """\
FOLDER holds color/ and depth/ (16-bit PNG) as for `actrec calibrate depth`, one picture or more; with --driver a
running camera's frames are taken, their depth registered by the driver. The robot stands still.

The base frame has x forward, y left, z up, its origin --base-height over the floor. The board lies on the floor,
face up, its origin (the outer corner of its top left square) at x, y metres; yaw is the angle in degrees from the
robot's x axis to the print's left-to-right, counter-clockwise: -90 where the print stands upright for who looks ahead.

Example:
  actrec calibrate floor --driver realsense --board-pose=0.9,0.25,-90 --parent base_footprint --serial 0123
  actrec calibrate floor views --board-pose=0.9,0.25,-90 --parent base_footprint --registered --serial 0123
"""


def _add_floor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="?", metavar="FOLDER", help="views, see below")
    _add_driver(parser, "frames", 10)
    parser.add_argument("--board-pose", required=True, metavar="X,Y,YAW", help="where the board lies, see below")
    parser.add_argument("--thickness", type=arguments.finite, default=0.0, metavar="M", help="of the board")
    parser.add_argument(
        "--base-height", type=arguments.finite, default=0.0, metavar="M", help="of the base frame over the floor"
    )
    parser.add_argument("--up", default="0,-1,0", metavar="X,Y,Z", help="roughly where up is in the optical frame")
    parser.add_argument("--registered", action="store_true", help="depth is registered to color")
    parser.add_argument(
        "--unit", type=arguments.amount, default=0.001, metavar="M", help="metres of one step of the depth images"
    )
    parser.add_argument("--parent", required=True, help="the robot's frame, e.g. base_link")
    parser.add_argument("--child", default=report.OPTICAL, help="the camera's optical frame")
    parser.add_argument("--color-intrinsics", type=Path, metavar="YAML", help="(default: SERIAL_color.yaml)")
    options.add_board(parser)


def run_floor(args: argparse.Namespace) -> int:
    """Calibrates, writes SERIAL_mount.yaml, prints."""
    board, path = options.board_of(args), report.target(args, MOUNT)
    report.refuse_existing(path, args.overwrite)
    _one_source(args)
    lying = floor.Lying(*_three(args.board_pose, "--board-pose"), thickness=args.thickness)
    up = _three(args.up, "--up")
    if not any(up):
        raise ConfigError("--up is 0,0,0, which is no direction: 0,-1,0 for a camera that stands upright")
    color, depth, geometry, views = _floor_driver(args, board) if args.driver else _floor_folder(args, board)
    seen = []
    for view in views:
        assert view.depth is not None
        seen.append((view.color, floor.find_floor(geometry.scale * view.depth + geometry.bias, depth, up)))
    found = floor.calibrate(board, seen, lying, color, geometry.to_color, args.base_height)
    first = seen[0][1]
    figures = {
        "file": str(path),
        "views": len(seen),
        "height_m": round(first.height, 4),
        "pitch_down_deg": round(first.pitch, 3),
        "roll_deg": round(first.roll, 3),
        "camera_to_base": report.pose_figures(found.camera, found.sigma_m, found.sigma_deg),
        "rms_px": round(found.rms, 3),
        "board_over_floor_mm": round(1e3 * found.apart_m, 2),
        "board_to_floor_deg": round(found.apart_deg, 3),
    }
    calibration_files.write_mount(path, Mount(args.parent, args.child, found.camera), report.note("floor", figures))
    report.report(args, figures)
    return 0


_Standing = tuple[Intrinsics, Intrinsics, DepthGeometry, list[calibration_depth.Pair]]


def _floor_driver(args: argparse.Namespace, board: Board) -> _Standing:
    """Frames of a running camera, whose depth is registered."""
    given = config.parse_pairs(args.driver_option, "driver option")
    if given.get("register") is False:
        raise ConfigError("the floor is found in registered depth: leave driver option 'register' out")
    told, views = live.standing(args.driver, given, board, args.frames)
    _refuse_other(told, args.serial)
    assert told.color is not None
    return told.color, told.color, DepthGeometry(np.eye(4)), views


def _floor_folder(args: argparse.Namespace, board: Board) -> _Standing:
    color = report.intrinsics(args, args.color_intrinsics, COLOR, "--color-intrinsics")
    depth, geometry = color, DepthGeometry(np.eye(4))
    if not args.registered:
        known = calibration_files.load(args.serial, args.cameras)
        if known.depth is None or known.geometry is None:
            raise InputError(
                f"where the depth camera {args.serial} sits is not known: run actrec calibrate depth first, or add "
                "--registered where depth is registered to color"
            )
        depth, geometry = known.depth, known.geometry
    return color, depth, geometry, live.read(args.images, board, (color, depth), args.unit)


def _three(text: str, option: str) -> tuple[float, float, float]:
    try:
        a, b, c = (float(word) for word in text.split(","))
        if not np.isfinite([a, b, c]).all():
            raise ValueError("not finite")
    except ValueError as error:
        raise ConfigError(f"{option} is '{text}', expected three numbers with commas, e.g. 0.9,0.25,-90") from error
    return a, b, c


# -- points ------------------------------------------------------------------------------------------------------------

_POINTS = """\
For recordings that come without a calibration but give points in space with their pixels: CSV with a header x,y,z,u,v
(metres in a right-handed frame, pixels), or NTU RGB+D's .skeleton files (turned back from the dataset's mirroring).
--pose free seeks the camera's pose as well; shift only its place (points in the optical frame of a camera beside it);
fixed takes the points as given in its own optical frame.

Example:
  actrec calibrate points S001C001*.skeleton --part depth --pose fixed --serial ntu_s001c001
  actrec calibrate points corners.csv --size 640,480 --serial 0123
"""


def _add_points(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help="CSV or .skeleton, see below")
    parser.add_argument("--part", choices=(COLOR, DEPTH), default=COLOR, help="which camera's pixels, and which file")
    parser.add_argument("--size", metavar="W,H", help="of the picture in pixels (known for .skeleton)")
    parser.add_argument("--pose", choices=points.POSES, default="free", help="what of the camera's pose is sought")


def run_points(args: argparse.Namespace) -> int:
    """Finds the intrinsics, writes them, prints."""
    from actrec_calibration import points

    path = report.target(args, args.part)
    report.refuse_existing(path, args.overwrite)
    given = points.read([Path(file) for file in args.files], args.part, args.size)
    found = points.calibrate(given.points, given.pixels, given.size, args.pose)
    camera = found.camera
    figures = {
        "file": str(path),
        **{name: round(getattr(camera, name), 3) for name in ("fx", "fy", "cx", "cy")},
        "sigma_px": [round(float(value), 3) for value in found.sigma],
        "rms_px": round(found.rms, 3),
        "points": f"{found.used} of {found.given}",
        "points_to_camera": report.pose_figures(found.pose, np.zeros(3), np.zeros(3)),
    }
    del figures["points_to_camera"]["sigma_mm"], figures["points_to_camera"]["sigma_deg"]
    calibration_files.write_intrinsics(path, camera, f"{args.serial}_{args.part}", note=report.note("points", figures))
    report.report(args, figures)
    return 0
