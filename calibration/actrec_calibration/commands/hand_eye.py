"""`actrec calibrate hand-eye`: a camera's place on an arm, or beside it."""

import argparse
import sys
from pathlib import Path
from typing import Any

from actrec.cli import arguments
from actrec.types import Intrinsics
from actrec.utils import calibration_files
from actrec.utils.calibration_files import COLOR, MOUNT, Mount, rectified
from actrec.utils.errors import ConfigError, DeviceError, InputError
from actrec_calibration import hand_eye, hand_views, report
from actrec_calibration.board import Board
from actrec_calibration.commands import options
from actrec_calibration.hand_views import HandConfig

_HAND_EYE = """\
--mount hand: the camera rides on the gripper, the board lies still; the result is camera → gripper (parent: gripper).
--mount base: the camera stands still, the gripper holds the board; the result is camera → base (parent: base).
Turn the hand by 20° to 60° about two axes or more, 15 times or more, the board large in the picture.

Live, the robot's poses come from TF (--base with --mount hand, --gripper with --mount base names the frame that is not
the parent). Move the hand as you like: a view is taken by itself whenever it rests in a new pose; Ctrl-C ends it early.
Pictures and poses are kept, and can be calibrated from as a FOLDER.

POSES (CSV or YAML) has one pose for each picture, gripper → base: the gripper's pose in the base frame, as robots show
it and as `ros2 run tf2_ros tf2_echo BASE GRIPPER` prints it. CSV: image,x,y,z,qx,qy,qz,qw or image,x,y,z,rx,ry,rz.

Example:
  actrec calibrate hand-eye --topic camera/color/image_raw --mount hand --parent tool0 --base base_link --serial 0123
  actrec calibrate hand-eye pictures --poses poses.csv --mount hand --parent tool0 --serial 0123
"""


def add(subparsers: Any) -> None:
    """Adds the command."""
    parser = report.add_command(subparsers, "hand-eye", "the camera's place on an arm, or beside it", _HAND_EYE)
    parser.add_argument("folder", nargs="?", metavar="FOLDER", help="pictures of the board")
    parser.add_argument("--mount", required=True, choices=hand_eye.MOUNTS, help="where the camera is")
    parser.add_argument("--parent", required=True, help="frame of the gripper (hand) or of the base (base), e.g. tool0")
    parser.add_argument("--child", default=report.OPTICAL, help="the camera's optical frame")
    parser.add_argument(
        "--intrinsics", type=Path, metavar="YAML", help="of the pictures (default: SERIAL_color.yaml, camera_info)"
    )
    expected = hand_eye.Errors()
    parser.add_argument(
        "--robot-mm",
        type=arguments.amount,
        default=1e3 * expected.metres,
        help="error (1σ) of the robot's position, mm",
    )
    parser.add_argument(
        "--robot-deg", type=arguments.amount, default=expected.degrees, help="error (1σ) of its orientation, degrees"
    )
    files = parser.add_argument_group("a folder's poses")
    files.add_argument("--poses", metavar="FILE", help="the robot's pose at each picture, see below")
    files.add_argument("--unit", choices=tuple(hand_eye.UNITS), default="m", help="of the poses' translations")
    files.add_argument("--inverted", action="store_true", help="the file has base → gripper")
    options.add_live(parser)
    frames = parser.add_argument_group("live poses, from TF")
    frames.add_argument("--base", metavar="FRAME", help="of the robot's base, with --mount hand, e.g. base_link")
    frames.add_argument("--gripper", metavar="FRAME", help="of its hand, with --mount base, e.g. tool0")
    frames.add_argument("--keep", type=Path, metavar="DIR", help="for pictures and poses (default: hand_eye_SERIAL)")
    options.add_settings(frames, HandConfig)
    options.add_board(parser)
    report.add_output(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Calibrates, writes SERIAL_mount.yaml, prints."""
    options.one_source(args)
    board, path = options.board_of(args), report.target(args, MOUNT)
    report.refuse_existing(path, args.overwrite)
    if board.ambiguous:
        raise InputError("this chessboard looks the same after half a turn: use a ChArUco board for hand-eye")
    views, camera = _of_folder(args, board) if args.folder else _live(args, board)
    errors = hand_eye.Errors(metres=args.robot_mm / 1e3, degrees=args.robot_deg)
    found = hand_eye.calibrate(views, camera, args.mount, errors)
    parent = "gripper" if args.mount == "hand" else "base"
    figures = {
        "file": str(path),
        "views": len(found.kept),
        f"camera_to_{parent}": report.pose_figures(found.camera, found.sigma_m, found.sigma_deg),
        "rms_px": round(found.rms, 3),
        "left_out": {name: f"{away:.1f} px" for name, away in found.rejected.items()},
    }
    calibration_files.write_mount(path, Mount(args.parent, args.child, found.camera), report.note("hand-eye", figures))
    report.report(args, figures)
    return 0


def _of_folder(args: argparse.Namespace, board: Board) -> tuple[list[hand_eye.HandEyeView], Intrinsics]:
    if not args.poses:
        raise ConfigError("a folder's pictures need the robot's poses: name a file of them with --poses")
    camera = report.intrinsics(args, args.intrinsics, COLOR, "--intrinsics")
    return hand_views.of_folder(args.folder, args.poses, board, camera, args.unit, args.inverted), camera


def _live(args: argparse.Namespace, board: Board) -> tuple[list[hand_eye.HandEyeView], Intrinsics]:
    base, gripper = _frames(args)
    options.select(args)
    config = options.settings(args, HandConfig)
    # A driver takes the camera's file by itself. Without one, it and a camera_info tell what the camera came with. The
    # file is of the images as they are taken: of rectified ones the camera_info alone tells.
    known = None
    raw = args.topic and not rectified(args.topic)
    if args.intrinsics or (raw and report.target(args, COLOR).is_file()):
        known = report.intrinsics(args, args.intrinsics, COLOR, "--intrinsics")
    keep = args.keep or Path(f"hand_eye_{args.serial}")
    with options.interruptible() as stopped, args.open_poses(base, gripper) as pose_at, options.live(args) as read:
        collector = hand_views.HandCollector(board, pose_at, config, keep)
        try:
            views, camera = hand_views.live(read, collector, stopped, known)
        except DeviceError as error:
            if not collector.taken:
                raise
            raise DeviceError(f"{error}; the views so far are in '{keep}': it can be calibrated from") from error
    print(f"{len(views)} views, kept in '{keep}' with {hand_views.POSES_FILE}", file=sys.stderr)
    if camera is None:
        raise InputError("no picture came: nothing is known of the camera")
    return views, camera


def _frames(args: argparse.Namespace) -> tuple[str, str]:
    """Frames of base and gripper: the parent is one of them."""
    given, option = (args.base, "--base") if args.mount == "hand" else (args.gripper, "--gripper")
    other, wrong = (args.gripper, "--gripper") if args.mount == "hand" else (args.base, "--base")
    if other:
        raise ConfigError(f"with --mount {args.mount} the {wrong[2:]} is --parent: give {option} instead of {wrong}")
    if not given:
        raise ConfigError(f"live, the robot's poses come from TF: name the frame of its {option[2:]} with {option}")
    return (given, args.parent) if args.mount == "hand" else (args.parent, given)
