"""Image files with any file name."""

import os

import cv2
import numpy as np
import pytest

from actrec.recordings import image_folder
from actrec.utils.errors import InputError

IMAGE = cv2.resize(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8), (80, 60))


@pytest.mark.parametrize("name", [b"a.png", "Z\u00fcrich.png".encode("latin-1")])
def test_write_image_read_image_round_trip(name, tmp_path) -> None:
    path = tmp_path / os.fsdecode(name)
    image_folder.write_image(path, IMAGE)
    np.testing.assert_array_equal(image_folder.read_image(path, cv2.IMREAD_COLOR), IMAGE)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
def test_read_image_truncated_raises(suffix, tmp_path) -> None:
    path = tmp_path / f"a{suffix}"
    image_folder.write_image(path, IMAGE)
    content = path.read_bytes()
    for length in (0, 20, len(content) // 2):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match="cannot be decoded"):
            image_folder.read_image(path, cv2.IMREAD_COLOR)
    with pytest.raises(InputError, match=r"gone.png' cannot be decoded"):
        image_folder.read_image(tmp_path / "gone.png", cv2.IMREAD_COLOR)


@pytest.mark.parametrize("name", [b"a", b"a.what", b"a.p\xfcg"])
def test_write_image_unknown_suffix_raises(name, tmp_path) -> None:
    with pytest.raises(InputError, match="has no suffix of a writable image format"):
        image_folder.write_image(tmp_path / os.fsdecode(name), IMAGE)
    assert not list(tmp_path.iterdir())
