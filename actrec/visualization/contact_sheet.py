"""One sheet of several annotated images, each with lines of text."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from actrec.utils import folders
from actrec.utils.errors import DeviceError
from actrec.visualization import overlay
from actrec.visualization.snapshots import Snapshot

TILE_PX = 320
COLUMNS = 4
LINE_PX, TEXT_SCALE = 22, 0.5
BACKGROUND = 24
GOOD, BAD = (102, 214, 72), (255, 112, 67)
"""Color of a tile's last line, RGB."""


@dataclass
class Tile:
    """One image of a sheet.

    Attributes:
        snapshot: With a color image; its people and captions are drawn.
        lines: Text below the image.
        good: Whether the last line is good news, for its color.
    """

    snapshot: Snapshot
    lines: Sequence[str]
    good: bool


def contact_sheet(tiles: Sequence[Tile]) -> np.ndarray:
    """Return the tiles in rows of `COLUMNS` as one image [H, W, 3] uint8 RGB."""
    made = [_draw(tile) for tile in tiles]
    height = max(image.shape[0] for image in made)
    columns = min(COLUMNS, len(made))
    sheet = np.full((math.ceil(len(made) / columns) * height, columns * TILE_PX, 3), BACKGROUND, np.uint8)
    for index, image in enumerate(made):
        row, column = divmod(index, columns)
        sheet[row * height :, column * TILE_PX :][: image.shape[0], :TILE_PX] = image
    return sheet


def write(path: Path, tiles: Sequence[Tile]) -> None:
    """Write a sheet as an image file, whose ending gives its kind; raise DeviceError if that fails."""
    sheet = cv2.cvtColor(contact_sheet(tiles), cv2.COLOR_RGB2BGR)
    try:
        if not path.suffix.isascii():
            raise cv2.error
        content = cv2.imencode(path.suffix, sheet)[1].tobytes()  # imwrite crashes if a name is not UTF-8
        folders.replace_file(path, content)
    except cv2.error:
        raise DeviceError(f"cannot write '{path}': name a file that ends in .jpg or .png") from None
    except OSError as error:
        raise DeviceError(f"cannot write '{path}': {error.strerror}; check its folder and the free space") from error


def _draw(tile: Tile) -> np.ndarray:
    image = tile.snapshot.annotated(TILE_PX)
    if image.shape[1] < TILE_PX:
        image = cv2.resize(image, (TILE_PX, round(image.shape[0] * TILE_PX / image.shape[1])))
    made = np.full((image.shape[0] + LINE_PX * len(tile.lines) + LINE_PX // 2, TILE_PX, 3), BACKGROUND, np.uint8)
    made[: image.shape[0]] = image
    for number, line in enumerate(tile.lines):
        last = number == len(tile.lines) - 1
        color = (GOOD if tile.good else BAD) if last else (235, 235, 235)
        origin = (8, image.shape[0] + LINE_PX * (number + 1) - 5)
        cv2.putText(made, overlay.drawable(line), origin, overlay.FONT, TEXT_SCALE, color, 1, cv2.LINE_AA)
    return made
