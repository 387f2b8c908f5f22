import dataclasses

import cv2
import numpy as np
import pytest

from actrec import features
from actrec.features.scene_flow import (
    FlowCrop,
    FlowPreprocessing,
    FlowRgb,
    JointMapPreprocessing,
    PixelPreprocessing,
    colors,
    first_visible_frame,
    jittered,
)
from actrec.features.specs import BodyView, InputSpec
from actrec.utils.errors import ConfigError, InputError

LAYOUT = "kinect_v2_25"
PREPROCESSING = dataclasses.asdict(FlowPreprocessing(exact=True))
FLOW = InputSpec("flow_rgb", "flow_rgb", "CTHW", (3, 4, 112, 112), "m/s", PREPROCESSING)
PIXELS = InputSpec("joint_pixels", "joint_pixels", LAYOUT, (4, 50, 2), "px", dataclasses.asdict(PixelPreprocessing()))
MAP = InputSpec("joint_map", "joint_map", LAYOUT, (150, 20), "m", dataclasses.asdict(JointMapPreprocessing()))


def changed(spec, **preprocessing):
    return dataclasses.replace(spec, preprocessing={**spec.preprocessing, **preprocessing})


def make(spec, **clip):
    return features.inputs(clip, [spec])[spec.name]


# -- flow_rgb ----------------------------------------------------------------------------------------------------------


def test_colors_are_linear_with_one_code_for_no_motion():
    flow = np.zeros((2, 4, 3), np.float32)
    flow[0, 1] = [2.0, -2.0, 1.0]
    flow[0, 2] = [50.0, -50.0, np.inf]
    flow[0, 3] = [np.nan, 0.5, np.nan]
    found = colors(flow, (2.0, 2.0, 4.0))
    assert found.dtype == np.uint8
    assert found[0].tolist() == [[128] * 3, [255, 0, 159], [255, 0, 255], [128, 159, 128]]
    assert (found[1] == 128).all()
    assert np.isnan(flow[0, 3, 0])  # the caller's array is not modified


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ((512, 424), (96, 92, 320, 240)),  # the Kinect, as published
        ((1024, 848), (192, 184, 640, 480)),
        ((640, 480), (138.868, 104.151, 362.264, 271.698)),
        ((200, 800), (0, 325, 200, 150)),  # too narrow for its height
    ],
)
def test_center_crop_any_image_keeps_aspect(image, expected):
    assert FlowCrop().center_crop(*image) == pytest.approx(expected, abs=1e-3)


def test_observe_returns_small_uint8():
    flow = np.random.default_rng(1).normal(0, 1, (424, 512, 3)).astype(np.float32)
    flow[:, :250] = np.nan
    found = FlowRgb().observe(BodyView(flow=flow), FLOW)
    assert found.shape == (120, 160, 3)
    assert found.dtype == np.uint8
    assert (found[:, :70] == 128).all()
    np.testing.assert_array_equal(found, FlowRgb().observe(BodyView(flow=flow.copy()), FLOW))


def test_observe_package_without_exact_gets_the_same_input_as_before():
    """A package of an older version was trained on flow of 320×240, cut at whole pixels."""
    flow = np.random.default_rng(2).normal(0, 1, (240, 320, 3)).astype(np.float32)
    before = cv2.resize(colors(flow[52:188, 69:250], (2.0, 2.0, 2.0)), (160, 120), interpolation=cv2.INTER_AREA)
    old = dataclasses.replace(FLOW, preprocessing={k: v for k, v in PREPROCESSING.items() if k != "exact"})
    for size in (None, (640, 480)):
        np.testing.assert_array_equal(FlowRgb().observe(BodyView(flow=flow, size=size), old), before)


def test_inputs_from_observed_frames_equal_inputs_from_flow():
    flow = np.random.default_rng(1).normal(0, 1, (4, 60, 80, 3)).astype(np.float32)
    frames = np.stack([FlowRgb().observe(BodyView(flow=f), FLOW) for f in flow])
    found = make(FLOW, flow_rgb=frames)
    np.testing.assert_array_equal(found, make(FLOW, flow=flow))
    assert found.shape == FLOW.shape
    np.testing.assert_array_equal(found[1, 2], frames[2, 4:116, 24:136, 1].astype(np.float32) - 128)


def test_flow_rgb_no_motion_is_zero():
    assert (make(FLOW, flow=np.full((4, 24, 32, 3), np.nan, np.float32)) == 0).all()
    assert (make(changed(FLOW, mean=0.0, scale=0.5), flow=np.zeros((4, 24, 32, 3), np.float32)) == 64).all()


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        ({"flow": np.zeros((4, 24, 32, 2), np.float32)}, r"scene flow is \[24, 32, 2\], expected \[h, w, 3\]"),
        ({"flow": np.zeros((3, 24, 32, 3), np.float32)}, r"\[3, 120, 160, 3\], expected \[4, 120, 160, 3\]"),
        ({"flow_rgb": np.zeros((4, 112, 112, 3), np.uint8)}, r"\[4, 112, 112, 3\], expected \[4, 120, 160, 3\]"),
        ({"bodies": np.zeros((1, 4, 25, 3), np.float32)}, r"'flow_rgb' .*needs 'flow'.*clip has bodies"),
    ],
)
def test_flow_rgb_invalid_flow_raises(clip, message):
    with pytest.raises(InputError, match=message):
        make(FLOW, **clip)


def test_flow_rgb_invalid_max_speed_raises():
    with pytest.raises(ConfigError, match=r"max_speed_m_s"):
        make(changed(FLOW, max_speed_m_s=(2.0, 0.0, 2.0)), flow=np.zeros((4, 24, 32, 3), np.float32))


# -- joint_pixels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("image", [(512, 424), (640, 480), (1280, 720), (424, 600)])
@pytest.mark.parametrize("reduction", [1, 2])
def test_joint_pixels_match_position_in_flow_image(image, reduction):
    """A spot moves at each joint; the network's image shows it at the joint's position, for any crop."""
    width, height = image
    pixels = np.full((1, 4, 25, 2), np.nan, np.float32)
    flow = np.zeros((4, height // reduction, width // reduction, 3), np.float32)
    for t, (right, down) in enumerate([(0.5, 0.5), (0.45, 0.6), (0.4, 0.45), (0.55, 0.4)]):
        u, v = round(right * width), round(down * height)
        pixels[0, t, 7] = u, v
        x, y = u // reduction, v // reduction
        reach = max(round(0.012 * height / reduction), 1)
        flow[t, y - reach : y + reach + 1, x - reach : x + reach + 1] = 1.5
    for specs in ([FLOW, PIXELS], jittered([FLOW, PIXELS], np.random.default_rng(3))):
        made = features.inputs({"flow": flow, "pixels": pixels, "size": np.array(image)}, specs)
        for t in range(4):
            spot = np.maximum(made["flow_rgb"][0, t], 0)
            rows, columns = np.indices(spot.shape)
            spot_center = np.array([(spot * columns).sum(), (spot * rows).sum()]) / spot.sum()
            # Half a pixel by rounding the joint, a quarter by the spot, which is drawn in whole pixels of half size.
            np.testing.assert_allclose(made["joint_pixels"][t, 7], spot_center, atol=0.55 + 0.45 * (reduction - 1))


def test_joint_pixels_kinect_image_match_published_crop():
    pixels = np.full((1, 4, 25, 2), np.nan, np.float32)
    pixels[0, :, 0] = [200, 180]
    found = make(PIXELS, pixels=pixels, size=np.array([512, 424]))
    # 200.5 from the corner, minus 96, halved, minus 24 of 160, rounded down to a pixel.
    np.testing.assert_array_equal(found[0, 0], np.floor([(200.5 - 96) / 2 - 24, (180.5 - 92) / 2 - 4]))


def test_jittered_crops_are_shared_and_cover_range():
    rng = np.random.default_rng(1)
    places = set()
    for _ in range(20):
        flow, pixels, other = jittered([FLOW, PIXELS, MAP], rng)
        assert other == MAP
        assert flow.preprocessing["crop_x"] == pixels.preprocessing["crop_x"]
        corner = FlowCrop(0.5, flow.preprocessing["crop_x"], flow.preprocessing["crop_y"]).corner(112)
        assert 0 <= corner[0] <= 48
        assert 0 <= corner[1] <= 8
        places.add(corner)
    assert len(places) > 15
    assert FlowCrop(crop_x=1.0, crop_y=1.0).corner(112) == (48, 8)


def test_joint_pixels_absent_or_distant_joint_is_far():
    pixels = np.full((2, 4, 25, 2), np.nan, np.float32)
    pixels[0, :, 3] = [256, 212]
    pixels[0, :, 4] = [256, np.nan]
    pixels[0, :, 5] = [-5000, 212]
    found = make(PIXELS, pixels=pixels[:1], size=np.array([512, 424]))
    assert ((found[:, 3] > 50) & (found[:, 3] < 60)).all()
    assert (np.delete(found, 3, axis=1) == -56).all()
    np.testing.assert_array_equal(found, make(PIXELS, pixels=pixels, size=np.array([512, 424])))


@pytest.mark.parametrize(
    ("pixels", "size", "message"),
    [
        ((3, 4, 25, 2), (640, 480), r"\[3, 4, 25, 2\].*up to 2 bodies of 4 frames × 25 joints \(kinect_v2_25\)"),
        ((1, 4, 20, 2), (640, 480), r"\[1, 4, 20, 2\].*25 joints"),
        ((1, 3, 25, 2), (640, 480), r"\[1, 3, 25, 2\].*4 frames"),
        ((1, 4, 25, 2), (640, 0), r"size is \[640, 0\], expected the width and height"),
        ((1, 4, 25, 2), None, "needs 'size'.*clip has pixels"),
    ],
)
def test_joint_pixels_invalid_input_raises(pixels, size, message):
    clip = {"pixels": np.zeros(pixels, np.float32)}
    if size is not None:
        clip["size"] = np.array(size)
    with pytest.raises(InputError, match=message):
        make(PIXELS, **clip)


# -- joint_map ---------------------------------------------------------------------------------------------------------


def random_bodies(count=2, frames=12):
    rng = np.random.default_rng(7)
    return rng.uniform([-2, -2, 0.5], [2, 2, 4.5], (count, frames, 25, 3)).astype(np.float32)


def test_joint_map_rows_and_normalization():
    bodies = random_bodies()
    found = make(MAP, bodies=bodies)
    lower, upper = [-2.5, -2.5, 0.0], [2.5, 2.5, 5.0]
    for m, t, v, d in np.ndindex(*bodies.shape):
        expected = 2 * (bodies[m, t, v, d] - lower[d]) / (upper[d] - lower[d]) - 1
        assert found[m * 75 + 3 * v + d, t] == pytest.approx(expected, abs=1e-5)
    assert (found[:, 12:] == 0).all()
    assert np.abs(found).max() <= 1


def test_joint_map_absent_body_is_zero_and_outside_is_clipped():
    bodies = random_bodies()
    bodies[1] = np.nan
    bodies[0, 0, 0] = [99, -99, 99]
    found = make(MAP, bodies=bodies)
    assert (found[75:] == 0).all()
    assert found[:3, 0].tolist() == [1, -1, 1]
    np.testing.assert_array_equal(found, make(MAP, bodies=bodies[:1]))


def test_joint_map_column_depends_on_pose_only():
    bodies = random_bodies()
    np.testing.assert_array_equal(make(MAP, bodies=bodies)[:, 4:9], make(MAP, bodies=bodies[:, 4:9])[:, :5])


def test_joint_map_missing_joint_moves_to_parent():
    bodies = random_bodies(1)
    bodies[0, 3, 7] = np.nan  # the left hand, whose parent is the wrist
    found = make(MAP, bodies=bodies)
    np.testing.assert_array_equal(found[21:24, 3], found[18:21, 3])
    assert np.isfinite(found).all()


def test_joint_map_rate_interpolates_columns():
    bodies = random_bodies(1, 4)
    found = make(changed(MAP, rate=3), bodies=bodies)
    plain = make(MAP, bodies=bodies)
    np.testing.assert_allclose(found[:, 0:10:3], plain[:, :4], atol=1e-6)
    np.testing.assert_allclose(found[:, 1], plain[:, 0] * 2 / 3 + plain[:, 1] / 3, atol=1e-5)
    assert (found[:, 10:] == 0).all()


@pytest.mark.parametrize("rate", [1, 3])
def test_joint_map_starts_at_first_visible_frame(rate):
    bodies = random_bodies(2, 5)
    bodies[0, :, 7], bodies[1] = np.nan, np.nan  # a joint and a person that are always missing
    expected = make(changed(MAP, rate=rate), bodies=bodies[:, 1:])
    repeated = np.concatenate([bodies[:, 1:2], bodies[:, 1:2], bodies[:, 1:]], axis=1)
    empty_first = np.concatenate([np.full_like(bodies[:, :1], np.nan), repeated], axis=1)
    for window in (repeated, empty_first):
        assert first_visible_frame(window) == window.shape[1] - 4
        np.testing.assert_array_equal(make(changed(MAP, rate=rate), bodies=window[:, -6:]), expected)
    still = make(changed(MAP, rate=rate), bodies=np.repeat(bodies[:, :1], 5, axis=1))
    assert np.abs(still[:, 0]).max() > 0 and (still[:, 1:] == 0).all()
    assert (make(MAP, bodies=bodies * np.nan) == 0).all()


def test_joint_map_entering_body_is_not_interpolated_from_zero():
    bodies = random_bodies(2, 4)
    bodies[1, 0] = np.nan
    found = make(changed(MAP, rate=3), bodies=bodies)
    assert (found[75:, :3] == 0).all()
    np.testing.assert_allclose(found[75:, 3], make(MAP, bodies=bodies)[75:, 1], atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 12, 25, 3), r"\[3, 12, 25, 3\].*up to 2 bodies of up to 20 frames × 25 joints"),
        ((1, 21, 25, 3), r"\[1, 21, 25, 3\].*up to 20 frames"),
        ((1, 12, 20, 3), r"\[1, 12, 20, 3\].*25 joints \(kinect_v2_25\)"),
        ((12, 25, 3), r"\[12, 25, 3\]"),
    ],
)
def test_joint_map_invalid_bodies_raise(shape, message):
    with pytest.raises(InputError, match=message):
        make(MAP, bodies=np.zeros(shape, np.float32))


def test_joint_map_invalid_bounds_or_layout_raises():
    with pytest.raises(ConfigError, match="upper"):
        make(changed(MAP, lower_m=(3.0, -2.5, 0.0)), bodies=random_bodies())
    with pytest.raises(ConfigError, match="kinect_v2_25"):
        make(dataclasses.replace(MAP, layout="octopus_8"), bodies=random_bodies())
    with pytest.raises(InputError, match="needs 'bodies'"):
        make(MAP, flow=np.zeros((4, 24, 32, 3), np.float32))
