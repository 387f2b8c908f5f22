"""`actrec calibrate depth`, `hand-eye` and `floor`: the depth camera, and the camera's pose on a robot."""

import argparse
import contextlib
import importlib
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from actrec import cameras
from actrec.cli import add_driver, amount, count, driver_options, finite, interruptible, numbers, refuse_unused, waiting
from actrec.cli.calibrate import lens
from actrec.cli.calibrate.lens import load, log
from actrec.perception.floor_plane import Readings, find_floor
from actrec.types import Intrinsics
from actrec.utils import calibration_files
from actrec.utils.calibration_files import (
    COLOR,
    DEPTH,
    MOUNT,
    CameraFiles,
    DepthGeometry,
    Mount,
    quaternion,
    read_geometry,
    rectified,
    scale_to_size,
)
from actrec.utils.errors import ConfigError, InputError
from actrec.utils.gravity import angles_from_up
from actrec.utils.waiting import Waiting

OPTICAL_FRAME = "camera_color_optical_frame"
RAW_FIRST = "calibrate with raw depth first, without --registered"
UNIT_M = 0.001
VIEWS, FRAMES = 20, 10

_DEPTH = """\
FOLDER contains color/, depth/ (16-bit PNG, mm, 0 if missing) and, if the depth camera has them, ir/; images that belong
together have the same number, the last one in their names. Show the board near and far, tilted about two axes, 25 times
or more: with 15, depth of a stereo camera alone leaves an error of up to 0.14°.

Live, a view is taken whenever the board is held still in a new pose. The views are saved, in a folder that can be used
as FOLDER. There, color.yaml and depth.yaml are the intrinsics, before the camera's files.

Example:
  actrec calibrate depth views --serial 0123 --columns 10 --rows 7 --square 0.06 --marker 0.045
  actrec calibrate depth --driver realsense --serial 0123
  actrec calibrate depth --driver realsense --registered --serial 0123      # scale and bias only
"""
_HAND_EYE = """\
--mount hand: the camera is on the gripper, the board stands still; the result is camera → gripper (parent: gripper).
--mount base: the camera stands still, the gripper holds the board; the result is camera → base (parent: base).
Rotate the hand by 20° to 60° about two axes or more, 15 times or more, the board large in the image.

Live, the robot's poses come from TF (--base with --mount hand, --gripper with --mount base names the frame that is not
the parent). Move the hand: a view is taken whenever it rests in a new pose; Ctrl-C ends it early. Images and poses are
saved, in a folder that can be used as FOLDER.

POSES (CSV) has one pose per image, gripper → base: the gripper's pose in the base frame, as robots show it and
as `ros2 run tf2_ros tf2_echo BASE GRIPPER` prints it. CSV: image,x,y,z,qx,qy,qz,qw or image,x,y,z,rx,ry,rz.

Example:
  actrec calibrate hand-eye --topic camera/color/image_raw --mount hand --parent tool0 --base base_link --serial 0123
  actrec calibrate hand-eye images --poses poses.csv --mount hand --parent tool0 --serial 0123
"""
_FLOOR = """\
FOLDER contains color/ and depth/ (16-bit PNG) as for `actrec calibrate depth`, one image or more; with --driver the
frames of a running camera are used, with the driver's registered depth. The robot stands still.

The base frame has x forward, y left, z up, its origin --base-height above the floor. The board lies on the floor, face
up, its origin (the outer corner of its top left square) at x, y in m; yaw is the angle in degrees from the robot's x
axis to the print's left-to-right, counter-clockwise: -90 if the print is upright for a viewer who looks ahead.

Example:
  actrec calibrate floor --driver realsense --board-pose=0.9,0.25,-90 --parent base_footprint --serial 0123
  actrec calibrate floor views --board-pose=0.9,0.25,-90 --parent base_footprint --registered --serial 0123
"""


def add_commands(commands: Any) -> None:
    """Add the parsers."""
    help_line = "calibrate the depth camera's pose and readings"
    _add_depth(lens.add_command(commands, "depth", help_line, run_depth, _DEPTH))
    help_line = "calibrate the camera's pose on an arm, or beside it"
    _add_hand_eye(lens.add_command(commands, "hand-eye", help_line, run_hand_eye, _HAND_EYE))
    help_line = "calibrate the camera's pose on a mobile robot, by floor and board"
    _add_floor(lens.add_command(commands, "floor", help_line, run_floor, _FLOOR))


def _add_rgbd(parser: argparse.ArgumentParser, counted: str, number: int) -> None:
    """Add the source of color and depth images."""
    parser.add_argument("images", nargs="?", metavar="FOLDER", help="views, see below")
    add_driver(parser, f"take the {counted} from this running camera")
    number_help = f"{counted} from the driver (default: {number})"
    parser.add_argument(f"--{counted}", type=count, metavar="N", help=number_help)
    unit = f"m per step of the depth images (default: {UNIT_M:g})"
    parser.add_argument("--unit", type=amount, metavar="M", help=unit)
    parser.add_argument("--color-intrinsics", type=Path, metavar="YAML", help="(default: SERIAL_color.yaml)")
    parser.add_argument("--registered", action="store_true", help="depth is registered to color")


def _check_source(args: argparse.Namespace, of_driver: str, of_folder: str) -> None:
    """Raise ConfigError unless one source is given, without the options of the other one."""
    if bool(args.images) == bool(args.driver):
        raise ConfigError("name a folder of views or a camera with --driver: one of them")
    driver_options(args)
    unused, where = (of_folder, "with --driver") if args.driver else (of_driver, "with a FOLDER")
    refuse_unused(args, unused, where)


def _intrinsics(args: argparse.Namespace, given: Path | None, part: str, option: str) -> Intrinsics:
    """Read the given intrinsics file, or the camera's own; raise InputError if there is none."""
    path = given or calibration_files.path_of(args.serial, part)
    if given is None and not path.is_file():
        raise InputError(f"no intrinsics '{path}': run actrec calibrate intrinsics first, or name a file with {option}")
    return calibration_files.from_yaml(path)


# -- depth -------------------------------------------------------------------------------------------------------------


def _add_depth(parser: argparse.ArgumentParser) -> None:
    _add_rgbd(parser, "views", VIEWS)
    keep = "for views from the driver (default: depth_SERIAL)"
    parser.add_argument("--keep", type=Path, metavar="DIR", help=keep)
    models = load("depth").MODELS
    parser.add_argument("--model", choices=models, default="scale", help="correction: scale and bias, bias, or none")
    parser.add_argument("--depth-intrinsics", type=Path, metavar="YAML", help="(default: SERIAL_depth.yaml)")
    lens.add_board(parser)
    lens.add_output(parser)


def run_depth(args: argparse.Namespace) -> int:
    """Calibrate and write SERIAL_depth.yaml."""
    _check_source(args, "views keep", "color_intrinsics depth_intrinsics unit")
    if args.registered and driver_options(args).get("register") is False:
        raise ConfigError("--registered is for registered depth: omit the driver option 'register'")
    board, path = lens.board_of(args), calibration_files.path_of(args.serial, DEPTH)
    known = _known(args, path)
    if args.driver and not lens.driver_accepts(args.driver, "register"):
        only = f"driver {args.driver} has registered depth only"
        if known.geometry is None:
            raise ConfigError(f"{only}, and the extrinsics are unknown: calibrate with a FOLDER of raw depth first")
        if not args.registered:
            raise ConfigError(f"{only}: add --registered")
    if args.driver or known.geometry is not None or _lens_file(args, DEPTH) is not None:
        lens.refuse_existing(path, args.overwrite)
    if args.registered and known.geometry is not None and (known.geometry.scale, known.geometry.bias) != (1.0, 0.0):
        raise InputError(
            f"registered depth is corrected already, by the depth_scale and depth_bias of '{path}': set them to 1 and "
            "0, and take the views again"
        )
    read = _depth_from_driver if args.driver else _depth_from_folder
    known, pair, views = read(args, board, known)
    result = load("depth").calibrate(board, views, pair, args.model)
    geometry = result.geometry
    if args.registered:
        assert known.geometry is not None
        geometry = DepthGeometry(known.geometry.to_color, geometry.scale, geometry.bias)
    # Registered depth does not determine it.
    sigma = (None, None) if args.registered else (result.sigma_m, result.sigma_deg)
    figures: dict[str, Any] = {
        "file": str(path),
        "views": result.views,
        "depth_to_color": lens.pose_figures(geometry.to_color, *sigma),
        "scale": round(geometry.scale, 6),
        "sigma_scale": round(result.sigma_scale, 6),
        "bias_mm": round(1e3 * geometry.bias, 3),
        "sigma_bias_mm": round(1e3 * result.sigma_bias, 3),
        "rms_color_px": round(result.rms_color, 3),
    }
    if np.isfinite(result.rms_infrared):
        figures["rms_infrared_px"] = round(result.rms_infrared, 3)
    figures |= {"residuals": result.rows, "left_out": result.rejected}
    assert known.depth is not None
    note = lens.note_of("depth", figures)
    calibration_files.write_intrinsics(path, known.depth, f"{args.serial}_depth", geometry, note)
    lens.print_figures(args, figures)
    return 0


def _known(args: argparse.Namespace, path: Path) -> CameraFiles:
    """Return the lenses and the geometry by the camera's files, and by the views' own files.

    New extrinsics replace the depth file `path`: a part of it that is damaged is None then.
    """
    if args.driver and driver_options(args).get("calibration") == "factory":  # the driver ignores the files
        return CameraFiles(args.serial)
    if args.overwrite and not args.registered:
        color = calibration_files.load(args.serial, parts=(COLOR,)).color
        depth, geometry = lens.kept(path, calibration_files.from_yaml), lens.kept(path, read_geometry)
        known = CameraFiles(args.serial, color, depth, geometry)
    else:
        known = calibration_files.load(args.serial, parts=(COLOR, DEPTH))
    file = _lens_file(args, DEPTH)
    return replace(known, geometry=(read_geometry(file) if file else None) or known.geometry)


def _lens_file(args: argparse.Namespace, part: str) -> Path | None:
    """Return the intrinsics file of an option, or beside saved views; None if the camera's own is used."""
    given: Path | None = getattr(args, f"{part}_intrinsics", None)
    saved = Path(args.images).expanduser() / f"{part}.yaml" if args.images else None
    return given or (saved if saved and saved.is_file() else None)


def _depth_from_driver(args: argparse.Namespace, board: Any, known: CameraFiles) -> tuple[CameraFiles, Any, list[Any]]:
    """Collect and save views of a running camera; its own calibration replaces missing files."""
    module, found = load("views"), list[Any]()
    folder = module.new_folder(Path(f"depth_{args.serial}"), args.keep)
    options = lens.driver_settings(args, use_files=args.registered)
    if not args.registered:
        options["register"] = False
    with interruptible() as stopped, cameras.create(args.driver, **options) as camera:
        own = camera.calibration()
        module.check_serial(own.serial, args.serial)
        known, pair = (_registered_pair if args.registered else _raw_pair)(known, own)
        assert known.depth is not None
        with lens.name_saved_views(found, folder):
            for view in module.collect_rgbd(camera, args.driver, board, args.views or VIEWS, stopped, folder, log):
                if not found:
                    write = calibration_files.write_intrinsics
                    write(folder / "color.yaml", pair.color, f"{args.serial}_color")
                    write(folder / "depth.yaml", known.depth, f"{args.serial}_depth", known.geometry)
                found.append(view)
        if stopped.is_set() and not found:
            raise KeyboardInterrupt
    log(f"{len(found)} views, saved in '{folder}'" if found else "no views")
    return known, pair, found


def _registered_pair(known: CameraFiles, own: CameraFiles) -> tuple[CameraFiles, Any]:
    """Return the files, or a running camera's own calibration, and its cameras if it registers depth."""
    known = own if known.geometry is None or known.depth is None else known
    return known, load("depth").CameraPair(own.color, own.color, np.eye(4))


def _raw_pair(known: CameraFiles, own: CameraFiles) -> tuple[CameraFiles, Any]:
    """Return the calibration at the size of a running camera's raw images, by its files or its own, and its cameras."""
    assert own.color is not None and own.depth is not None and own.geometry is not None
    color, depth, geometry = own.color, own.depth, known.geometry or own.geometry
    if known.color is not None:
        color = scale_to_size(known.color, color.width, color.height)
    if known.depth is not None:
        try:
            depth = scale_to_size(known.depth, depth.width, depth.height)
        except InputError as error:  # it is replaced
            log(f"not kept: the depth camera's lens: {error}")
    known = replace(known, color=color, depth=depth, geometry=geometry)
    return known, load("depth").CameraPair(color, depth, None, geometry.to_color)


def _depth_from_folder(args: argparse.Namespace, board: Any, known: CameraFiles) -> tuple[CameraFiles, Any, list[Any]]:
    depth = _intrinsics(args, _lens_file(args, DEPTH), DEPTH, "--depth-intrinsics")
    color = _intrinsics(args, _lens_file(args, COLOR), COLOR, "--color-intrinsics")
    known, pair, read = replace(known, depth=depth), load("depth").CameraPair, load("views").read_rgbd_folder
    if args.registered:
        _check_extrinsics_known(known, RAW_FIRST)
        return known, pair(color, color, np.eye(4)), read(args.images, board, (color, color), args.unit or UNIT_M)
    initial = None if known.geometry is None else known.geometry.to_color
    return known, pair(color, depth, None, initial), read(args.images, board, (color, depth), args.unit or UNIT_M)


def _check_extrinsics_known(known: CameraFiles, remedy: str) -> None:
    if known.geometry is None or known.depth is None:
        raise InputError(f"the extrinsics of the depth camera {known.serial} are unknown: {remedy}")


def _write_mount(args: argparse.Namespace, command: str, pose: np.ndarray, figures: dict[str, Any]) -> int:
    mount = Mount(args.parent, args.child, pose, moving=getattr(args, "mount", "") == "hand")
    calibration_files.write_mount(Path(figures["file"]), mount, lens.note_of(command, figures))
    lens.print_figures(args, figures)
    values = [f"{value:.6f}" for value in (*pose[:3, 3], *quaternion(pose[:3, :3]))]
    options = dict(zip(("x", "y", "z", "qx", "qy", "qz", "qw"), values, strict=True))
    options |= {"frame-id": shlex.quote(args.parent), "child-frame-id": shlex.quote(args.child)}
    log(
        f"camera_node publishes this pose; beside a vendor's node, which must not publish '{args.child}' itself, run: "
        f"ros2 run tf2_ros static_transform_publisher {' '.join(f'--{key} {options[key]}' for key in options)}"
    )
    return 0


# -- hand-eye ----------------------------------------------------------------------------------------------------------


def _add_hand_eye(parser: argparse.ArgumentParser) -> None:
    hand_eye = load("hand_eye")
    parser.add_argument("folder", nargs="?", metavar="FOLDER", help="images of the board")
    parser.add_argument("--mount", required=True, choices=hand_eye.MOUNTS, help="place of the camera")
    parser.add_argument("--parent", required=True, help="frame of the gripper (hand) or of the base (base), e.g. tool0")
    parser.add_argument("--child", default=OPTICAL_FRAME, help="the camera's optical frame")
    default = "of the images (default: color.yaml of FOLDER, SERIAL_color.yaml, camera_info)"
    parser.add_argument("--intrinsics", type=Path, metavar="YAML", help=default)
    noise = hand_eye.NoiseModel()
    position, orientation = "error (1σ) of the robot's position, mm", "error (1σ) of its orientation, degrees"
    parser.add_argument("--robot-mm", type=amount, default=1e3 * noise.meters, help=position)
    parser.add_argument("--robot-deg", type=amount, default=noise.degrees, help=orientation)
    files = parser.add_argument_group("poses of a folder")
    files.add_argument("--poses", metavar="FILE", help="the robot's pose at each image, see below")
    files.add_argument("--unit", choices=tuple(hand_eye.UNITS), help="of the poses' translations (default: m)")
    files.add_argument("--inverted", action="store_true", help="the file contains base → gripper")
    lens.add_live(parser)
    frames = parser.add_argument_group("live poses, from TF")
    frames.add_argument("--base", metavar="FRAME", help="of the robot's base, with --mount hand, e.g. base_link")
    frames.add_argument("--gripper", metavar="FRAME", help="of its hand, with --mount base, e.g. tool0")
    frames.add_argument("--keep", type=Path, metavar="DIR", help="for images and poses (default: hand_eye_SERIAL)")
    lens.add_settings(frames, hand_eye.HandConfig)
    lens.add_board(parser)
    lens.add_output(parser)


def run_hand_eye(args: argparse.Namespace) -> int:
    """Calibrate and write SERIAL_mount.yaml."""
    hand_eye = load("hand_eye")
    lens.select_source(args)
    if args.folder:
        refuse_unused(args, "base gripper keep views turned shifted wait", "with a FOLDER")
    else:
        refuse_unused(args, "poses unit inverted", "live, where the robot's poses come from TF")
    board, path = lens.board_of(args), lens.target(args, MOUNT)
    if board.ambiguous:
        raise InputError("this chessboard looks the same after half a turn: use a ChArUco board for hand-eye")
    views, camera = _hand_eye_from_folder(args, board) if args.folder else _hand_eye_live(args, board)
    noise = hand_eye.NoiseModel(meters=args.robot_mm / 1e3, degrees=args.robot_deg)
    result = hand_eye.calibrate(views, camera, args.mount, noise)
    parent = "gripper" if args.mount == "hand" else "base"
    figures = {
        "file": str(path),
        "views": len(result.used),
        f"camera_to_{parent}": lens.pose_figures(result.camera, result.sigma_m, result.sigma_deg),
        "rms_px": round(result.rms, 3),
        "left_out": {name: f"{error:.1f} px" for name, error in result.rejected.items()},
    }
    return _write_mount(args, "hand-eye", result.camera, figures)


def _hand_eye_from_folder(args: argparse.Namespace, board: Any) -> tuple[list[Any], Intrinsics]:
    hand_eye = load("hand_eye")
    if not args.poses:
        raise ConfigError("a folder of images needs the robot's poses: name their file with --poses")
    folder, poses, module = Path(args.folder).expanduser(), Path(args.poses), load("views")
    height, width = module.read_image(module.list_images(folder)[0]).color.shape[:2]
    saved = folder / hand_eye.LENS_FILE
    given = args.intrinsics or (saved if saved.is_file() else None)
    camera = scale_to_size(_intrinsics(args, given, COLOR, "--intrinsics"), width, height)
    views, without_pose = hand_eye.read_folder(folder, poses, board, camera, args.unit or "m", args.inverted)
    if without_pose:
        log(f"images without a pose in '{args.poses}': {', '.join(without_pose)}")
    return views, camera


def _hand_eye_live(args: argparse.Namespace, board: Any) -> tuple[list[Any], Intrinsics]:
    hand_eye = load("hand_eye")
    base, gripper = _frames(args)
    hand_config = lens.settings(args, hand_eye.HandConfig)
    # A driver loads the camera's file itself. The file is of raw images: for rectified ones only camera_info is right.
    known = None
    raw_topic = args.topic and not rectified(args.topic)
    if args.intrinsics or (raw_topic and calibration_files.path_of(args.serial, COLOR).is_file()):
        known = _intrinsics(args, args.intrinsics, COLOR, "--intrinsics")
    folder = load("views").new_folder(Path(f"hand_eye_{args.serial}"), args.keep)
    with contextlib.ExitStack() as stack:
        stopped = stack.enter_context(interruptible())
        pose_at = stack.enter_context(open_poses(base, gripper, waiting(args, stopped)))
        read = stack.enter_context(lens.open_live(args, stopped))
        collector = hand_eye.HandEyeCollector(board, pose_at, hand_config, folder)
        with lens.name_saved_views(collector.views, folder):
            views, camera = hand_eye.collect(read, collector, stopped, known, log)
    log(f"{len(views)} views, saved in '{folder}' with {hand_eye.POSES_FILE}" if views else "no views")
    if camera is None:
        raise InputError("no image arrived: the camera is unknown")
    return views, camera


def open_poses(base: str, gripper: str, waiting: Waiting) -> contextlib.AbstractContextManager[Any]:
    """Listen to TF for a robot's poses and wait for the first; this imports ROS."""
    return importlib.import_module("actrec_nodes.calibration_node").robot_poses(base, gripper, waiting)


def _frames(args: argparse.Namespace) -> tuple[str, str]:
    """Return the frames of base and gripper; the parent is one of them."""
    on_hand = args.mount == "hand"
    given, option = (args.base, "base") if on_hand else (args.gripper, "gripper")
    other, parent = (args.gripper, "gripper") if on_hand else (args.base, "base")
    if other:
        raise ConfigError(f"with --mount {args.mount} the {parent} is --parent: give --{option} instead of --{parent}")
    if not given:
        raise ConfigError(f"live, the robot's poses come from TF: name the frame of its {option} with --{option}")
    return (given, args.parent) if on_hand else (args.parent, given)


# -- floor -------------------------------------------------------------------------------------------------------------


def _add_floor(parser: argparse.ArgumentParser) -> None:
    _add_rgbd(parser, "frames", FRAMES)
    height = "of the base frame above the floor"
    parser.add_argument(
        "--board-pose", required=True, type=numbers(3), metavar="X,Y,YAW", help="of the board, see below"
    )
    parser.add_argument("--thickness", type=finite, default=0.0, metavar="M", help="of the board")
    parser.add_argument("--base-height", type=finite, default=0.0, metavar="M", help=height)
    up = "approximate up direction in the optical frame"
    parser.add_argument("--up", default="0,-1,0", type=numbers(3), metavar="X,Y,Z", help=up)
    parser.add_argument("--parent", required=True, help="the robot's frame, e.g. base_link")
    parser.add_argument("--child", default=OPTICAL_FRAME, help="the camera's optical frame")
    lens.add_board(parser)
    lens.add_output(parser)


def run_floor(args: argparse.Namespace) -> int:
    """Calibrate and write SERIAL_mount.yaml."""
    floor = load("floor")
    board, path = lens.board_of(args), lens.target(args, MOUNT)
    _check_source(args, "frames", "color_intrinsics unit")
    options = lens.driver_settings(args) if args.driver else {}
    if options.get("register") is False:
        raise ConfigError("the floor is detected in registered depth: omit the driver option 'register'")
    placed = floor.FloorBoard(*args.board_pose, thickness=args.thickness)
    if not any(args.up):
        raise ConfigError("--up is 0,0,0, which is no direction: use 0,-1,0 for an upright camera")
    if args.driver:
        camera, frames = load("views").capture_static_scene(args.driver, options, board, args.frames or FRAMES)
        load("views").check_serial(camera.serial, args.serial)
        color, depth, geometry = camera.color, camera.color, DepthGeometry(np.eye(4))
    else:
        color, depth, geometry = _floor_cameras(args)
        frames = load("views").read_rgbd_folder(args.images, board, (color, depth), args.unit or UNIT_M)
    readings = (Readings.of(geometry.scale * frame.depth + geometry.bias, depth) for frame in frames)
    planes = [find_floor(each, args.up) for each in readings]
    views = [(frame.color, plane) for frame, plane in zip(frames, planes, strict=True)]
    result = floor.calibrate(board, views, placed, color, geometry.to_color, args.base_height)
    roll, pitch = angles_from_up(result.camera[2, :3])  # of the color camera, as Mount.up
    figures = {
        "file": str(path),
        "views": len(views),
        "height_m": round(float(result.camera[2, 3]) + args.base_height, 4),
        "pitch_down_deg": round(pitch, 3),
        "roll_deg": round(roll, 3),
        "camera_to_base": lens.pose_figures(result.camera, result.sigma_m, result.sigma_deg),
        "rms_px": round(result.rms, 3),
        "board_over_floor_mm": round(1e3 * result.board_offset_m, 2),
        "board_to_floor_deg": round(result.board_angle_deg, 3),
    }
    return _write_mount(args, "floor", result.camera, figures)


def _floor_cameras(args: argparse.Namespace) -> tuple[Intrinsics, Intrinsics, DepthGeometry]:
    """Return the intrinsics of a folder's color and depth images, and their geometry."""
    color = _intrinsics(args, _lens_file(args, COLOR), COLOR, "--color-intrinsics")
    if args.registered:
        return color, color, DepthGeometry(np.eye(4))
    known = calibration_files.load(args.serial, parts=(COLOR, DEPTH))
    if saved := _lens_file(args, DEPTH):
        geometry = read_geometry(saved) or known.geometry
        known = replace(known, depth=calibration_files.from_yaml(saved), geometry=geometry)
    _check_extrinsics_known(known, "run actrec calibrate depth first, or add --registered for registered depth")
    assert known.depth is not None and known.geometry is not None
    return color, known.depth, known.geometry
