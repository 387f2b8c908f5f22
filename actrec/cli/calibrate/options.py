"""Options and output that several calibrations of `actrec calibrate` share."""

import argparse
import contextlib
import dataclasses
import importlib
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from actrec import cameras
from actrec.types import Intrinsics
from actrec.utils import calibration_files, config
from actrec.utils.errors import ConfigError, InputError

T = TypeVar("T")

OPTICAL_FRAME = "camera_color_optical_frame"


def load(module: str) -> Any:
    """Import a module of `actrec_calibration`."""
    return importlib.import_module(f"actrec_calibration.{module}")


def add_command(
    commands: Any, name: str, help_line: str, run: Callable[[argparse.Namespace], int], epilog: str
) -> argparse.ArgumentParser:
    """Add the parser of one calibration."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help_line,
        description=f"{help_line[0].upper()}{help_line[1:]}.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
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


def settings(args: argparse.Namespace, config_class: type[T]) -> T:
    """Create the settings from the given options.

    Raises:
        ConfigError: A value is out of range.
    """
    names = [field.name for field in dataclasses.fields(config_class)]  # type: ignore[arg-type]
    given = {name: getattr(args, name) for name in names if getattr(args, name, None) is not None}
    return config.build(config_class, given)


def add_board(parser: argparse.ArgumentParser) -> None:
    """Add the options of the board."""
    add_settings(parser.add_argument_group("the board (actrec calibrate board prints one)"), load("board").BoardConfig)


def board_of(args: argparse.Namespace) -> Any:
    """Create the `Board` of the options.

    Raises:
        ConfigError: The board is impossible.
    """
    return settings(args, load("board").Board)


def add_live(parser: argparse.ArgumentParser) -> None:
    """Add the options of a live source."""
    group = parser.add_argument_group("live images instead of a folder")
    group.add_argument("--topic", help="topic of images, e.g. camera/color/image_raw")
    group.add_argument("--driver", help="camera driver of actrec, without a ROS graph")
    group.add_argument(
        "--driver-option", metavar="KEY=VALUE", action="append", default=[], help="setting of the driver; repeatable"
    )


def driver_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the driver's settings.

    Raises:
        ConfigError: One is not KEY=VALUE, or there is no driver.
    """
    if args.driver_option and not args.driver:
        raise ConfigError(f"driver option '{args.driver_option[0]}' needs --driver")
    return config.parse_pairs(args.driver_option, "driver option")


def driver_accepts(driver: str, setting: str) -> bool:
    """Return whether a driver has a setting.

    Raises:
        ConfigError: There is no such driver.
    """
    return setting in {field.name for field in dataclasses.fields(cameras.DRIVERS.get(driver).config_class)}


def select_camera(args: argparse.Namespace) -> None:
    """Add `--serial` to the driver's settings, if it selects cameras by serial number.

    Raises:
        ConfigError: There is no such driver, or one of its settings is not KEY=VALUE.
    """
    given = driver_options(args)
    if args.driver and args.serial and "serial" not in given and driver_accepts(args.driver, "serial"):
        args.driver_option = [*args.driver_option, f"serial={args.serial}"]


def require_one_source(args: argparse.Namespace) -> None:
    """Raise ConfigError unless one of a folder, a topic and a driver is given."""
    given = [name for name in ("folder", "topic", "driver") if getattr(args, name)]
    if len(given) != 1:
        problem = "give one" if not given else f"{' and '.join(given)} are given, give one"
        raise ConfigError(f"{problem} of: a FOLDER of images, --topic, --driver")


def open_live(args: argparse.Namespace) -> contextlib.AbstractContextManager[Any]:
    """Open the live source of the options."""
    sources = load("sources")
    opened: contextlib.AbstractContextManager[Any] = (
        sources.open_driver(args.driver, driver_options(args))
        if args.driver
        else sources.open_topic(args.open_topic, args.topic)
    )
    return opened


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Let Ctrl-C set the event instead of ending the process, so that the views so far are used."""
    stopped = threading.Event()
    previous = {kind: signal.signal(kind, lambda *_: stopped.set()) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for kind, handler in previous.items():
            signal.signal(kind, handler)


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add the options of results."""
    parser.add_argument("--serial", required=True, help="serial number of the camera; part of its files' names")
    add_cameras(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing result")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def add_cameras(parser: argparse.ArgumentParser) -> None:
    """Add the folder of the cameras' files."""
    parser.add_argument(
        "--cameras",
        type=Path,
        metavar="DIR",
        help="folder of the cameras' files (default: calibration/cameras or the user's)",
    )


def target(args: argparse.Namespace, part: str) -> Path:
    """Return the file of a part of the camera.

    Raises:
        ConfigError: It exists and `--overwrite` is missing.
    """
    path = calibration_files.path_of(args.serial, part, args.cameras)
    refuse_existing(path, args.overwrite)
    return path


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise ConfigError if `path` exists, unless it may be overwritten."""
    if path.exists() and not overwrite:
        raise ConfigError(f"'{path}' exists already: add --overwrite to replace it")


def intrinsics(args: argparse.Namespace, given: Path | None, part: str, option: str) -> Intrinsics:
    """Read the given intrinsics file, or the camera's own.

    Raises:
        InputError: There is none.
    """
    path = given or calibration_files.path_of(args.serial, part, args.cameras)
    if given is None and not path.is_file():
        raise InputError(f"no intrinsics '{path}': run actrec calibrate intrinsics first, or name a file with {option}")
    return calibration_files.from_yaml(path)


def three_numbers(text: str, option: str) -> tuple[float, float, float]:
    """Parse three finite numbers.

    Raises:
        ConfigError: The text is something else.
    """
    try:
        a, b, c = (float(word) for word in text.split(","))
        if not np.isfinite([a, b, c]).all():
            raise ValueError("not finite")
    except ValueError as error:
        raise ConfigError(f"{option} is '{text}', expected three numbers with commas, e.g. 0.9,0.25,-90") from error
    return a, b, c


def log(text: str) -> None:
    """Print a line of progress to stderr."""
    print(text, file=sys.stderr, flush=True)


def print_figures(args: argparse.Namespace, figures: dict[str, Any]) -> None:
    """Print the result as JSON or as text."""
    if args.json:
        print(json.dumps(figures, indent=2))
        return
    for key, value in figures.items():
        if load("report").is_table(value):
            print(f"{key}:")
            for row in (value[0], *(row.values() for row in value)):
                print("  " + "".join(f"{cell!s:>14}" for cell in row))
        elif isinstance(value, dict):
            print(f"{key}:")
            for name, inner in value.items():
                if name != "matrix":
                    print(f"  {name}: {inner}")
        else:
            print(f"{key}: {value}")
