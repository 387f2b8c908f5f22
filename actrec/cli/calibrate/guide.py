"""What `actrec calibrate` shows while it takes views of a running camera."""

import importlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from actrec.cli import to_width

PREVIEW_PERIOD_S = 0.5


class Guide:
    """Shows the next instruction, saves the images of views, and writes the preview.

    Args:
        collector: A `ViewCollector`.
        folder: Folder of the views' images.
        preview: File of the live image with instructions; None for none.
        log: Prints a line.
    """

    def __init__(self, collector: Any, folder: Path, preview: Path | None, log: Callable[[str], None]):
        self.images = 0
        self._collector, self._folder, self._preview, self._log = collector, folder, preview, log
        self._previewed, self._last_line = 0.0, ""

    def on_image(self, image: Any, is_view: bool) -> None:
        """Take an image of the camera, of which a view was made or not."""
        quality, now = importlib.import_module("actrec_calibration.quality"), time.monotonic()
        views, detection, covered = self._collector.views, self._collector.rest.detection, self._collector.coverage
        self.images += 1
        if is_view:
            quality.save_image(self._folder / f"{image.name}.png", image.color)
        if self._preview and (is_view or now - self._previewed > PREVIEW_PERIOD_S):
            self._previewed = now
            quality.save_image(self._preview, quality.draw_preview(image.color, detection, views, covered))
        todo = covered.missing[0] if covered.missing else "enough"
        line = f"{covered.views} views, {100 * covered.complete:3.0f} %: {todo}"
        if sys.stderr.isatty():  # update one line; elsewhere print a line for each view
            unseen = "" if detection else " (no board in view)"
            print(f"\r{to_width(line + unseen)}", end="", file=sys.stderr, flush=True)
        elif line != self._last_line:
            self._log(line)
        self._last_line = line
