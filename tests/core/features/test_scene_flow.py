import dataclasses

import numpy as np
import pytest

from actrec import features
from actrec.features.base import View
from actrec.features.joint_map import JointMapPreprocessing, first_shown
from actrec.features.scene_flow import FlowPreprocessing, FlowRgb, PictureCrop, PixelPreprocessing, colors, jittered
from actrec.features.specs import InputSpec
from actrec.utils.errors import ConfigError, InputError

LAYOUT = "kinect_v2_25"
FLOW = InputSpec("flow_rgb", "flow_rgb", "CTHW", (3, 4, 112, 112), "m/s", dataclasses.asdict(FlowPreprocessing()))
PIXELS = InputSpec("joint_pixels", "joint_pixels", LAYOUT, (4, 50, 2), "px", dataclasses.asdict(PixelPreprocessing()))
MAP = InputSpec("joint_map", "joint_map", LAYOUT, (150, 20), "m", dataclasses.asdict(JointMapPreprocessing()))


def changed(spec, **preprocessing):
    return dataclasses.replace(spec, preprocessing={**spec.preprocessing, **preprocessing})


def make(spec, **clip):
    return features.inputs(clip, [spec])[spec.name]


# -- flow_rgb ----------------------------------------------------------------------------------------------------------


def test_velocities_are_normalized_linearly_and_no_motion_has_one_code():
    flow = np.zeros((2, 4, 3), np.float32)
    flow[0, 1] = [2.0, -2.0, 1.0]
    flow[0, 2] = [50.0, -50.0, np.inf]
    flow[0, 3] = [np.nan, 0.5, np.nan]
    found = colors(flow, (2.0, 2.0, 4.0))
    assert found.dtype == np.uint8
    assert found[0].tolist() == [[128] * 3, [255, 0, 159], [255, 0, 255], [128, 159, 128]]
    assert (found[1] == 128).all()
    assert np.isnan(flow[0, 3, 0])  # the caller's array is left alone


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        ((512, 424), (96, 92, 320, 240)),  # the Kinect, as published
        ((1024, 848), (192, 184, 640, 480)),
        ((640, 480), (138.868, 104.151, 362.264, 271.698)),
        ((200, 800), (0, 325, 200, 150)),  # too narrow for its height
    ],
)
def test_the_middle_is_a_share_of_any_picture_and_keeps_circles_round(picture, expected):
    assert PictureCrop().middle(*picture) == pytest.approx(expected, abs=1e-3)


def test_one_frame_is_small_and_bytes():
    flow = np.random.default_rng(1).normal(0, 1, (424, 512, 3)).astype(np.float32)
    flow[:, :250] = np.nan
    found = FlowRgb().observe(View(flow=flow), FLOW)
    assert found.shape == (120, 160, 3)
    assert found.dtype == np.uint8
    assert (found[:, :70] == 128).all()
    np.testing.assert_array_equal(found, FlowRgb().observe(View(flow=flow.copy()), FLOW))


def test_observed_frames_stand_for_the_flow():
    flow = np.random.default_rng(1).normal(0, 1, (4, 60, 80, 3)).astype(np.float32)
    frames = np.stack([FlowRgb().observe(View(flow=f), FLOW) for f in flow])
    found = make(FLOW, flow_rgb=frames)
    np.testing.assert_array_equal(found, make(FLOW, flow=flow))
    assert found.shape == FLOW.shape
    np.testing.assert_array_equal(found[1, 2], frames[2, 4:116, 24:136, 1].astype(np.float32) - 128)


def test_no_motion_is_zero_for_the_network():
    assert (make(FLOW, flow=np.full((4, 24, 32, 3), np.nan, np.float32)) == 0).all()
    assert (make(changed(FLOW, mean=0.0, scale=0.5), flow=np.zeros((4, 24, 32, 3), np.float32)) == 64).all()


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        ({"flow": np.zeros((4, 24, 32, 2), np.float32)}, r"scene flow is \[24, 32, 2\], expected \[h, w, 3\]"),
        ({"flow": np.zeros((3, 24, 32, 3), np.float32)}, r"\[3, 120, 160, 3\], expected \[4, 120, 160, 3\]"),
        ({"flow_rgb": np.zeros((4, 112, 112, 3), np.uint8)}, r"\[4, 112, 112, 3\], expected \[4, 120, 160, 3\]"),
        ({"bodies": np.zeros((1, 4, 25, 3), np.float32)}, r"'flow_rgb' .*made from 'flow'.*clip holds bodies"),
    ],
)
def test_flow_that_does_not_fit_is_refused(clip, message):
    with pytest.raises(InputError, match=message):
        make(FLOW, **clip)


def test_extrema_must_be_three_speeds():
    with pytest.raises(ConfigError, match=r"max_speed_m_s is \[2.0, 0.0, 2.0\], expected three speeds above 0"):
        make(changed(FLOW, max_speed_m_s=(2.0, 0.0, 2.0)), flow=np.zeros((4, 24, 32, 3), np.float32))


# -- joint_pixels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("picture", [(512, 424), (640, 480), (1280, 720), (424, 600)])
@pytest.mark.parametrize("reduction", [1, 2])
def test_joints_lie_where_their_motion_is_seen(picture, reduction):
    """A spot moves at each joint: the network's picture must show it at the joint's place, wherever it is cropped."""
    width, height = picture
    pixels = np.full((1, 4, 25, 2), np.nan, np.float32)
    flow = np.zeros((4, height // reduction, width // reduction, 3), np.float32)
    for t, (right, down) in enumerate([(0.5, 0.5), (0.45, 0.6), (0.4, 0.45), (0.55, 0.4)]):
        u, v = round(right * width), round(down * height)
        pixels[0, t, 7] = u, v
        x, y = u // reduction, v // reduction
        reach = max(round(0.012 * height / reduction), 1)
        flow[t, y - reach : y + reach + 1, x - reach : x + reach + 1] = 1.5
    for specs in ([FLOW, PIXELS], jittered([FLOW, PIXELS], np.random.default_rng(3))):
        made = features.inputs({"flow": flow, "pixels": pixels, "size": np.array(picture)}, specs)
        for t in range(4):
            spot = np.maximum(made["flow_rgb"][0, t], 0)
            rows, columns = np.indices(spot.shape)
            seen = np.array([(spot * columns).sum(), (spot * rows).sum()]) / spot.sum()
            # Half a pixel by rounding the joint, up to 0.9 by cutting half-size flow at whole pixels of its own.
            np.testing.assert_allclose(made["joint_pixels"][t, 7], seen, atol=1.4)


def test_kinect_pixels_literally():
    pixels = np.full((1, 4, 25, 2), np.nan, np.float32)
    pixels[0, :, 0] = [200, 180]
    found = make(PIXELS, pixels=pixels, size=np.array([512, 424]))
    # 200.5 from the corner; 96 cut off; halved; 24 of 160 cut off to the left; the pixel on which that falls.
    np.testing.assert_array_equal(found[0, 0], np.floor([(200.5 - 96) / 2 - 24, (180.5 - 92) / 2 - 4]))


def test_random_crops_are_shared_and_reach_every_place():
    rng = np.random.default_rng(1)
    places = set()
    for _ in range(20):
        flow, pixels, other = jittered([FLOW, PIXELS, MAP], rng)
        assert other == MAP
        assert flow.preprocessing["crop_x"] == pixels.preprocessing["crop_x"]
        corner = PictureCrop(0.5, flow.preprocessing["crop_x"], flow.preprocessing["crop_y"]).corner(112)
        assert 0 <= corner[0] <= 48
        assert 0 <= corner[1] <= 8
        places.add(corner)
    assert len(places) > 15
    assert PictureCrop(crop_x=1.0, crop_y=1.0).corner(112) == (48, 8)


def test_absent_and_distant_joints_are_far_outside():
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
        ((1, 4, 25, 2), None, "made from 'size'.*clip holds pixels"),
    ],
)
def test_pixels_that_do_not_fit_are_refused(pixels, size, message):
    clip = {"pixels": np.zeros(pixels, np.float32)}
    if size is not None:
        clip["size"] = np.array(size)
    with pytest.raises(InputError, match=message):
        make(PIXELS, **clip)


# -- joint_map ---------------------------------------------------------------------------------------------------------


def bodies_at_random(count=2, frames=12):
    rng = np.random.default_rng(7)
    return rng.uniform([-2, -2, 0.5], [2, 2, 4.5], (count, frames, 25, 3)).astype(np.float32)


def test_joints_are_placed_successively_and_normalized_for_each_plane():
    bodies = bodies_at_random()
    found = make(MAP, bodies=bodies)
    lower, upper = [-2.5, -2.5, 0.0], [2.5, 2.5, 5.0]
    for m, t, v, d in np.ndindex(*bodies.shape):
        expected = 2 * (bodies[m, t, v, d] - lower[d]) / (upper[d] - lower[d]) - 1
        assert found[m * 75 + 3 * v + d, t] == pytest.approx(expected, abs=1e-5)
    assert (found[:, 12:] == 0).all()
    assert np.abs(found).max() <= 1


def test_an_absent_body_is_zero_and_what_lies_outside_is_cut():
    bodies = bodies_at_random()
    bodies[1] = np.nan
    bodies[0, 0, 0] = [99, -99, 99]
    found = make(MAP, bodies=bodies)
    assert (found[75:] == 0).all()
    assert found[:3, 0].tolist() == [1, -1, 1]
    np.testing.assert_array_equal(found, make(MAP, bodies=bodies[:1]))


def test_the_same_pose_gives_the_same_column_whatever_else_the_window_holds():
    bodies = bodies_at_random()
    np.testing.assert_array_equal(make(MAP, bodies=bodies)[:, 4:9], make(MAP, bodies=bodies[:, 4:9])[:, :5])


def test_a_missing_joint_sits_on_its_parent():
    bodies = bodies_at_random(1)
    bodies[0, 3, 7] = np.nan  # the left hand, whose parent is the wrist
    found = make(MAP, bodies=bodies)
    np.testing.assert_array_equal(found[21:24, 3], found[18:21, 3])
    assert np.isfinite(found).all()


def test_columns_between_two_frames_are_interpolated():
    bodies = bodies_at_random(1, 4)
    found = make(changed(MAP, rate=3), bodies=bodies)
    plain = make(MAP, bodies=bodies)
    np.testing.assert_allclose(found[:, 0:10:3], plain[:, :4], atol=1e-6)
    np.testing.assert_allclose(found[:, 1], plain[:, 0] * 2 / 3 + plain[:, 1] / 3, atol=1e-5)
    assert (found[:, 10:] == 0).all()


@pytest.mark.parametrize("rate", [1, 3])
def test_the_map_begins_with_the_first_frame_in_which_somebody_is_seen(rate):
    bodies = bodies_at_random(2, 5)
    bodies[0, :, 7], bodies[1] = np.nan, np.nan  # a joint and a person that are never seen
    begun = make(changed(MAP, rate=rate), bodies=bodies[:, 1:])
    held = np.concatenate([bodies[:, 1:2], bodies[:, 1:2], bodies[:, 1:]], axis=1)
    nobody = np.concatenate([np.full_like(bodies[:, :1], np.nan), held], axis=1)
    for window in (held, nobody):
        assert first_shown(window) == window.shape[1] - 4
        np.testing.assert_array_equal(make(changed(MAP, rate=rate), bodies=window[:, -6:]), begun)
    still = make(changed(MAP, rate=rate), bodies=np.repeat(bodies[:, :1], 5, axis=1))
    assert np.abs(still[:, 0]).max() > 0 and (still[:, 1:] == 0).all()
    assert (make(MAP, bodies=bodies * np.nan) == 0).all()


def test_a_body_that_comes_into_view_does_not_grow_out_of_the_center():
    bodies = bodies_at_random(2, 4)
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
def test_bodies_that_do_not_fit_are_refused(shape, message):
    with pytest.raises(InputError, match=message):
        make(MAP, bodies=np.zeros(shape, np.float32))


def test_bounds_must_be_in_order_and_the_layout_known():
    with pytest.raises(ConfigError, match="each below its upper one"):
        make(changed(MAP, lower_m=(3.0, -2.5, 0.0)), bodies=bodies_at_random())
    with pytest.raises(ConfigError, match="kinect_v2_25"):
        make(dataclasses.replace(MAP, layout="octopus_8"), bodies=bodies_at_random())
    with pytest.raises(InputError, match="made from 'bodies'"):
        make(MAP, flow=np.zeros((4, 24, 32, 3), np.float32))
