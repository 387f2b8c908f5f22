"""What the commands of `actrec calibrate` have in common on the command line: the board, the source, the settings.

Gathers views of the board for a command: from a folder, or live with a person guided as they go.
"""

import argparse
import contextlib
import dataclasses
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from actrec import cameras
from actrec.recordings.video import IMAGE_SUFFIXES
from actrec.utils import config
from actrec.utils.config import build
from actrec.utils.errors import ConfigError, DeviceError, InputError
from actrec_calibration import sources
from actrec_calibration.board import Board, BoardConfig
from actrec_calibration.coverage import CoverageConfig
from actrec_calibration.intrinsics import View
from actrec_calibration.live import Collector, LiveConfig, collect, preview, save
from actrec_calibration.sources import Read, of_driver, of_topic

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
    return config.parse_pairs(args.driver_option, "driver option")


def takes(driver: str, setting: str) -> bool:
    """Whether a driver has a setting of that name.

    Raises:
        ConfigError: There is no such driver.
    """
    return setting in {field.name for field in dataclasses.fields(cameras.DRIVERS.get(driver).config_class)}


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


PREVIEW_S = 0.5


class Gathered:
    """Views, and the pictures they were seen in.

    Args:
        views: What was found.
        looked_at: Pictures that were looked at.
        picture_of: Gives a view's picture by its name.
    """

    def __init__(self, views: list[View], looked_at: int, picture_of: Callable[[str], np.ndarray]):
        self.views, self.looked_at, self.picture_of = views, looked_at, picture_of


def gather(args: argparse.Namespace, board: Board, keep: Path, wanted: CoverageConfig) -> Gathered:
    """Views from the source that the options name.

    Args:
        args: With `folder`, `topic`, `driver`, `driver_option`, `preview`.
        board: Looked for.
        keep: Folder where the pictures of live views are kept.
        wanted: When live views suffice.

    Raises:
        ConfigError: No source, or several, a preview of a folder, or one that is no picture.
        DeviceError: The source is not there.
        InputError: A picture is mirrored or damaged.
    """
    one_source(args)
    driver_options(args)
    if args.preview and args.folder:
        raise ConfigError("--preview shows live images: leave it out with a FOLDER of pictures")
    if args.preview and Path(args.preview).suffix.lower() not in IMAGE_SUFFIXES:
        raise ConfigError(f"--preview is '{args.preview}', expected a picture: {', '.join(sorted(IMAGE_SUFFIXES))}")
    return from_folder(board, args.folder) if args.folder else _live(args, board, keep, wanted)


def from_folder(board: Board, folder: str) -> Gathered:
    """Views in a folder's pictures."""
    paths = sources.of_folder(folder)
    views = []
    for path in tqdm(paths, desc="looking for the board", unit="picture", disable=None, leave=False):
        view = view_of(board, sources.read_file(path))
        if view is not None:
            views.append(view)
    by_name = {path.name: path for path in paths}
    return Gathered(views, len(paths), lambda name: sources.read_file(by_name[name]).color)


def view_of(board: Board, picture: sources.Picture) -> View | None:
    """The board in a picture; None where it is not in it.

    Raises:
        InputError: The picture is mirrored; it is named.
    """
    try:
        found = board.detect(picture.color)
    except InputError as error:
        raise InputError(f"{picture.name}: {error}") from error
    height, width = picture.color.shape[:2]
    return None if found is None else View(picture.name, (width, height), found)


def _live(args: argparse.Namespace, board: Board, keep: Path, wanted: CoverageConfig) -> Gathered:
    collector = Collector(board, LiveConfig(), wanted)
    guide = _Guide(collector, keep, args.preview)
    with interruptible() as stopped, live(args) as read:
        print("Hold the board still for a moment wherever it is asked for; Ctrl-C ends it.", file=sys.stderr)
        try:
            views = collect(read, collector, stopped, guide.seen)
        except DeviceError as error:
            if not collector.taken:
                raise
            raise DeviceError(
                f"{error}; the views so far are in '{keep}': that folder can be calibrated from"
            ) from error
        finally:
            guide.end()
    return Gathered(views, guide.looked_at, lambda name: sources.read_file(keep / f"{name}.png").color)


class _Guide:
    """Says what to do next, keeps the pictures of views, and writes the preview."""

    def __init__(self, collector: Collector, keep: Path, preview_file: str | None):
        self.looked_at = 0
        self._collector, self._keep = collector, keep
        self._preview = Path(preview_file).expanduser() if preview_file else None
        self._previewed = 0.0
        self._said = ""

    def seen(self, picture: sources.Picture, taken: bool) -> None:
        self.looked_at += 1
        if taken:
            save(self._keep / f"{picture.name}.png", picture.color)
        now = time.monotonic()
        if self._preview and (taken or now - self._previewed > PREVIEW_S):
            self._previewed = now
            save(self._preview, preview(picture, self._collector))
        self._say()

    def end(self) -> None:
        if sys.stderr.isatty():
            print(file=sys.stderr)

    def _say(self) -> None:
        """One line that changes on a terminal; elsewhere a line for each view."""
        covered = self._collector.coverage
        todo = covered.missing[0] if covered.missing else "enough"
        line = f"{covered.views} views, {100 * covered.complete:3.0f} %: {todo}"
        if sys.stderr.isatty():
            unseen = "" if self._collector.detection else " (no board in view)"
            print(f"\r{line + unseen:<150}", end="", file=sys.stderr, flush=True)
        elif line != self._said:
            print(line, file=sys.stderr, flush=True)
        self._said = line
