"""`actrec calibrate board`, `intrinsics`, `check` and `points`: the lens of one camera."""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from actrec.cli.calibrate import options
from actrec.cli.calibrate.options import load, log
from actrec.recordings.image_folder import IMAGE_SUFFIXES
from actrec.types import Intrinsics
from actrec.utils import calibration_files
from actrec.utils.calibration_files import COLOR, DEPTH, from_yaml, path_of
from actrec.utils.errors import ConfigError, DeviceError, InputError

PREVIEW_PERIOD_S = 0.5

_BOARD = """\
Print at 100 % (never 'fit to page'), glue it to something flat, and measure a square.

Examples:
  actrec calibrate board --out board.pdf
  actrec calibrate board --out large.pdf --paper a3 --square 0.045 --marker 0.03
  actrec calibrate board --out chess.pdf --kind chessboard --square 0.025
"""
_INTRINSICS = """\
Examples:
  actrec calibrate intrinsics images/ --serial 923322071108
  actrec calibrate intrinsics --driver realsense --driver-option serial=923322071108 --preview live.jpg
  actrec calibrate intrinsics --topic camera/color/image_raw --serial 923322071108

Live, a view is taken whenever the board is held still in a new pose, until the views suffice.
"""
_CHECK = """\
Exit status 0: the calibration holds; 1: it does not, or the views cannot decide. Six to ten views are enough.

Examples:
  actrec calibrate check images/ --serial 923322071108
  actrec calibrate check --driver realsense --driver-option serial=923322071108 --json
"""
_POINTS = """\
For recordings without a calibration that have points in space with their pixels: CSV with a header x,y,z,u,v (m in a
right-handed frame, pixels), or NTU RGB+D's .skeleton files (whose mirroring is undone). --pose free estimates the
camera's pose as well; shift only its position (points in the optical frame of a camera beside it); fixed takes the
points in the camera's own optical frame.

Example:
  actrec calibrate points S001C001*.skeleton --part depth --pose fixed --serial ntu_s001c001
  actrec calibrate points corners.csv --size 640,480 --serial 0123
"""


def add_commands(commands: Any) -> None:
    """Add the parsers."""
    parser = options.add_command(commands, "board", "write a board to print at its true size", run_board, _BOARD)
    parser.add_argument("--out", required=True, metavar="FILE", help="board.pdf (exact edges) or board.png")
    papers = tuple(load("board").PAPERS)
    parser.add_argument("--paper", choices=papers, help="paper of a PDF (default: the smallest that fits)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options.add_board(parser)

    parser = options.add_command(
        commands, "intrinsics", "calibrate a camera's lens with a board", run_intrinsics, _INTRINSICS
    )
    _add_source(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing calibration")
    options.add_settings(parser.add_argument_group("the calibration"), load("intrinsics").IntrinsicsConfig)

    parser = options.add_command(commands, "check", "check whether a camera's calibration holds", run_check, _CHECK)
    _add_source(parser)
    parser.add_argument("--against", metavar="FILE", help="camera_info YAML to check (default: of --serial)")
    options.add_settings(parser.add_argument_group("the check"), load("check").CheckConfig)

    parser = options.add_command(
        commands, "points", "estimate intrinsics from points in space and their pixels", run_points, _POINTS
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="CSV or .skeleton, see below")
    parser.add_argument("--part", choices=(COLOR, DEPTH), default=COLOR, help="camera of the pixels and of the result")
    parser.add_argument("--size", metavar="W,H", help="of the image in pixels (known for .skeleton)")
    parser.add_argument("--pose", choices=tuple(load("points").POSES), default="free", help="estimated camera pose")
    options.add_output(parser)


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", metavar="FOLDER", help="images of the board, 20 or more")
    parser.add_argument("--serial", help="serial number of the camera (default: of --driver-option serial=…)")
    parser.add_argument("--part", choices=(COLOR, DEPTH), default=COLOR, help="lens of the camera (default: color)")
    options.add_cameras(parser)
    parser.add_argument("--report", metavar="DIR", help="folder of the report (default: ./calibration_SERIAL_PART)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options.add_live(parser)
    parser.add_argument("--preview", metavar="FILE", help="keep writing the live image with instructions here (.jpg)")
    options.add_board(parser)


def run_board(args: argparse.Namespace) -> int:
    """Write the board."""
    board, out = options.board_of(args), Path(args.out).expanduser()
    paper = load("board").write(board, out, args.paper)
    width, height = (round(side * 1000, 1) for side in board.size)
    if args.json:
        figures = {"file": str(out), "paper": paper, "width_mm": width, "height_mm": height}
        print(json.dumps(figures | {"board": board.describe()}))
    else:
        on = f" on {paper.upper()}" if paper else ""
        print(f"{out}: {board.describe()}, {width:g} × {height:g} mm{on}")
        print("print it at 100 %, glue it to something flat, and measure a square; give --square as measured")
    if board.ambiguous:
        log("this chessboard looks the same upside down: good for intrinsics, not for poses")
    return 0


def run_intrinsics(args: argparse.Namespace) -> int:
    """Collect views, calibrate, write the report and the camera's file."""
    intrinsics, report = load("intrinsics"), load("report")
    board, config = options.board_of(args), options.settings(args, intrinsics.IntrinsicsConfig)
    serial = _serial(args)
    path = path_of(serial, args.part, args.cameras)
    options.refuse_existing(path, args.overwrite)
    folder = _report_folder(args, serial)
    _check_camera(args)
    views = _collect(args, board, folder / "images", load("coverage").CoverageConfig())
    result = intrinsics.calibrate(board, views.views, config, log)
    covered = load("coverage").coverage(board, result.views, camera=result.camera)
    report.write(folder, board, result, covered, views.load_image)
    _store(path, serial, args.part, board.describe(), result)
    figures = {"file": str(path), "report": str(folder), **report.intrinsics_figures(board, result, covered)}
    print(json.dumps(figures) if args.json else _summary(figures))
    return 0


def _store(path: Path, serial: str, part: str, board: str, result: Any) -> None:
    geometry = calibration_files.load(serial, path.parent).geometry if part == DEPTH and path.is_file() else None
    deviations = ", ".join(
        f"{name} {value:.2f}" for name, value in zip(("fx", "fy", "cx", "cy"), result.deviations, strict=False)
    )
    note = (
        f"actrec calibrate intrinsics, {date.today().isoformat()}: {len(result.views)} views of a {board}\n"
        f"RMS {result.rms:.3f} px, held out {result.held_out_rms:.3f} px; standard deviations: {deviations} px"
    )
    calibration_files.write_intrinsics(path, result.camera, f"{serial}_{part}", geometry, note)
    if geometry is not None:
        log("the depth camera's extrinsics were calibrated with its previous lens: run actrec calibrate depth again")


def _summary(figures: dict[str, Any]) -> str:
    values, sigma, uncertainty = figures["intrinsics"], figures["standard_deviations"], figures["uncertainty_px"]
    pinhole = ", ".join(f"{name} {values[name]:.2f} ± {sigma[name]:.2f}" for name in ("fx", "fy", "cx", "cy"))
    distortion = " ".join(f"{value:.5f}" for name, value in values.items() if name[0] in "kp")
    rejected = figures["rejected"]
    lines = [
        f"{len(figures['views'])} views used, {len(rejected)} rejected, {figures['unmoved']} ignored as unmoved",
        *(f"  rejected {name}: {reason}" for name, reason in rejected.items()),
        f"{pinhole} px; distortion {distortion}",
        f"RMS {figures['rms_px']:.3f} px, of held-out views {figures['held_out_rms_px']:.3f} px; the lens is certain "
        f"to ±{uncertainty['middle']:.2f} px in the image's middle and ±{uncertainty['worst']:.2f} px at worst",
        *(f"to improve: {todo}" for todo in figures["missing"]),
        f"wrote {figures['file']}; report: {Path(figures['report']) / 'report.md'}",
    ]
    return "\n".join(lines)


def run_check(args: argparse.Namespace) -> int:
    """Collect a few views and compare them with the stored calibration."""
    check = load("check")
    board, config = options.board_of(args), options.settings(args, check.CheckConfig)
    path = Path(args.against).expanduser() if args.against else path_of(_serial(args), args.part, args.cameras)
    if not args.against and not path.is_file():
        raise InputError(f"there is no calibration '{path}' to check: run actrec calibrate intrinsics first")
    stored = from_yaml(path)
    folder = _report_folder(args, path.stem if args.against else _serial(args))
    _check_camera(args)
    required = load("coverage").CoverageConfig(views=10, filled=0.3, tilted=1, near=0.4, zoom=1.2)
    views = _collect(args, board, folder / "images", required)
    result = check.check(board, views.views, stored, config)
    figures = {
        "file": str(path),
        "holds": result.holds,
        "moved_px": result.moved_px,
        "moved_deviation_px": result.deviation_px,
        "tolerance_px": result.tolerance_px,
        "stored_rms_px": result.stored_rms,
        "refitted_rms_px": result.refitted_rms,
        "stored": _pinhole(result.stored),
        "refitted": _pinhole(result.refitted),
        "views": result.view_rms,
        "rejected": result.rejected,
    }
    print(json.dumps(figures) if args.json else _verdict(figures))
    return 0 if result.holds else 1


def _pinhole(camera: Intrinsics) -> dict[str, float]:
    values = dataclasses.asdict(camera)
    return {name: values[name] for name in ("fx", "fy", "cx", "cy")}


def _verdict(figures: dict[str, Any]) -> str:
    stored, refitted = figures["stored"], figures["refitted"]
    change = ", ".join(f"{name} {stored[name]:.2f} → {refitted[name]:.2f}" for name in stored)
    lines = [
        f"{figures['file']} {'holds' if figures['holds'] else 'does not hold'}",
        f"a point moves by {figures['moved_px']:.2f} ± {figures['moved_deviation_px']:.2f} px at most; the tolerance "
        f"is {figures['tolerance_px']:.2f} px",
        f"residuals of {len(figures['views'])} views: {figures['stored_rms_px']:.3f} px with the stored lens, "
        f"{figures['refitted_rms_px']:.3f} px with a refitted lens ({change})",
    ]
    return "\n".join(
        [*lines, *([] if figures["holds"] else ["calibrate again: actrec calibrate intrinsics … --overwrite"])]
    )


def run_points(args: argparse.Namespace) -> int:
    """Estimate the intrinsics and write them."""
    report = load("report")
    path = options.target(args, args.part)
    size = None if args.size is None else _parse_size(args.size)
    given = load("sources").read_points([Path(file) for file in args.files], args.part, size)
    result = load("points").calibrate(given.points, given.pixels, given.size, args.pose)
    figures = {
        "file": str(path),
        **{name: round(value, 3) for name, value in _pinhole(result.camera).items()},
        "sigma_px": [round(float(value), 3) for value in result.sigma],
        "rms_px": round(result.rms, 3),
        "points": f"{result.used} of {result.given}",
        "points_to_camera": report.pose_figures(result.pose),
    }
    name = f"{args.serial}_{args.part}"
    calibration_files.write_intrinsics(path, result.camera, name, note=report.note("points", figures))
    options.print_figures(args, figures)
    return 0


def _parse_size(text: str) -> tuple[int, int]:
    try:
        width, height = (int(word) for word in text.replace("x", ",").split(","))
        if min(width, height) <= 0:
            raise ValueError("not positive")
    except ValueError as error:
        raise ConfigError(f"--size is '{text}', expected W,H, e.g. 640,480") from error
    return width, height


def _serial(args: argparse.Namespace) -> str:
    serial = args.serial or str(options.driver_options(args).get("serial", ""))
    if not serial:
        raise ConfigError("name the camera with --serial: its files are found by its serial number")
    return serial


def _check_camera(args: argparse.Namespace) -> None:
    """Select the camera by its serial number; its images must be of the requested lens."""
    if args.driver and args.part == DEPTH and options.driver_accepts(args.driver, "register"):
        raise ConfigError(
            f"driver {args.driver} has images of the color camera only: for --part depth use infrared images of the "
            "depth camera, from a FOLDER or a --topic"
        )
    options.select_camera(args)


def _report_folder(args: argparse.Namespace, serial: str) -> Path:
    return Path(args.report).expanduser() if args.report else Path(f"calibration_{serial}_{args.part}")


# -- views -------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Views:
    """Views, and a function that loads the image of a view by its name."""

    views: list[Any]
    load_image: Callable[[str], np.ndarray]


def _collect(args: argparse.Namespace, board: Any, folder: Path, required: Any) -> _Views:
    """Collect views from the source of the options.

    Args:
        args: Options.
        board: Board.
        folder: Folder for the images of live views.
        required: Coverage of live views that suffices.

    Raises:
        ConfigError: No source, or several, or an impossible preview.
        DeviceError: The source is missing.
        InputError: An image is mirrored or damaged.
    """
    options.require_one_source(args)
    options.driver_options(args)
    if args.preview and args.folder:
        raise ConfigError("--preview shows live images: omit it with a FOLDER of images")
    if args.preview and Path(args.preview).suffix.lower() not in IMAGE_SUFFIXES:
        raise ConfigError(f"--preview is '{args.preview}', expected an image: {', '.join(sorted(IMAGE_SUFFIXES))}")
    return _from_folder(board, args.folder) if args.folder else _from_live(args, board, folder, required)


def _from_folder(board: Any, folder: str) -> _Views:
    sources = load("sources")
    paths = {path.name: path for path in sources.list_images(folder)}
    images = tqdm(paths.values(), desc="detecting the board", unit="image", disable=None, leave=False)
    views = [view for path in images if (view := sources.view_of(board, sources.read_image(path))) is not None]
    log(f"the board is in {len(views)} of {len(paths)} images")
    return _Views(views, lambda name: sources.read_image(paths[name]).color)


def _from_live(args: argparse.Namespace, board: Any, folder: Path, required: Any) -> _Views:
    sources, live = load("sources"), load("live")
    collector = live.ViewCollector(board, live.LiveConfig(), required)
    guide = _Guide(collector, folder, Path(args.preview).expanduser() if args.preview else None)
    with options.interruptible() as stopped, options.open_live(args) as read:
        log("Hold the board still for a moment at each requested place; Ctrl-C ends it.")
        try:
            views = live.collect_views(read, collector, stopped, guide.on_image)
        except DeviceError as error:
            if not collector.views:
                raise
            raise DeviceError(f"{error}; the views so far are in '{folder}': calibrate from that folder") from error
        finally:
            guide.end()
    log(f"the board is in {len(views)} of {guide.images} images")
    return _Views(views, lambda name: sources.read_image(folder / f"{name}.png").color)


class _Guide:
    """Shows the next instruction, saves the images of views, and writes the preview."""

    def __init__(self, collector: Any, folder: Path, preview: Path | None):
        self.images = 0
        self._collector, self._folder, self._preview = collector, folder, preview
        self._previewed = 0.0
        self._last_line = ""

    def on_image(self, image: Any, is_view: bool) -> None:
        live = load("live")
        self.images += 1
        if is_view:
            live.save_image(self._folder / f"{image.name}.png", image.color)
        now = time.monotonic()
        if self._preview and (is_view or now - self._previewed > PREVIEW_PERIOD_S):
            self._previewed = now
            live.save_image(self._preview, live.draw_preview(image, self._collector))
        self._show_instruction()

    def end(self) -> None:
        if sys.stderr.isatty():
            log("")

    def _show_instruction(self) -> None:
        """Update one line on a terminal; elsewhere print a line for each view."""
        covered = self._collector.coverage
        todo = covered.missing[0] if covered.missing else "enough"
        line = f"{covered.views} views, {100 * covered.complete:3.0f} %: {todo}"
        if sys.stderr.isatty():
            unseen = "" if self._collector.detection else " (no board in view)"
            print(f"\r{line + unseen:<150}", end="", file=sys.stderr, flush=True)
        elif line != self._last_line:
            log(line)
        self._last_line = line
