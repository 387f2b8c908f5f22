"""A sheet of annotated images with text."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from actrec.utils.errors import DeviceError
from actrec.visualization.contact_sheet import BAD, COLUMNS, GOOD, LINE_PX, TILE_PX, Tile, contact_sheet, write
from actrec.visualization.snapshots import Snapshot


def tile(width: int = 640, height: int = 480, value: int = 100, good: bool = True) -> Tile:
    image = np.full((height, width, 3), value, np.uint8)
    return Tile(Snapshot(0, color=image), ["performed: wave", "recognized: wave"], good)


def test_contact_sheet_places_tiles_in_rows() -> None:
    sheet = contact_sheet([tile(value=10 * k) for k in range(COLUMNS + 1)])
    row = TILE_PX * 3 // 4 + 2 * LINE_PX + LINE_PX // 2
    assert sheet.shape == (2 * row, COLUMNS * TILE_PX, 3)
    assert [sheet[5, k * TILE_PX + 5, 0] for k in range(COLUMNS)] == [0, 10, 20, 30]
    assert sheet[row + 5, 5, 0] == 10 * COLUMNS


@pytest.mark.parametrize(("good", "color"), [(True, GOOD), (False, BAD)])
def test_contact_sheet_last_line_has_the_color_of_its_outcome(good: bool, color: tuple[int, int, int]) -> None:
    line = contact_sheet([tile(good=good)])[-LINE_PX - LINE_PX // 2 :].reshape(-1, 3).astype(int)
    brightest = line[line.max(axis=1).argmax()]  # thin letters do not reach their color with OpenCV 4
    assert min((GOOD, BAD), key=lambda each: np.abs(brightest - each).sum()) == color


def test_contact_sheet_small_images_of_other_shapes_fit() -> None:
    assert contact_sheet([tile(160, 120), tile(100, 200)]).shape[1] == 2 * TILE_PX


def test_write_file_has_the_sheet_in_true_colors(tmp_path: Path) -> None:
    red = tile()
    assert red.snapshot.color is not None
    red.snapshot.color[:] = (200, 0, 0)
    write(tmp_path / "sheet.png", [red])
    assert cv2.imread(str(tmp_path / "sheet.png"))[5, 5].tolist() == [0, 0, 200]


@pytest.mark.parametrize("name", ["sheet.odd", "no_folder/sheet.png"])
def test_write_impossible_file_raises_device_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(DeviceError, match="cannot write .*sheet"):
        write(tmp_path / name, [tile()])


@pytest.mark.skipif(os.name != "posix", reason="names are bytes there alone")
def test_write_into_a_folder_whose_name_is_not_utf8(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"B\xfccher")
    folder.mkdir()
    write(folder / "sheet.png", [tile()])
    assert (folder / "sheet.png").read_bytes().startswith(b"\x89PNG")
