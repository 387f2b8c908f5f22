"""What the commands of `actrec calibrate` have in common on the command line: the board, the source, the settings."""

import argparse
import contextlib
import dataclasses
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from actrec import capture, keyvalues
from actrec.config import build
from actrec.errors import ConfigError
from actrec_calibration.boards import Board, BoardConfig
from actrec_calibration.pictures import Read, of_driver, of_topic

T = TypeVar("T")


def add_settings(parser: Any, config: type, only: Sequence[str] = ()) -> None:
    """An option for each field of a settings dataclass, or for those named; what is not given is left to the class.

    Args:
        parser: Or a group of it.
        config: The dataclass.
        only: Names of fields.
    """
    for field in dataclasses.fields(config):
        if only and field.name not in only:
            continue
        about, default = field.metadata, field.default
        unit = f" {about['unit']}" if about["unit"] else ""
        shown = f"{about['description'].rstrip('.')} (default: {default}{unit})".replace("%", "%%")
        flag = f"--{field.name.replace('_', '-')}"
        if isinstance(default, bool):
            parser.add_argument(flag, action="store_true", default=None, help=shown)
            continue
        metavar = None if about["choices"] else (about["unit"] or field.name).upper()
        if about["choices"] and len(about["choices"]) > 6:
            metavar = field.name.upper()
        choices = about["choices"] or None
        parser.add_argument(flag, type=type(default), choices=choices, metavar=metavar, default=None, help=shown)


def settings(args: argparse.Namespace, config: type[T]) -> T:
    """The dataclass with what was given.

    Raises:
        ConfigError: A value is out of range.
    """
    names = [field.name for field in dataclasses.fields(config)]  # type: ignore[arg-type]
    given = {name: getattr(args, name) for name in names if getattr(args, name, None) is not None}
    return build(config, given)


def add_board(parser: argparse.ArgumentParser) -> None:
    """Options that say what the board is."""
    add_settings(parser.add_argument_group("the board (actrec calibrate board prints one)"), BoardConfig)


def board_of(args: argparse.Namespace) -> Board:
    """The board that the options say.

    Raises:
        ConfigError: There is no such board.
    """
    return settings(args, Board)


def add_live(parser: argparse.ArgumentParser) -> None:
    """Options that name a live source."""
    group = parser.add_argument_group("live images instead of a folder")
    group.add_argument("--topic", help="a topic of images, e.g. camera/color/image_raw")
    group.add_argument("--driver", help="a camera driver of ours, with no ROS graph running")
    group.add_argument(
        "--driver-option", metavar="KEY=VALUE", action="append", default=[], help="a setting of it; repeatable"
    )


def driver_options(args: argparse.Namespace) -> dict[str, Any]:
    """The driver's settings.

    Raises:
        ConfigError: One is not KEY=VALUE, or there is no driver.
    """
    if args.driver_option and not args.driver:
        raise ConfigError(f"driver option '{args.driver_option[0]}' needs the --driver that it is a setting of")
    return keyvalues.read(args.driver_option, "driver option")


def takes(driver: str, setting: str) -> bool:
    """Whether a driver has a setting of that name.

    Raises:
        ConfigError: There is no such driver.
    """
    return setting in {field.name for field in dataclasses.fields(capture.DRIVERS.get(driver).config_class)}


def select(args: argparse.Namespace) -> None:
    """Has the driver open the camera that the result is named after, where it can tell several apart.

    Raises:
        ConfigError: There is no such driver, or one of its settings is not KEY=VALUE.
    """
    given = driver_options(args)
    if args.driver and args.serial and "serial" not in given and takes(args.driver, "serial"):
        args.driver_option = [*args.driver_option, f"serial={args.serial}"]


def one_source(args: argparse.Namespace) -> None:
    """Refuses none and several sources.

    Raises:
        ConfigError: Names them.
    """
    given = [name for name in ("folder", "topic", "driver") if getattr(args, name)]
    if len(given) != 1:
        said = "give one" if not given else f"{' and '.join(given)} are given, give one"
        raise ConfigError(f"{said} of: a FOLDER of pictures, --topic, --driver")


def live(args: argparse.Namespace) -> contextlib.AbstractContextManager[Read]:
    """Opens the live source that the options name; `open_topic` among them says how a topic is subscribed to."""
    return of_driver(args.driver, driver_options(args)) if args.driver else of_topic(args.open_topic, args.topic)


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Ctrl-C sets the event instead of ending the process: what was seen until then is still used."""
    stopped = threading.Event()
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = {kind: signal.signal(kind, lambda *_: stopped.set()) for kind in kinds}
    try:
        yield stopped
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
