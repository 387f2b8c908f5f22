"""`actrec calibrate board`, `intrinsics`, `check` and `points`: the lens of one camera; what all calibrations share."""

import argparse
import contextlib
import dataclasses
import datetime
import importlib
import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from actrec import cameras
from actrec.cli import add_driver, add_wait, count, driver_options, interruptible, numbers, refuse_unused, waiting
from actrec.cli.calibrate.guide import Guide
from actrec.recordings.image_folder import IMAGE_SUFFIXES
from actrec.utils import calibration_files, config
from actrec.utils.calibration_files import COLOR, DEPTH, DepthGeometry, check_writable, from_yaml, path_of, rectified
from actrec.utils.errors import ConfigError, DeviceError, InputError
from actrec.utils.waiting import Waiting

_T = TypeVar("_T")

PINHOLE = ("fx", "fy", "cx", "cy")

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
    parser = add_command(commands, "board", "write a board to print at its true size", run_board, _BOARD)
    parser.add_argument("--out", required=True, metavar="FILE", help="board.pdf (exact edges) or board.png")
    papers = tuple(load("board").PAPERS)
    parser.add_argument("--paper", choices=papers, help="paper of a PDF (default: the smallest that fits)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    add_board(parser)

    parser = add_command(commands, "intrinsics", "calibrate a camera's lens with a board", run_intrinsics, _INTRINSICS)
    _add_source(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing calibration")
    add_settings(parser.add_argument_group("the calibration"), load("intrinsics").IntrinsicsConfig)

    parser = add_command(commands, "check", "check whether a camera's calibration holds", run_check, _CHECK)
    _add_source(parser)
    parser.add_argument("--against", metavar="FILE", help="camera_info YAML to check (default: of --serial)")
    add_settings(parser.add_argument_group("the check"), load("quality").CheckConfig)

    help_line = "estimate intrinsics from points in space and their pixels"
    parser = add_command(commands, "points", help_line, run_points, _POINTS)
    parser.add_argument("files", nargs="+", metavar="FILE", help="CSV or .skeleton, see below")
    parser.add_argument("--part", choices=(COLOR, DEPTH), default=COLOR, help="camera of the pixels and of the result")
    size = "of the image in pixels (known for .skeleton)"
    parser.add_argument("--size", type=numbers(2, count), metavar="W,H", help=size)
    poses = tuple(load("poses").ESTIMATED_POSES)
    parser.add_argument("--pose", choices=poses, default="free", help="estimated camera pose")
    add_output(parser)


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", metavar="FOLDER", help="images of the board, 20 or more")
    parser.add_argument("--serial", help="serial number of the camera (default: of --driver-option serial=…)")
    parser.add_argument("--part", choices=(COLOR, DEPTH), default=COLOR, help="lens of the camera (default: color)")
    add_cameras(parser)
    parser.add_argument("--report", metavar="DIR", help="folder of the report (default: ./calibration_SERIAL_PART)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    add_live(parser)
    parser.add_argument("--preview", metavar="FILE", help="keep writing the live image with instructions here (.jpg)")
    add_board(parser)


def run_board(args: argparse.Namespace) -> int:
    """Write the board."""
    board, out = board_of(args), Path(args.out).expanduser()
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
    intrinsics, quality = load("intrinsics"), load("quality")
    board, limits = board_of(args), settings(args, intrinsics.IntrinsicsConfig)
    serial = _serial(args)
    path = path_of(serial, args.part)
    refuse_existing(path, args.overwrite)
    geometry = _kept_geometry(args, path)
    folder = _report_folder(args, serial)
    if args.folder and (folder / "views").resolve() == Path(args.folder).expanduser().resolve():
        raise ConfigError(f"the report's drawings would replace the images in '{args.folder}': choose another --report")
    views, load_image = _collect(args, board, folder, quality.CoverageConfig(), use_files=False)
    result = intrinsics.calibrate(board, views, limits, log)
    covered = quality.coverage(board, result.views, camera=result.camera)
    quality.write_report(folder, board, result, covered, load_image)
    figures = {"file": str(path), "report": str(folder), **quality.intrinsics_figures(board, result, covered)}
    sigma = ", ".join(f"{name} {figures['standard_deviations'][name]:.2f}" for name in PINHOLE)
    note = (
        f"actrec calibrate intrinsics, {datetime.date.today().isoformat()}: {len(result.views)} views of a "
        f"{board.describe()}\n"
        f"RMS {result.rms:.3f} px, held out {result.held_out_rms:.3f} px; standard deviations: {sigma} px"
    )
    _write_lens(path, result.camera, geometry, note)
    if args.json:
        print(json.dumps(figures))
    else:
        print(*quality.summary(figures), f"wrote {path}; report: {folder / 'report.md'}", sep="\n")
    return 0


def run_check(args: argparse.Namespace) -> int:
    """Collect a few views and compare them with the stored calibration."""
    if args.folder:
        refuse_unused(args, "report", "with a FOLDER: a check writes no report")
    quality = load("quality")
    board, limits = board_of(args), settings(args, quality.CheckConfig)
    path = Path(args.against).expanduser() if args.against else path_of(_serial(args), args.part)
    if not args.against and not path.is_file():
        raise InputError(f"there is no calibration '{path}' to check: run actrec calibrate intrinsics first")
    stored = from_yaml(path)
    folder = _report_folder(args, path.stem if args.against else _serial(args))
    required = quality.CoverageConfig(views=10, filled=0.3, tilted=1, near=0.4, zoom=1.2)
    views, _ = _collect(args, board, folder, required)
    result = quality.check(board, views, stored, limits)
    before, after = ({name: getattr(lens, name) for name in PINHOLE} for lens in (result.stored, result.refitted))
    if args.json:
        print(json.dumps({"file": str(path), **vars(result), "stored": before, "refitted": after}))
    else:
        change = ", ".join(f"{name} {before[name]:.2f} → {after[name]:.2f}" for name in before)
        print(f"{path} {'holds' if result.holds else 'does not hold'}")
        print(
            f"a point moves by {result.moved_px:.2f} ± {result.moved_deviation_px:.2f} px at most; the tolerance is "
            f"{result.tolerance_px:.2f} px"
        )
        print(
            f"residuals of {len(result.views)} views: {result.stored_rms_px:.3f} px with the stored lens, "
            f"{result.refitted_rms_px:.3f} px with a refitted lens ({change})"
        )
        if not result.holds:
            print("calibrate again: actrec calibrate intrinsics … --overwrite")
    return 0 if result.holds else 1


def run_points(args: argparse.Namespace) -> int:
    """Estimate the intrinsics and write them."""
    path = target(args, args.part)
    geometry = _kept_geometry(args, path)
    points, pixels, size = load("views").read_points([Path(file) for file in args.files], args.part, args.size)
    result = load("poses").calibrate_from_points(points, pixels, size, args.pose)
    figures = {
        "file": str(path),
        **{name: round(getattr(result.camera, name), 3) for name in PINHOLE},
        "sigma_px": [round(float(value), 3) for value in result.sigma],
        "rms_px": round(result.rms, 3),
        "points": f"{result.used} of {result.given}",
        "points_to_camera": pose_figures(result.pose),
    }
    _write_lens(path, result.camera, geometry, note_of("points", figures))
    print_figures(args, figures)
    return 0


def _kept_geometry(args: argparse.Namespace, path: Path) -> DepthGeometry | None:
    """Return the pose and correction in the depth camera's file, which a new lens does not replace."""
    return kept(path, calibration_files.read_geometry) if args.part == DEPTH else None


def _write_lens(path: Path, camera: Any, geometry: DepthGeometry | None, note: str) -> None:
    calibration_files.write_intrinsics(path, camera, path.stem, geometry, note)
    if geometry is not None:
        log("the depth camera's extrinsics were calibrated with its previous lens: run actrec calibrate depth again")


def _serial(args: argparse.Namespace) -> str:
    serial = args.serial or str(driver_options(args).get("serial", ""))
    if not serial:
        raise ConfigError("name the camera with --serial: its files are found by its serial number")
    return serial


def _report_folder(args: argparse.Namespace, serial: str) -> Path:
    return Path(args.report).expanduser() if args.report else Path(f"calibration_{serial}_{args.part}")


# -- views -------------------------------------------------------------------------------------------------------------


def _collect(
    args: argparse.Namespace, board: Any, report: Path, required: Any, use_files: bool = True
) -> tuple[list[Any], Callable[[str], np.ndarray]]:
    """Collect views from the source of the options; live, until `required` is met, with their images in the report.

    `use_files` is as in `driver_settings`. Returns the views, and a function that loads a view's image by its name.
    """
    if args.driver and args.part == DEPTH and driver_accepts(args.driver, "register"):
        raise ConfigError(
            f"driver {args.driver} has images of the color camera only: for --part depth use infrared images of the "
            "depth camera, from a FOLDER or a --topic"
        )
    select_source(args)
    if not args.topic:
        refuse_unused(args, "wait", "with --driver" if args.driver else "with a FOLDER")
    if not getattr(args, "against", None):
        _refuse_rectified(args)
    if args.preview and args.folder:
        raise ConfigError("--preview shows live images: omit it with a FOLDER of images")
    if args.preview and Path(args.preview).suffix.lower() not in IMAGE_SUFFIXES:
        raise ConfigError(f"--preview is '{args.preview}', expected an image: {', '.join(sorted(IMAGE_SUFFIXES))}")
    views = load("views")
    if args.folder:
        paths = {path.name: path for path in views.list_images(args.folder)}
        images = tqdm(paths.values(), desc="detecting the board", unit="image", disable=None, leave=False)
        found = [view for path in images if (view := views.view_of(board, views.read_image(path))) is not None]
        log(f"the board is in {len(found)} of {len(paths)} images")
        return found, lambda name: views.read_image(paths[name]).color
    folder = views.new_folder(report / "images")
    collector = views.ViewCollector(board, required)
    guide = Guide(collector, folder, Path(args.preview).expanduser() if args.preview else None, log)
    with interruptible() as stopped, open_live(args, stopped, use_files) as read:
        log("Hold the board still for a moment at each requested place; Ctrl-C ends it.")
        with name_saved_views(collector.views, folder):
            views.collect_views(read, collector, stopped, guide.on_image)
    if sys.stderr.isatty():
        log("")
    saved = f", saved in '{folder}'" if collector.views else ""
    log(f"{len(collector.views)} views in {guide.images} images{saved}")
    return collector.views, lambda name: views.read_image(folder / f"{name}.png").color


def _refuse_rectified(args: argparse.Namespace) -> None:
    """Raise ConfigError for rectified images, except a stereo module's `image_rect_raw`: the file is of raw ones."""
    if args.topic and rectified(args.topic) and not args.topic.endswith("image_rect_raw"):
        raise ConfigError(f"'{args.topic}' has rectified images, the camera's file is of raw ones: name their topic")
    if driver_options(args).get("rectify"):
        raise ConfigError("the lens of raw images is calibrated: omit the driver option 'rectify'")


# -- options and output of several calibrations ------------------------------------------------------------------------


def load(module: str) -> Any:
    """Import a module of `actrec_calibration`."""
    return importlib.import_module(f"actrec_calibration.{module}")


def add_command(
    commands: Any, name: str, help_line: str, run: Callable[[argparse.Namespace], int], epilog: str
) -> argparse.ArgumentParser:
    """Add the parser of one calibration."""
    about, layout = f"{help_line[0].upper()}{help_line[1:]}.", argparse.RawDescriptionHelpFormatter
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=help_line, description=about, epilog=epilog, formatter_class=layout
    )
    parser.set_defaults(run=run)
    return parser


def add_settings(parser: Any, config_class: type) -> None:
    """Add an option for each field of a settings dataclass; the class provides the defaults."""
    for field in dataclasses.fields(config_class):
        about, default = field.metadata, field.default
        unit = f" {about['unit']}" if about["unit"] else ""
        text = f"{about['description'].rstrip('.,')} (default: {default}{unit})".replace("%", "%%")
        flag = f"--{field.name.replace('_', '-')}"
        if isinstance(default, bool):
            parser.add_argument(flag, action="store_true", default=None, help=text)
            continue
        choices = about["choices"] or None
        short = choices and len(choices) <= 6
        metavar = None if short else (field.name if choices else about["unit"] or field.name).upper()
        parser.add_argument(flag, type=type(default), choices=choices, metavar=metavar, default=None, help=text)


def settings(args: argparse.Namespace, config_class: Any) -> Any:
    """Create the settings from the given options; raise ConfigError if a value is out of range."""
    names = [field.name for field in dataclasses.fields(config_class)]
    given = {name: getattr(args, name) for name in names if getattr(args, name, None) is not None}
    return config.build(config_class, given)


def add_board(parser: argparse.ArgumentParser) -> None:
    """Add the options of the board."""
    add_settings(parser.add_argument_group("the board (actrec calibrate board prints one)"), load("board").Board)


def board_of(args: argparse.Namespace) -> Any:
    """Create the `Board` of the options; raise ConfigError if it is impossible."""
    return settings(args, load("board").Board)


def add_live(parser: argparse.ArgumentParser) -> None:
    """Add the live sources."""
    group = parser.add_argument_group("live images instead of a folder")
    group.add_argument("--topic", help="topic of images, e.g. camera/color/image_raw")
    add_wait(group)
    add_driver(group, "camera driver of actrec, without a ROS graph")


def open_live(
    args: argparse.Namespace, stopped: threading.Event, use_files: bool = True
) -> contextlib.AbstractContextManager[Any]:
    """Open the live source of the options; `use_files` is as in `driver_settings`."""
    views = load("views")
    if args.driver:
        serial = args.serial or str(driver_options(args).get("serial", ""))
        return views.open_driver(args.driver, driver_settings(args, use_files), serial)
    return views.open_topic(open_topic(args.topic, waiting(args, stopped)))


def open_topic(topic: str, waiting: Waiting) -> contextlib.AbstractContextManager[Any]:
    """Subscribe to images and wait for them; this imports ROS."""
    return importlib.import_module("actrec_nodes.calibration_node").images(topic, waiting)


def driver_accepts(driver: str, setting: str) -> bool:
    """Return whether a driver has a setting; raise ConfigError if there is no such driver."""
    return setting in {field.name for field in dataclasses.fields(cameras.DRIVERS.get(driver).config_class)}


def driver_settings(args: argparse.Namespace, use_files: bool = True) -> dict[str, Any]:
    """Return the settings of `--driver`, with `--serial` if the driver has such a setting.

    Without `use_files` the driver ignores the camera's files: the one to replace may be damaged, or may not fit the
    images. Raise ConfigError if the images are not raw then.
    """
    options = driver_options(args)
    if args.serial and driver_accepts(args.driver, "serial"):
        options.setdefault("serial", args.serial)
    if use_files:
        return options
    if options.get("rectify"):
        raise ConfigError("the lens of raw images is calibrated: omit the driver option 'rectify'")
    if driver_accepts(args.driver, "calibration"):
        options["calibration"] = "factory"
    else:
        options.pop("serial", None)  # a webcam's, by which it only finds its files
    return options


def select_source(args: argparse.Namespace) -> None:
    """Raise ConfigError unless one source is given."""
    driver_options(args)
    given = [name for name in ("folder", "topic", "driver") if getattr(args, name)]
    if len(given) != 1:
        problem = "give one" if not given else f"{' and '.join(given)} are given, give one"
        raise ConfigError(f"{problem} of: a FOLDER of images, --topic, --driver")


@contextlib.contextmanager
def name_saved_views(views: list[Any], folder: Path) -> Iterator[None]:
    """Name the folder of the views so far in the error of a camera that stops."""
    try:
        yield
    except DeviceError as error:
        if not views:
            raise
        raise DeviceError(f"{error}; the views so far are in '{folder}': calibrate from that folder") from error


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add the options of results."""
    parser.add_argument("--serial", required=True, help="serial number of the camera; part of its files' names")
    add_cameras(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing result")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def add_cameras(parser: argparse.ArgumentParser) -> None:
    """Add the folder of the cameras' files."""
    where = "folder of the cameras' files (default: calibration/cameras or the user's)"
    parser.add_argument("--cameras", type=Path, metavar="DIR", help=where)


def target(args: argparse.Namespace, part: str) -> Path:
    """Return the file of a part of the camera; raise ConfigError if it exists and `--overwrite` is missing."""
    path = path_of(args.serial, part)
    refuse_existing(path, args.overwrite)
    return path


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise ConfigError if `path` exists, unless it may be overwritten; DeviceError if it cannot be written."""
    if path.exists() and not overwrite:
        raise ConfigError(f"'{path}' exists already: add --overwrite to replace it")
    check_writable(path)


def kept(path: Path, read: Callable[[Path], _T]) -> _T | None:
    """Return what `read` returns for a file that is replaced; None, with a line to stderr, if the file is damaged."""
    try:
        return read(path) if path.is_file() else None
    except InputError as error:
        log(f"not kept: {error}")
        return None


def log(text: str) -> None:
    """Print a line of progress to stderr."""
    print(text, file=sys.stderr, flush=True)


def pose_figures(
    pose: np.ndarray, sigma_m: np.ndarray | None = None, sigma_deg: np.ndarray | None = None
) -> dict[str, Any]:
    """Return the figures of a transform: mm, degrees about fixed axes, standard deviations, and the 4×4."""
    figures: dict[str, Any] = {
        "translation_mm": np.round(1e3 * pose[:3, 3], 2).tolist(),
        # About fixed axes, as ROS's static transforms take them.
        "roll_pitch_yaw_deg": np.round(Rotation.from_matrix(pose[:3, :3]).as_euler("xyz", degrees=True), 3).tolist(),
    }
    if sigma_m is not None and sigma_deg is not None:
        figures |= {"sigma_mm": np.round(1e3 * sigma_m, 2).tolist(), "sigma_deg": np.round(sigma_deg, 3).tolist()}
    return figures | {"matrix": pose.tolist()}


def note_of(command: str, figures: dict[str, Any]) -> str:
    """Return the comment at the top of a result file: command, time, and its single figures."""
    now = datetime.datetime.now().astimezone().isoformat(timespec="minutes")
    tables = {"file", "residuals"}
    lines = [f"{key}: {value}" for key, value in figures.items() if not (key in tables or isinstance(value, dict))]
    return "\n".join([f"actrec calibrate {command}, {now}", *lines])


def print_figures(args: argparse.Namespace, figures: dict[str, Any]) -> None:
    """Print the result as JSON, or as YAML without matrices."""
    if args.json:
        print(json.dumps(figures, indent=2))
        return
    for value in figures.values():
        if isinstance(value, dict):
            value.pop("matrix", None)
    print(yaml.safe_dump(figures, sort_keys=False, default_flow_style=None, allow_unicode=True, width=120), end="")
