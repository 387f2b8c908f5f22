"""Image files with any file name."""

import contextlib
import os
import struct
import zlib

import cv2
import numpy as np
import pytest

from actrec.recordings import image_decoding, image_folder
from actrec.recordings.image_decoding import DamagedImageError
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


def _with_size(suffix: str, width: int, height: int) -> bytes:
    """Return IMAGE as a file whose header has another size."""
    content = bytearray(cv2.imencode(suffix, IMAGE)[1].tobytes())
    place, layout, size = {
        ".jpg": (content.find(b"\xff\xc0") + 5, ">HH", (height, width)),
        ".png": (16, ">II", (width, height)),
        ".bmp": (18, "<ii", (width, height)),
    }[suffix]
    struct.pack_into(layout, content, place, *size)
    if suffix == ".png":
        struct.pack_into(">I", content, 29, zlib.crc32(content[12:29]))
    return bytes(content)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
def test_decode_damaged_size_raises_before_allocation(suffix, monkeypatch) -> None:
    monkeypatch.setattr(image_decoding.cv2, "imdecode", lambda *_: pytest.fail("OpenCV allocates the image"))
    for width, height in ((65500, 65500), (32767, 32768)):
        content = _with_size(suffix, width, height)
        with pytest.raises(DamagedImageError, match=f"header is damaged, as {width}×{height} pixels do not fit in"):
            image_decoding.decode(content, cv2.IMREAD_COLOR)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
@pytest.mark.parametrize("image", [np.zeros((2400, 3200, 3), np.uint8), np.full((1, 1, 3), 255, np.uint8), IMAGE])
def test_decode_image_that_compresses_best_is_decoded(suffix, image) -> None:
    options = {".jpg": [cv2.IMWRITE_JPEG_QUALITY, 1, cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_OPTIMIZE, 1]}
    content = cv2.imencode(suffix, image, options.get(suffix, []))[1]
    assert image_decoding.decode(content, cv2.IMREAD_COLOR).shape == image.shape


@pytest.mark.parametrize("content", [b"", b"\xff", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"GIF89a", b"II*\x00"])
def test_decode_no_image_raises(content) -> None:
    with pytest.raises(DamagedImageError, match="expected JPEG or PNG"):
        image_decoding.decode(content, cv2.IMREAD_COLOR)


def test_decode_mutated_jpeg_and_png_never_allocate_more_than_their_bytes_hold() -> None:
    random = np.random.default_rng(7)
    for suffix in (".jpg", ".png"):
        content = cv2.imencode(suffix, IMAGE)[1]
        for _ in range(200):
            mutated = content.copy()
            places = random.integers(0, min(len(mutated), 700), 3)
            mutated[places] = random.integers(0, 256, 3)
            with contextlib.suppress(DamagedImageError):
                image = image_decoding.decode(mutated, cv2.IMREAD_COLOR)
                assert image.shape[0] * image.shape[1] <= len(mutated) * 8256
