"""Gathers views of the board for a command: from a folder, or live with a person guided as they go."""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from actrec.errors import ConfigError, DeviceError, InputError
from actrec.recordings.picture_folder import SUFFIXES
from actrec_calibration import options, pictures
from actrec_calibration.boards import Board
from actrec_calibration.coverage import CoverageConfig
from actrec_calibration.live import Collector, LiveConfig, collect, preview, save
from actrec_calibration.views import View

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
    options.one_source(args)
    options.driver_options(args)
    if args.preview and args.folder:
        raise ConfigError("--preview shows live images: leave it out with a FOLDER of pictures")
    if args.preview and Path(args.preview).suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--preview is '{args.preview}', expected a picture: {', '.join(sorted(SUFFIXES))}")
    return from_folder(board, args.folder) if args.folder else _live(args, board, keep, wanted)


def from_folder(board: Board, folder: str) -> Gathered:
    """Views in a folder's pictures."""
    paths = pictures.of_folder(folder)
    views = []
    for path in tqdm(paths, desc="looking for the board", unit="picture", disable=None, leave=False):
        view = view_of(board, pictures.read_file(path))
        if view is not None:
            views.append(view)
    by_name = {path.name: path for path in paths}
    return Gathered(views, len(paths), lambda name: pictures.read_file(by_name[name]).colour)


def view_of(board: Board, picture: pictures.Picture) -> View | None:
    """The board in a picture; None where it is not in it.

    Raises:
        InputError: The picture is mirrored; it is named.
    """
    try:
        found = board.detect(picture.colour)
    except InputError as error:
        raise InputError(f"{picture.name}: {error}") from error
    height, width = picture.colour.shape[:2]
    return None if found is None else View(picture.name, (width, height), found)


def _live(args: argparse.Namespace, board: Board, keep: Path, wanted: CoverageConfig) -> Gathered:
    collector = Collector(board, LiveConfig(), wanted)
    guide = _Guide(collector, keep, args.preview)
    with options.interruptible() as stopped, options.live(args) as read:
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
    return Gathered(views, guide.looked_at, lambda name: pictures.read_file(keep / f"{name}.png").colour)


class _Guide:
    """Says what to do next, keeps the pictures of views, and writes the preview."""

    def __init__(self, collector: Collector, keep: Path, preview_file: str | None):
        self.looked_at = 0
        self._collector, self._keep = collector, keep
        self._preview = Path(preview_file).expanduser() if preview_file else None
        self._previewed = 0.0
        self._said = ""

    def seen(self, picture: pictures.Picture, taken: bool) -> None:
        self.looked_at += 1
        if taken:
            save(self._keep / f"{picture.name}.png", picture.colour)
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
