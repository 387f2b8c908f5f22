"""Images in rare encodings: YUV 4:2:2 of webcams, depth in RVL."""

import struct
import tracemalloc

import cv2
import numpy as np
import pytest

from actrec.recordings.image_decoding import DamagedImageError, color, decode_rvl, decompress_depth
from actrec.utils.errors import InputError
from tests.core.recordings.test_bag import COLOR, DEPTH, INFO, METERS, MILLIMETERS, PERIOD, RGB, START, H, W, frames_of

RED, BLUE = (81, 90, 240), (41, 240, 110)
"""Y, U, V by BT.601."""


def rvl_bytes(image):
    """Encode as in the paper, after the transport's header with the size."""
    nibbles: list[int] = []

    def put(number):
        while True:
            number, low = number >> 3, number & 7
            nibbles.append(low | 8 * (number > 0))
            if not number:
                return

    values, at, last = image.reshape(-1).tolist(), 0, 0
    while at < len(values):
        full = next((k for k in range(at, len(values)) if values[k]), len(values))
        end = next((k for k in range(full, len(values)) if not values[k]), len(values))
        put(full - at)
        put(end - full)
        for value in values[full:end]:
            put((value - last) << 1 ^ (value - last) >> 31)
            last = value
        at = end
    nibbles += [0] * (-len(nibbles) % 8)
    words = np.array(nibbles, np.uint64).reshape(-1, 8) << np.arange(28, -1, -4, dtype=np.uint64)
    return struct.pack("<II", *image.shape[::-1]) + words.sum(1).astype("<u4").tobytes()


@pytest.mark.parametrize("encoding", ["yuv422_yuy2", "yuyv", "yuv422", "uyvy"])
@pytest.mark.parametrize("pad", [0, 3])
def test_bag_recording_yuv_422_decoded_to_rgb(tmp_path, bag, encoding, pad):
    pixels = np.zeros((H, W, 2), np.uint8)
    light = 0 if encoding.endswith(("yuy2", "yuyv")) else 1
    for half, (y, u, v) in ((slice(0, W // 2), RED), (slice(W // 2, W), BLUE)):
        pixels[:, half, light] = y
        pixels[:, half, 1 - light] = np.tile([u, v], W // 4)
    with bag(tmp_path / "b") as b:
        b.info(INFO, START, W, H)
        b.image(COLOR, START, pixels, encoding, pad=pad)
    (frame,) = frames_of(tmp_path / "b")
    np.testing.assert_allclose(frame.color[0, [0, -1]], [(255, 0, 0), (0, 0, 255)], atol=3)
    assert (np.abs(np.diff(frame.color.astype(int), axis=1)).sum(-1) > 0).sum() == H


def test_color_yuv_422_odd_width_raises():
    with pytest.raises(InputError, match="yuyv image is 3 pixels wide, expected an even width"):
        color("yuyv", np.zeros((2, 3, 2), np.uint8))


@pytest.mark.parametrize("form", ["16UC1; compressedDepth rvl", "16UC1;compressedDepth rvl"])
def test_bag_recording_rvl_depth_decoded(tmp_path, bag, form):
    data = rvl_bytes(MILLIMETERS)
    with bag(tmp_path / "b") as b:
        b.info(INFO, START, W, H)
        for k, part in enumerate((data, data[: len(data) // 2], data)):  # the second is truncated
            b.compressed(f"{DEPTH}/compressedDepth", START + k * PERIOD, form, bytes(12) + part)
            b.image(COLOR, START + k * PERIOD, RGB, "rgb8")
    frames = frames_of(tmp_path / "b")
    assert [frame.stamp_ns - START for frame in frames] == [0, 2 * PERIOD]
    for frame in frames:
        np.testing.assert_array_equal(frame.depth, METERS)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((480, 640), np.uint16),
        np.full((3, 5), 65535, np.uint16),
        np.array([[0, 7, 0, 65535, 1]], np.uint16),
        np.random.default_rng(3).integers(0, 65536, (31, 17)).astype(np.uint16),
    ],
)
def test_decode_rvl_every_depth_value_returned(image):
    data = np.frombuffer(rvl_bytes(image), np.uint8)
    np.testing.assert_array_equal(decode_rvl(data), image)
    for truncated in (data[:-4], data[:5]):
        with pytest.raises(DamagedImageError, match="expected RVL"):
            decode_rvl(truncated)


@pytest.mark.parametrize(
    ("width", "height", "body"),
    [(0, 5, bytes(8)), (1 << 20, 1 << 20, bytes(8)), (100, 100, bytes(8)), (2, 2, b"\xff" * 64)],
)
def test_decode_rvl_damaged_data_raises(width, height, body):
    with pytest.raises(DamagedImageError, match="expected RVL"):
        decode_rvl(np.frombuffer(struct.pack("<II", width, height) + body, np.uint8))


@pytest.mark.parametrize("form", ["16UC1; compressedDepth rvl", "16UC1; compressedDepth png"])
def test_decompress_depth_of_another_size_raises_before_it_is_allocated(form):
    """A few bytes may be a run of 134 million zeros."""
    if form.endswith("rvl"):
        data = bytes(12) + struct.pack("<II", 1 << 14, 1 << 13) + bytes(64)
    else:
        data = bytes(12) + cv2.imencode(".png", np.zeros((2000, 2000), np.uint16))[1].tobytes()
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"depth is \[\d+, \d+\] but \[480, 640\] is expected: register depth to"):
            decompress_depth(form, data, shape=(480, 640))
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


def test_bag_recording_rvl_depth_of_other_size_raises(tmp_path, bag):
    with bag(tmp_path / "b") as b:
        b.info(INFO, START, W, H)
        b.compressed(
            f"{DEPTH}/compressedDepth", START, "16UC1; compressedDepth rvl", bytes(12) + rvl_bytes(MILLIMETERS[::2])
        )
        b.image(COLOR, START, RGB, "rgb8")
    with pytest.raises(InputError, match="register depth to color first"):
        frames_of(tmp_path / "b")


def test_decompress_depth_quantized_rvl_returns_meters():
    a, b = 100 * 101.0, 1 - 100 * 101.0 / 10
    quantized = np.array([[0, 500, 9000]], np.uint16)
    data = struct.pack("<iff", 0, a, b) + rvl_bytes(quantized)
    meters = decompress_depth("32FC1; compressedDepth rvl", data)
    np.testing.assert_allclose(meters, [[np.nan, a / (500 - b), a / (9000 - b)]], rtol=1e-5)


def test_bag_recording_float_depth_in_millimeters_raises_unless_scaled(tmp_path, bag):
    with bag(tmp_path / "b") as b:
        b.info(INFO, START, W, H)
        b.image(DEPTH, START, MILLIMETERS.astype(np.float32), "32FC1")
        b.image(COLOR, START, RGB, "rgb8")
    with pytest.raises(InputError, match="nearly everywhere, expected meters; if it is in millimeters"):
        frames_of(tmp_path / "b")
    (frame,) = frames_of(tmp_path / "b", depth_scale=0.001)
    np.testing.assert_allclose(frame.depth, METERS, rtol=1e-6)


@pytest.mark.parametrize(
    ("kind", "encoding", "unit", "cause"),
    [
        (np.float64, "64FC1", 0.001, ""),
        (np.int32, "32SC1", 0.001, "whose unit is not defined: set depth_scale"),
        (np.uint8, "8UC1", 0.0, "8 bits hold no distances"),
    ],
)
def test_bag_recording_depth_of_other_sizes_is_converted_or_refused(tmp_path, bag, kind, encoding, unit, cause):
    with bag(tmp_path / "b") as b:
        b.info(INFO, START, W, H)
        b.image(DEPTH, START, MILLIMETERS.astype(kind), encoding)
        b.image(COLOR, START, RGB, "rgb8")
    if cause:
        with pytest.raises(InputError, match=cause):
            frames_of(tmp_path / "b", depth_topic=DEPTH)
    if unit:
        (frame,) = frames_of(tmp_path / "b", depth_scale=unit)
        np.testing.assert_allclose(frame.depth, METERS, rtol=1e-6)
        assert frame.depth_scale == unit


def test_bag_recording_float_depth_of_sky_accepted(tmp_path, bag):
    far = np.where(np.arange(H)[:, None] < 0.8 * H, 65504.0, 3.0) * np.ones(W)
    with bag(tmp_path / "b") as b:
        b.info(INFO, START, W, H)
        b.image(DEPTH, START, far.astype(np.float32), "32FC1")
        b.image(COLOR, START, RGB, "rgb8")
    assert frames_of(tmp_path / "b")[0].depth[-1, -1] == 3


def test_bag_recording_later_sky_or_noise_accepted(tmp_path, bag):
    near, noise = METERS, np.full((H, W), np.nan, np.float32)
    noise[0, 0] = 65504
    with bag(tmp_path / "b") as b:
        b.info(INFO, START, W, H)
        for k, meters in enumerate((noise, near, np.full((H, W), 65504.0, np.float32))):
            b.image(DEPTH, START + k * PERIOD, meters, "32FC1")
            b.image(COLOR, START + k * PERIOD, RGB, "rgb8")
    assert [frame.depth[0, 0] for frame in frames_of(tmp_path / "b")][::2] == [65504, 65504]
