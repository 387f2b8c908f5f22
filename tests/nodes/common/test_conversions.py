"""Conversions between messages and arrays are lossless; errors name the unsupported value."""

import array

import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String

from actrec.recordings import image_decoding
from actrec.types import EQUIDISTANT, Body, Face, Hand, Intrinsics
from actrec.utils.errors import InputError
from actrec_nodes.common import conversions as c

HEAD = c.header(1_700_000_000_123_456_789, "camera_color_optical_frame")


@pytest.fixture
def color() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)


def image(pixels: np.ndarray, encoding: str, pad: int = 0, bigendian: bool = False) -> Image:
    """Return an image message as other drivers write it, with padded rows or another byte order."""
    height, width = pixels.shape[:2]
    dtype = pixels.dtype.newbyteorder(">" if bigendian else "<")
    rows = pixels.astype(dtype).reshape(height, -1).view(np.uint8)
    rows = np.pad(rows, ((0, 0), (0, pad)), constant_values=77)
    data = array.array("B", rows.tobytes())
    return Image(height=height, width=width, encoding=encoding, step=rows.shape[1], is_bigendian=bigendian, data=data)


def test_stamp_round_trip_is_exact() -> None:
    for stamp in (0, 1, 999_999_999, 1_700_000_000_123_456_789, -5_000_000_001, 2**31 * 10**9 - 1, -(2**31) * 10**9):
        assert c.stamp_to_ns(c.ns_to_stamp(stamp)) == stamp


def test_stamp_of_year_2500_is_refused() -> None:
    with pytest.raises(InputError, match="stamp 16725225600 s is beyond the range of ROS messages"):
        c.ns_to_stamp(16_725_225_600 * 10**9)


def test_color_round_trip_is_exact_and_a_view(color: np.ndarray) -> None:
    message = c.color_to_image(color, HEAD)
    restored = c.image_to_color(message)
    assert (message.encoding, message.step, message.header.frame_id) == ("rgb8", 24, "camera_color_optical_frame")
    np.testing.assert_array_equal(restored, color)
    assert not restored.flags.owndata
    assert not restored.flags.writeable


@pytest.mark.parametrize("pad", [0, 3])
@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8", "mono8"])
def test_image_to_color_converts_every_encoding(color: np.ndarray, encoding: str, pad: int) -> None:
    alpha = np.full((6, 8, 1), 200, np.uint8)
    gray = color[..., 0]
    pixels = {
        "rgb8": color,
        "bgr8": color[..., ::-1],
        "rgba8": np.concatenate([color, alpha], -1),
        "bgra8": np.concatenate([color[..., ::-1], alpha], -1),
        "mono8": gray,
    }[encoding]
    expected = np.repeat(gray[..., None], 3, -1) if encoding == "mono8" else color
    np.testing.assert_array_equal(c.image_to_color(image(np.ascontiguousarray(pixels), encoding, pad)), expected)


@pytest.mark.parametrize(("encoding", "red"), [("yuv422_yuy2", (81, 90, 81, 240)), ("uyvy", (90, 81, 240, 81))])
def test_image_to_color_converts_subsampled_encodings(encoding: str, red: tuple[int, ...]) -> None:
    pixels = np.tile(np.array(red, np.uint8).reshape(2, 2), (6, 4, 1))
    np.testing.assert_allclose(c.image_to_color(image(pixels, encoding)), np.full((6, 8, 3), (255, 0, 0)), atol=3)


@pytest.mark.parametrize("bigendian", [False, True])
@pytest.mark.parametrize("pad", [0, 1, 6])
def test_image_to_depth_returns_metres(bigendian: bool, pad: int) -> None:
    metres = np.array([[0.5, 1.234, 65.535], [np.nan, 2.0, 8.0]], np.float32)
    millimetres = np.array([[500, 1234, 65535], [0, 2000, 8000]], np.uint16)
    from_mm = c.image_to_depth(image(millimetres, "16UC1", pad, bigendian))
    np.testing.assert_allclose(from_mm, metres, atol=1e-6)
    np.testing.assert_array_equal(c.image_to_depth(image(metres, "32FC1", pad, bigendian)), metres)


def test_image_to_depth_missing_values_are_nan() -> None:
    invalid = np.array([[0.0, -1.0, np.inf, -np.inf, np.nan, 1.0]], np.float32)
    np.testing.assert_array_equal(c.image_to_depth(image(invalid, "32FC1")), [[np.nan] * 5 + [1.0]])


def test_depth_to_image_is_millimetres_with_zero_for_missing() -> None:
    depth = np.array([[1.2344, 1.2346, np.nan, np.inf, -1.0, 70.0]], np.float32)
    message = c.depth_to_image(depth, HEAD)
    assert message.encoding == "16UC1"
    np.testing.assert_array_equal(image_decoding.pixels(message, ("16UC1",)), [[1234, 1235, 0, 0, 0, 0]])


def test_flow_round_trip_keeps_nan() -> None:
    flow = np.random.default_rng(1).normal(size=(4, 5, 3)).astype(np.float32)
    flow[1, 2] = np.nan
    message = c.flow_to_image(flow, HEAD)
    assert message.encoding == "32FC3"
    np.testing.assert_array_equal(c.image_to_flow(message), flow)


@pytest.mark.parametrize(
    ("convert", "encoding", "supported"),
    [
        (c.image_to_color, "8UC3", "rgb8, bgr8"),
        (c.image_to_flow, "8UC3", "32FC3"),
    ],
)
def test_image_unknown_encoding_raises_input_error_with_the_supported_ones(
    convert, encoding: str, supported: str
) -> None:
    message = Image(height=2, width=2, encoding=encoding, step=6, data=array.array("B", bytes(12)))
    with pytest.raises(InputError, match=f"'{encoding}' is not supported here; supported: .*{supported}"):
        convert(message)


@pytest.mark.parametrize(
    ("encoding", "cause"),
    [("8UC1", "8 bits hold no distances; .* 16UC1"), ("rgb8", "display"), ("32SC1", "set depth_scale"), ("abc", "")],
)
def test_image_to_depth_of_unsuitable_encoding_raises_with_the_cause(encoding: str, cause: str) -> None:
    message = Image(height=1, width=2, encoding=encoding, step=8, data=array.array("B", bytes(8)))
    with pytest.raises(InputError, match=f"'{encoding}'.*{cause}"):
        c.image_to_depth(message)


def test_image_to_depth_of_64_bits_or_with_scale_returns_metres() -> None:
    np.testing.assert_array_equal(c.image_to_depth(image(np.array([[1.5, np.inf]]), "64FC1")), [[1.5, np.nan]])
    for kind, encoding in ((np.uint16, "16UC1"), (np.int32, "32SC1"), (np.float32, "32FC1"), (np.float64, "64FC1")):
        units = np.array([[15000, 0, 7]]).astype(kind)
        metres = c.image_to_depth(image(units, encoding), 0.0001)
        assert metres.dtype == np.float32
        np.testing.assert_allclose(metres, [[1.5, np.nan, 0.0007]], rtol=1e-6)
    np.testing.assert_array_equal(c.image_to_depth(image(np.array([[-5]], np.int32), "32SC1"), 0.001), [[np.nan]])


@pytest.mark.parametrize(("step", "size"), [(8, 48), (24, 100)])
def test_image_with_too_few_bytes_raises_input_error(step: int, size: int) -> None:
    message = Image(height=6, width=8, encoding="rgb8", step=step, data=array.array("B", bytes(size)))
    with pytest.raises(InputError, match=f"step is {step} and it has {size} bytes"):
        c.image_to_color(message)


def test_image_without_pixels_raises_input_error() -> None:
    with pytest.raises(InputError, match="no pixels"):
        c.image_to_color(Image(encoding="rgb8"))


@pytest.mark.parametrize(
    ("write", "array_"),
    [
        (c.color_to_image, np.zeros((4, 5), np.uint8)),
        (c.color_to_image, np.zeros((4, 5, 3), np.float32)),
        (c.depth_to_image, np.zeros((4, 5), np.uint16)),
        (c.flow_to_image, np.zeros((4, 5, 2), np.float32)),
    ],
)
def test_array_of_wrong_shape_or_type_raises_input_error(write, array_: np.ndarray) -> None:
    with pytest.raises(InputError, match="expected"):
        write(array_, HEAD)


@pytest.mark.parametrize(
    "distortion", [(), (0.1, -0.2, 0.001, 0.002, 0.05), (0.1, -0.2, 0.001, 0.002, 0.05, 0.1, 0.2, 0.3)]
)
def test_intrinsics_round_trip(distortion: tuple[float, ...]) -> None:
    intrinsics = Intrinsics(640, 480, 525.5, 526.5, 319.25, 239.75, distortion)
    assert c.info_to_intrinsics(c.intrinsics_to_info(intrinsics, HEAD)) == intrinsics


def test_intrinsics_of_a_fisheye_round_trip() -> None:
    """Of raw images: their D counts."""
    fisheye = Intrinsics(640, 480, 285.0, 286.0, 319.25, 239.75, (-0.01, 0.04, -0.03, 0.006), EQUIDISTANT)
    info = c.intrinsics_to_info(fisheye, HEAD)
    assert info.distortion_model == "equidistant" and c.info_to_intrinsics(info) == fisheye


def test_camera_info_without_calibration_raises_input_error() -> None:
    with pytest.raises(InputError, match="uncalibrated camera"):
        c.info_to_intrinsics(CameraInfo(width=640, height=480))


def test_camera_info_unsupported_distortion_or_binning_raises_input_error() -> None:
    info = c.intrinsics_to_info(Intrinsics(640, 480, 525, 525, 320, 240), HEAD)
    info.distortion_model = "ftheta"
    with pytest.raises(InputError, match="'ftheta' is not supported; known: plumb_bob"):
        c.info_to_intrinsics(info)
    info.distortion_model, info.binning_x = "plumb_bob", 2
    with pytest.raises(InputError, match="binning"):
        c.info_to_intrinsics(info)


def test_camera_info_distortion_is_padded_or_cut_to_five_or_eight() -> None:
    info = c.intrinsics_to_info(Intrinsics(640, 480, 525, 525, 320, 240), HEAD)
    eight = [0.1, -0.2, 0.001, 0.002, 0.05, 0.1, 0.2, 0.3]
    for values, expected in ((eight[:4], [*eight[:4], 0.0]), ([*eight, *[0.0] * 6], eight), ([0.0] * 12, [])):
        info.d = values
        assert c.info_to_intrinsics(info).distortion == tuple(expected)
    info.d = [*eight, 0.1]
    with pytest.raises(InputError, match="camera_info has 9 distortion coefficients"):
        c.info_to_intrinsics(info)


def test_rectified_info_has_the_projection_and_no_distortion() -> None:
    info = c.intrinsics_to_info(Intrinsics(640, 480, 525, 526, 320, 240, (0.1, -0.2, 0.0, 0.0, 0.05)), HEAD)
    assert c.info_to_intrinsics(c.rectified_info(info)) == Intrinsics(640, 480, 525, 526, 320, 240)
    info.p = [500.0, 0.0, 310.0, 0.0, 0.0, 501.0, 230.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    info.distortion_model = "equidistant"
    assert c.info_to_intrinsics(c.rectified_info(info)) == Intrinsics(640, 480, 500, 501, 310, 230)
    info.p = [0.0] * 12
    assert c.info_to_intrinsics(c.rectified_info(info)) == Intrinsics(640, 480, 525, 526, 320, 240)


def make_item(kind: type, joints: int, **options: str):
    rng = np.random.default_rng(joints)
    positions = rng.normal(size=(joints, 3)).astype(np.float32)
    positions[1] = np.nan
    pixels = rng.normal(size=(joints, 2)).astype(np.float32)
    pixels[2] = np.nan
    return kind("body_1", "some_layout", positions, pixels, rng.random(joints).astype(np.float32), **options)


@pytest.mark.parametrize(
    ("items", "write", "read"),
    [
        ([make_item(Body, 25), make_item(Body, 20)], c.bodies_to_message, c.message_to_bodies),
        ([make_item(Hand, 21, side="left"), make_item(Hand, 21, side="right")], c.hands_to_message, c.message_to_hands),
        ([make_item(Face, 68)], c.faces_to_message, c.message_to_faces),
        ([], c.bodies_to_message, c.message_to_bodies),
    ],
)
def test_joints_round_trip_with_nan(items, write, read) -> None:
    message = write(items, HEAD)
    assert c.stamp_to_ns(message.header.stamp) == 1_700_000_000_123_456_789
    restored = read(message)
    assert len(restored) == len(items)
    for item, copy in zip(items, restored, strict=True):
        assert (type(item), item.body_id, item.layout) == (type(copy), copy.body_id, copy.layout)
        assert getattr(item, "side", None) == getattr(copy, "side", None)
        for name in ("positions", "pixels", "scores"):
            np.testing.assert_array_equal(getattr(item, name), getattr(copy, name))
            assert getattr(copy, name).dtype == np.float32


def test_skeleton_with_arrays_of_different_length_raises_input_error() -> None:
    message = c.bodies_to_message([make_item(Body, 25)], HEAD)
    message.skeletons[0].pixels = message.skeletons[0].pixels[:-2]
    with pytest.raises(InputError, match="'body_1' has 25 positions, 48 pixel coordinates"):
        c.message_to_bodies(message)


def test_hand_without_a_side_raises_input_error() -> None:
    message = c.hands_to_message([make_item(Hand, 21, side="left")], HEAD)
    message.hands[0].side = "both"
    with pytest.raises(InputError, match="side of hand 'body_1' is 'both', expected left or right"):
        c.message_to_hands(message)


@pytest.mark.parametrize(
    ("roi", "full"),
    [((0, 0, 640, 480), True), ((0, 0, 0, 0), True), ((0, 0, 320, 240), False), ((8, 0, 640, 480), False)],
)
def test_camera_info_region_of_interest_must_be_the_full_image(roi: tuple[int, ...], full: bool) -> None:
    intrinsics = Intrinsics(640, 480, 525, 525, 320, 240)
    info = c.intrinsics_to_info(intrinsics, HEAD)
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = roi
    if full:
        assert c.info_to_intrinsics(info) == intrinsics
    else:
        with pytest.raises(InputError, match="region of interest"):
            c.info_to_intrinsics(info)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '"x"', "[" * 100_000])
def test_statistics_that_are_no_object_raise_input_error(text: str) -> None:
    with pytest.raises(InputError, match="no JSON object"):
        c.message_to_statistics(String(data=text))
