import dataclasses
from typing import Any

import cv2
import numpy as np
import pytest

from actrec import features
from actrec.datasets.ntu.skeletons import read_ntu_file
from actrec.features.clips import CAMERA, example_clip
from actrec.features.crops import JITTER, body_box, cut, hand_box, jittered, pixels_per_meter
from actrec.features.specs import BodyView, InputSpec
from actrec.skeleton.layouts import KINECT_V2_25 as LAYOUT
from actrec.types import Intrinsics
from actrec.utils.camera_model import project
from actrec.utils.errors import ConfigError, InputError
from actrec.utils.geometry import rotation

NAMES = ("image", "body_crop", "left_hand_crop", "right_hand_crop")
V2 = "kinect_v2_25"


def spec(name="body_crop", frames=4, size=32, **preprocessing):
    return InputSpec(name, name, V2, (3, frames, size, size), preprocessing=preprocessing)


def observe(view, name="body_crop", **options):
    feature: Any = features.feature(name)
    return feature.observe(view, spec(name, **options))


def present(box: Any) -> Any:
    """Check that there is a box, and return it."""
    assert box is not None
    return box


@pytest.fixture(scope="module")
def clip():
    return example_clip([spec(name) for name in NAMES], 4)


@pytest.fixture
def view(clip):
    """A person in front of a 320×240 camera, without hands."""
    return BodyView(pixels=clip["pixels"][0, 0], color=clip["color"][0], size=(320, 240))


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(1).integers(1, 256, (60, 80, 3)).astype(np.uint8)


def example_joints():
    """Return the joints [25, 3] of a person, m."""
    return example_clip([InputSpec("body", "body", V2, (1, 3, 1, 25))], 1)["bodies"][0, 0]


def test_cut_same_size_copies(noise):
    np.testing.assert_array_equal(cut(noise, (39.5, 29.5, 20.0), 20), noise[20:40, 30:50])


def test_cut_scales_by_area_or_linearly(noise):
    down = noise[10:50, 20:60].reshape(20, 2, 20, 2, 3).mean(axis=(1, 3))
    assert np.abs(cut(noise, (39.5, 29.5, 40.0), 20) - down).max() <= 1
    up = cv2.resize(noise[19:41, 29:51], (66, 66), interpolation=cv2.INTER_LINEAR)[3:63, 3:63]
    found = cut(noise, (39.5, 29.5, 20.0), 60)
    assert np.abs(found.astype(int) - up).max() <= 16  # OpenCV interpolates at 1/32 px


@pytest.mark.parametrize(("side", "size"), [(20.0, 56), (30.7, 28), (57.3, 24), (20.0, 20)])
def test_cut_keeps_places_to_fractions_of_a_pixel(side, size):
    u, v = np.meshgrid(np.arange(160.0), np.arange(120.0))
    found = cut(np.stack([u, v, v], axis=-1).astype(np.float32), (70.3, 60.4, side), size)
    place = (np.arange(size) + 0.5 - size / 2) * side / size
    np.testing.assert_allclose(found[size // 2, :, 0], 70.3 + place, atol=0.1)
    np.testing.assert_allclose(found[:, size // 2, 1], 60.4 + place, atol=0.1)


def test_cut_outside_image_is_black(noise):
    corner = cut(noise, (-0.5, -0.5, 20.0), 20)
    np.testing.assert_array_equal(corner[10:, 10:], noise[:10, :10])
    assert not corner[:10].any() and not corner[:, :10].any()
    for box in ((-50.0, 30.0, 20.0), (40.0, 500.0, 20.0), (1e9, -1e9, 3.0)):
        assert not cut(noise, box, 20).any()


@pytest.mark.parametrize("box", [(79.6, 30.0, 10.0), (0.2, 59.9, 1000.0), (40.0, 30.0, 0.0), (40.0, 30.0, 1e6)])
def test_cut_extreme_square_keeps_size(noise, box):
    assert cut(noise, box, 16).shape == (16, 16, 3)


def test_body_box_contains_visible_joints():
    pixels = np.full((25, 2), np.nan)
    assert body_box(pixels, 1.2) is None
    pixels[3] = (100, 50)
    assert body_box(pixels, 1.2) is None  # one joint gives no size
    pixels[14], pixels[10] = (120, 250), (160, np.nan)
    assert body_box(pixels, 1.2) == (110.0, 150.0, pytest.approx(240.0))


@pytest.mark.parametrize("yaw", [0.0, 0.7, np.pi / 2, np.pi])
@pytest.mark.parametrize("distance", [1.5, 4.0])
def test_pixels_per_meter_any_orientation_matches(yaw, distance):
    joints = example_joints()
    turned = (joints - joints[0]) @ rotation(1, yaw).T + np.array([0.2, 0.0, distance])
    assert pixels_per_meter(project(turned, CAMERA), V2) == pytest.approx(CAMERA.fx / distance, rel=0.25)


def test_pixels_per_meter_misplaced_joint_is_ignored(view):
    right = pixels_per_meter(view.pixels, V2)
    wrong = view.pixels.copy()
    wrong[LAYOUT.index["ankle_left"]] += 500
    assert pixels_per_meter(wrong, V2) == pytest.approx(right, rel=0.25)
    assert pixels_per_meter(np.full((25, 2), np.nan), V2) == 0.0


def test_hand_box_uses_hand_or_falls_back_to_joints(view):
    found = np.array([[200.0, 90.0], [210.0, 80.0]] + 19 * [[np.nan, np.nan]])
    missing = np.full((21, 2), np.nan)
    assert present(hand_box(view.pixels, found, "left", 0.4))[:2] == (205.0, 85.0)
    joints = view.pixels[[LAYOUT.index[f"{j}_left"] for j in ("wrist", "hand", "hand_tip")]]
    middle = (joints.min(axis=0) + joints.max(axis=0)) / 2
    for hand in (missing, None):
        box = present(hand_box(view.pixels, hand, "left", 0.4))
        np.testing.assert_allclose(box[:2], middle)
        assert box[2] == pytest.approx(0.4 * pixels_per_meter(view.pixels, V2))
    assert present(hand_box(view.pixels, found, "left", 0.4))[2] == box[2]  # the same size
    without_hand = view.pixels.copy()
    without_hand[[LAYOUT.index[f"{j}_left"] for j in ("wrist", "hand", "hand_tip")]] = np.nan
    assert hand_box(without_hand, missing, "left", 0.4) is None
    assert hand_box(np.full((25, 2), np.nan), found, "left", 0.4) is None  # no body, no size


@pytest.mark.parametrize(("name", "side"), [("left_hand_crop", "left"), ("right_hand_crop", "right")])
def test_hand_crop_shows_its_hand(view, name, side):
    image = np.zeros_like(view.color)
    u, v = np.round(view.pixels[LAYOUT.index[f"hand_{side}"]]).astype(int)
    cv2.circle(image, (int(u), int(v)), 4, (255, 0, 0), -1)
    marked = dataclasses.replace(view, color=image)
    other = "right_hand_crop" if side == "left" else "left_hand_crop"
    assert observe(marked, name)[12:20, 12:20, 0].max() > 200
    assert not observe(marked, other, side=0.2).any()
    # The stream of hands, if present, has first the left hand, then the right one.
    hands = np.full((2, 21, 2), np.nan)
    hands[("left", "right").index(side)] = (u, v)
    away = dataclasses.replace(marked, hand_pixels=hands, pixels=view.pixels + 60)
    assert observe(away, name)[12:20, 12:20, 0].max() > 200
    assert not observe(away, other, side=0.2).any()


def test_crop_without_body_is_black(view):
    without_body = dataclasses.replace(view, pixels=np.full((25, 2), np.nan))
    for name in NAMES[1:]:
        assert not observe(without_body, name).any()
    assert observe(without_body, "image").any()


def test_image_keeps_aspect(view):
    image = observe(view, "image", size=32)
    assert not image[:4].any() and not image[-4:].any()
    np.testing.assert_array_equal(image[4:28], cv2.resize(view.color, (32, 24), interpolation=cv2.INTER_AREA))


@pytest.mark.parametrize("name", NAMES)
def test_inputs_from_observed_frames_equal_inputs_from_color(clip, name):
    whole = features.inputs(clip, [spec(name)])[name]
    assert whole.shape == (3, 4, 32, 32) and whole.dtype == np.float32 and whole.flags.c_contiguous
    views = [
        BodyView(color=clip["color"][t], **{k: clip[k][0, t] for k in ("pixels", "hand_pixels")}) for t in range(4)
    ]
    frames = np.stack([observe(view, name) for view in views])
    assert frames.dtype == np.uint8
    np.testing.assert_array_equal(features.inputs({name: frames}, [spec(name)])[name], whole)
    for t, c in ((0, 0), (3, 2)):
        np.testing.assert_allclose(whole[c, t], frames[t, :, :, c] / 127.5 - 1, atol=1e-6)


def test_crop_without_required_stream_raises(clip):
    bare = {name: clip[name] for name in ("bodies", "pixels", "color")}
    assert features.inputs(bare, [spec("left_hand_crop")])["left_hand_crop"].shape == (3, 4, 32, 32)
    streams = features.streams([spec(name) for name in NAMES])
    assert streams == {"bodies": True, "color": True, "hands": False}
    for missing in ("color", "pixels"):
        lacking = {name: value for name, value in bare.items() if name != missing}
        with pytest.raises(InputError, match=f"'body_crop'.*'{missing}'"):
            features.inputs(lacking, [spec()])


def test_jittered_moves_and_mirrors_all_squares_alike(view):
    specs = [
        dataclasses.replace(spec(n), preprocessing={"shift_x": 0.0, "shift_y": 0.0, "mirror": False}) for n in NAMES
    ]
    other = InputSpec("pose", "pose", V2, (3, 4, 25), preprocessing={"scale": "torso"})
    rng = np.random.default_rng(1)
    mirrors = set()
    for _ in range(20):
        *varied, same = jittered([*specs, other], rng)
        assert same is other
        (shared,) = {tuple(sorted(s.preprocessing.items())) for s in varied}
        options = dict(shared)
        assert abs(options["shift_x"]) <= JITTER and abs(options["shift_y"]) <= JITTER
        assert not options["mirror"], "mirrored crops would not match the poses"
        mirrors.add(jittered(specs, rng)[0].preprocessing["mirror"])
    assert mirrors == {True, False}
    box = present(body_box(view.pixels, 1.2))
    moved = cut(view.color, (box[0] + 0.1 * box[2], box[1] - 0.05 * box[2], box[2]), 32)
    np.testing.assert_array_equal(observe(view, shift_x=0.1, shift_y=-0.05, mirror=True), moved[:, ::-1])


def test_jittered_mirror_exchanges_hands(clip):
    plain = {"shift_x": 0.0, "shift_y": 0.0, "mirror": False}
    both = [dataclasses.replace(spec(n), preprocessing=plain) for n in NAMES[1:]]
    original = features.inputs(clip, both)
    mirrors = set()
    for seed in range(8):
        for specs in (both, both[1:2]):  # a single hand cannot be exchanged
            varied = jittered(specs, np.random.default_rng(seed))
            mirrored = varied[0].preprocessing["mirror"]
            found = features.inputs(clip, [dataclasses.replace(s, preprocessing={"mirror": mirrored}) for s in varied])
            for each in specs:
                other = each.name.replace("left", "R").replace("right", "left").replace("R", "right")
                source = original[other if mirrored and len(specs) > 1 else each.name]
                np.testing.assert_array_equal(found[each.name], source[..., ::-1] if mirrored else source)
            mirrors.add(mirrored)
    assert mirrors == {True, False}
    assert not any(s.preprocessing["mirror"] for k in range(8) for s in jittered(both, np.random.default_rng(k), False))


def test_crop_invalid_input_raises(clip, view):
    with pytest.raises(InputError, match=r"\[20, 2\].*25 joints"):
        observe(dataclasses.replace(view, pixels=np.zeros((20, 2))))
    with pytest.raises(InputError, match=r"\[240, 320, 3\] float32"):
        observe(dataclasses.replace(view, color=view.color.astype(np.float32)))
    with pytest.raises(InputError, match=r"5 images.*\[4, 32, 32, 3\]"):
        features.inputs(clip, [spec(frames=5)])
    with pytest.raises(InputError, match=r"\[3, 4, 32, 16\]"):
        features.inputs(clip, [InputSpec("body_crop", "body_crop", V2, (3, 4, 32, 16))])
    for key in ("color", "pixels"):  # color without pixels, pixels without color
        fewer = {**clip, key: clip[key][:3] if key == "color" else clip[key][:, :3]}
        with pytest.raises(InputError, match="'color'.*'pixels'"):
            features.inputs(fewer, [spec(frames=3)])
    with pytest.raises(ConfigError, match="unknown"):
        features.inputs(clip, [dataclasses.replace(spec(), layout="octopus_8")])
    with pytest.raises(ConfigError, match="margin.*0.5"):
        observe(view, margin=0.5)


def test_hand_crop_recorded_video_centers_hand(data_root):
    """The center of each hand's crop shows the color at that hand's joints."""
    recording = read_ntu_file(data_root / "ntu/skeleton/S001C001P001R001A001.skeleton")
    video = cv2.VideoCapture(str(data_root / "ntu/rgb/S001C001P001R001A001_rgb.avi"))
    read, frame = video.read()
    video.release()
    assert read
    pixels = recording.color_pixels[0, 0].astype(np.float32)
    color = np.ascontiguousarray(frame[..., ::-1])
    whole = BodyView(pixels=pixels, color=color)
    # A person 4 m from a Kinect v2 (f about 1060 px).
    assert pixels_per_meter(pixels, V2) == pytest.approx(1060 / recording.positions[0, 0, 0, 2], rel=0.2)
    side = 0.45 * pixels_per_meter(pixels, V2)
    for name, joint in (("left_hand_crop", "hand_left"), ("right_hand_crop", "hand_right")):
        u, v = np.round(pixels[LAYOUT.index[joint]]).astype(int)
        patch = color[v - 12 : v + 13, u - 12 : u + 13].mean(axis=(0, 1))
        half = round(12 / side * 224)
        middle = observe(whole, name, size=224)[112 - half : 113 + half, 112 - half : 113 + half].mean(axis=(0, 1))
        np.testing.assert_allclose(middle, patch, atol=30)


def test_hand_box_near_camera_is_larger():
    near = Intrinsics(320, 240, 300.0, 300.0, 160.0, 120.0)
    person = example_joints()
    far_box = present(hand_box(project(person + np.array([0, 0, 2.0]), near), None, "left", 0.45))
    near_box = present(hand_box(project(person, near), None, "left", 0.45))
    ratio = (person[0, 2] + 2.0) / person[0, 2]
    assert near_box[2] / far_box[2] == pytest.approx(ratio, rel=0.15)
