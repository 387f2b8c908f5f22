"""`actrec calibrate board`, `intrinsics` and `check`: one camera and a board."""

import argparse
import dataclasses
import json
import sys
from datetime import date
from pathlib import Path
from typing import Any

from actrec.types import Intrinsics
from actrec.utils import calibration_files
from actrec.utils.calibration_files import COLOR, DEPTH, from_yaml, path_of
from actrec.utils.errors import ConfigError, InputError
from actrec_calibration import board as calibration_board
from actrec_calibration import report
from actrec_calibration.board import PAPERS, described
from actrec_calibration.commands import options
from actrec_calibration.commands.options import Gathered, gather
from actrec_calibration.coverage import CoverageConfig, coverage
from actrec_calibration.holding import Check, CheckConfig, check
from actrec_calibration.intrinsics import Calibration, IntrinsicsConfig, calibrate

CHECK_COVERAGE = CoverageConfig(views=10, filled=0.3, tilted=1, near=0.4, zoom=1.2)
"""Less than a calibration wants: a check only asks whether the lens is still the same."""


def add(subparsers: Any) -> None:
    """Adds the parsers of these commands."""
    _add_board(subparsers)
    _add_intrinsics(subparsers)
    _add_check(subparsers)


def _parser(subparsers: Any, name: str, what: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=what,
        description=f"{what[0].upper()}{what[1:]}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def _add_board(subparsers: Any) -> None:
    parser = _parser(subparsers, "board", "write a board to print at its true size")
    parser.add_argument("--out", required=True, metavar="FILE", help="board.pdf (exact edges) or board.png")
    parser.add_argument("--paper", choices=tuple(PAPERS), help="of a PDF (default: the smallest that fits)")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
    options.add_board(parser)
    parser.epilog = (
        "Print at 100 % (never 'fit to page'), glue it to something flat, and measure a square.\n\n"
        "Examples:\n"
        "  actrec calibrate board --out board.pdf\n"
        "  actrec calibrate board --out large.pdf --paper a3 --square 0.045 --marker 0.03\n"
        "  actrec calibrate board --out chess.pdf --kind chessboard --square 0.025"
    )
    parser.set_defaults(run=run_board)


def run_board(args: argparse.Namespace) -> int:
    """Writes the board."""
    board = options.board_of(args)
    out = Path(args.out).expanduser()
    paper = calibration_board.write(board, out, args.paper)
    width, height = (round(side * 1000, 1) for side in board.size)
    if args.json:
        said = {"file": str(out), "paper": paper, "width_mm": width, "height_mm": height, "board": described(board)}
        print(json.dumps(said))
    else:
        on = f" on {paper.upper()}" if paper else ""
        print(f"{out}: {described(board)}, {width:g} × {height:g} mm{on}")
        print("print it at 100 %, glue it to something flat, and measure a square; give --square as measured")
    if board.ambiguous:
        print("this chessboard looks the same upside down: good for intrinsics, not for poses", file=sys.stderr)
    return 0


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", metavar="FOLDER", help="pictures of the board, 20 or more")
    parser.add_argument("--serial", help="of the camera; read from --driver-option serial=… where it is there")
    parser.add_argument("--part", choices=(COLOR, DEPTH), default=COLOR, help="which of its lenses (default: color)")
    report.add_cameras(parser)
    parser.add_argument("--report", metavar="DIR", help="default: calibration_SERIAL_PART here")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options.add_live(parser)
    parser.add_argument(
        "--preview", metavar="FILE", help="keep writing the live image with what is missing here (.jpg)"
    )
    options.add_board(parser)


def _add_intrinsics(subparsers: Any) -> None:
    parser = _parser(subparsers, "intrinsics", "calibrate a camera's lens with a board")
    _add_source(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace the calibration there is")
    options.add_settings(parser.add_argument_group("the calibration"), IntrinsicsConfig)
    parser.epilog = (
        "Examples:\n"
        "  actrec calibrate intrinsics pictures/ --serial 923322071108\n"
        "  actrec calibrate intrinsics --driver realsense --driver-option serial=923322071108 --preview live.jpg\n"
        "  actrec calibrate intrinsics --topic camera/color/image_raw --serial 923322071108\n\n"
        "Live, views are taken by themselves whenever the board is held still in a new way, until they suffice."
    )
    parser.set_defaults(run=run_intrinsics)


def run_intrinsics(args: argparse.Namespace) -> int:
    """Gathers views, calibrates, reports, writes the camera's file."""
    board, config = options.board_of(args), options.settings(args, IntrinsicsConfig)
    serial = _serial(args)
    path = path_of(serial, args.part, args.cameras)
    report.refuse_existing(path, args.overwrite)
    folder = _report_folder(args, serial)
    _choose_camera(args)
    seen = gather(args, board, folder / "pictures", CoverageConfig())
    _say(f"the board is in {len(seen.views)} of {seen.looked_at} pictures")
    found = calibrate(board, seen.views, config, _say)
    covered = coverage(board, found.views, camera=found.camera)
    report.write(folder, board, found, covered, seen.picture_of)
    _store(path, serial, args.part, board, found)
    said = {"file": str(path), "report": str(folder), **report.figures(board, found, covered)}
    print(json.dumps(said) if args.json else _told(said))
    return 0


def _store(path: Path, serial: str, part: str, board: Any, found: Calibration) -> None:
    geometry = calibration_files.load(serial, path.parent).geometry if part == DEPTH and path.is_file() else None
    camera, deviations = found.camera, found.deviations
    note = (
        f"actrec calibrate intrinsics, {date.today().isoformat()}: {len(found.views)} views of a {described(board)}\n"
        f"RMS {found.rms:.3f} px, held out {found.held_out_rms:.3f} px; standard deviations: fx {deviations[0]:.2f}, "
        f"fy {deviations[1]:.2f}, cx {deviations[2]:.2f}, cy {deviations[3]:.2f} px"
    )
    calibration_files.write_intrinsics(path, camera, f"{serial}_{part}", geometry, note)
    if geometry is not None:
        _say("where the depth camera sits was measured with its former lens: run actrec calibrate depth again")


def _told(said: dict[str, Any]) -> str:
    values, deviations, known = said["intrinsics"], said["standard_deviations"], said["uncertainty_px"]
    lens = ", ".join(f"{name} {values[name]:.2f} ± {deviations[name]:.2f}" for name in ("fx", "fy", "cx", "cy"))
    distortion = " ".join(f"{value:.5f}" for name, value in values.items() if name[0] in "kp")
    lines = [
        f"{len(said['views'])} views used, {len(said['rejected'])} left out as wrong, {said['unmoved']} as unmoved",
        *(f"  left out {name}: {reason}" for name, reason in said["rejected"].items()),
        f"{lens} px; distortion {distortion}",
        f"RMS {said['rms_px']:.3f} px, of views held out {said['held_out_rms_px']:.3f} px; the lens is known to "
        f"±{known['middle']:.2f} px in the image's middle and ±{known['worst']:.2f} px at its worst",
        *(f"better still: {todo}" for todo in said["missing"]),
        f"wrote {said['file']}; report: {Path(said['report']) / 'report.md'}",
    ]
    return "\n".join(lines)


def _add_check(subparsers: Any) -> None:
    parser = _parser(subparsers, "check", "say whether a camera's calibration still holds")
    _add_source(parser)
    parser.add_argument("--against", metavar="FILE", help="camera_info YAML to check (default: the one of --serial)")
    options.add_settings(parser.add_argument_group("the check"), CheckConfig)
    parser.epilog = (
        "Exit status 0: it holds; 1: it does not, or these views cannot tell. Six to ten views are enough.\n\n"
        "Examples:\n"
        "  actrec calibrate check pictures/ --serial 923322071108\n"
        "  actrec calibrate check --driver realsense --driver-option serial=923322071108 --json"
    )
    parser.set_defaults(run=run_check)


def run_check(args: argparse.Namespace) -> int:
    """Gathers a few views and compares."""
    board, config = options.board_of(args), options.settings(args, CheckConfig)
    path = Path(args.against).expanduser() if args.against else path_of(_serial(args), args.part, args.cameras)
    if not args.against and not path.is_file():
        raise InputError(f"there is no calibration '{path}' to check: run actrec calibrate intrinsics first")
    stored = from_yaml(path)
    folder = _report_folder(args, path.stem if args.against else _serial(args))
    _choose_camera(args)
    seen: Gathered = gather(args, board, folder / "pictures", CHECK_COVERAGE)
    _say(f"the board is in {len(seen.views)} of {seen.looked_at} pictures")
    found = check(board, seen.views, stored, config)
    said = {"file": str(path), **_check_figures(found)}
    print(json.dumps(said) if args.json else _verdict(said))
    return 0 if found.holds else 1


def _check_figures(found: Check) -> dict[str, Any]:
    return {
        "holds": found.holds,
        "moved_px": found.moved_px,
        "moved_deviation_px": found.deviation_px,
        "tolerance_px": found.tolerance_px,
        "stored_rms_px": found.stored_rms,
        "refitted_rms_px": found.refitted_rms,
        "stored": _lens(found.stored),
        "refitted": _lens(found.refitted),
        "views": found.view_rms,
        "rejected": found.rejected,
    }


def _lens(camera: Intrinsics) -> dict[str, float]:
    values = dataclasses.asdict(camera)
    return {name: values[name] for name in ("fx", "fy", "cx", "cy")}


def _verdict(said: dict[str, Any]) -> str:
    was, now = said["stored"], said["refitted"]
    change = ", ".join(f"{name} {was[name]:.2f} → {now[name]:.2f}" for name in was)
    return "\n".join(
        [
            f"{said['file']} {'holds' if said['holds'] else 'does not hold'}",
            f"a point moves by {said['moved_px']:.2f} ± {said['moved_deviation_px']:.2f} px at most, allowed are "
            f"{said['tolerance_px']:.2f} px",
            f"residuals of {len(said['views'])} views: {said['stored_rms_px']:.3f} px as stored, "
            f"{said['refitted_rms_px']:.3f} px with a lens of their own ({change})",
            *([] if said["holds"] else ["calibrate again: actrec calibrate intrinsics … --overwrite"]),
        ]
    )


def _serial(args: argparse.Namespace) -> str:
    serial = args.serial or str(options.driver_options(args).get("serial", ""))
    if not serial:
        raise ConfigError("name the camera with --serial: its file is found by its serial number")
    return serial


def _choose_camera(args: argparse.Namespace) -> None:
    """Has the driver open the camera of that serial number; its pictures must be of the lens that is asked for."""
    if args.driver and args.part == DEPTH and options.takes(args.driver, "register"):
        raise ConfigError(
            f"driver {args.driver} gives pictures of the color camera alone: for --part depth take infrared pictures "
            "of the depth camera, from a FOLDER or a --topic"
        )
    options.select(args)


def _report_folder(args: argparse.Namespace, serial: str) -> Path:
    return Path(args.report).expanduser() if args.report else Path(f"calibration_{serial}_{args.part}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
