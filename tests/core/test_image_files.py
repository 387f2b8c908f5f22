"""Image files by any name."""

import os

import cv2
import numpy as np
import pytest

from actrec import image_files
from actrec.errors import InputError

IMAGE = cv2.resize(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8), (80, 60))


@pytest.mark.parametrize("name", [b"a.png", "Z\u00fcrich.png".encode("latin-1")])
def test_what_is_written_is_read(name, tmp_path) -> None:
    path = tmp_path / os.fsdecode(name)
    image_files.write(path, IMAGE)
    np.testing.assert_array_equal(image_files.read(path, cv2.IMREAD_COLOR), IMAGE)


@pytest.mark.parametrize("ending", [".png", ".jpg", ".bmp"])
def test_what_is_truncated_is_no_image(ending, tmp_path) -> None:
    path = tmp_path / f"a{ending}"
    image_files.write(path, IMAGE)
    content = path.read_bytes()
    for length in (0, 20, len(content) // 2):
        path.write_bytes(content[:length])
        assert image_files.read(path, cv2.IMREAD_COLOR) is None
    assert image_files.read(tmp_path / "gone.png", cv2.IMREAD_COLOR) is None


@pytest.mark.parametrize("name", [b"a", b"a.what", b"a.p\xfcg"])
def test_an_ending_of_no_image_is_told(name, tmp_path) -> None:
    with pytest.raises(InputError, match="has the ending of no image"):
        image_files.write(tmp_path / os.fsdecode(name), IMAGE)
    assert not list(tmp_path.iterdir())
