import numpy as np
import pytest

from actrec import features
from actrec.features.clips import example_clip
from actrec.features.specs import InputSpec
from actrec.features.stamps import extrema, normalize, stamp
from actrec.utils.errors import ConfigError, InputError

LAYOUTS = {
    "body": "kinect_v2_25",
    "bones": "kinect_v2_25",
    "hands": "hand_21",
    "face": "face_68",
    "motion": "kinect_v2_25",
}
FRAMES = 12


def spec(name, bodies=1, size=224, **preprocessing):
    options = {"frames": FRAMES, **preprocessing}
    return InputSpec(f"{name}_stamp", f"{name}_stamp", LAYOUTS[name], (bodies, 3, size, size), "", options)


def graph_spec(name, bodies=1):
    joints = {"hands": 42, "face": 68}.get(name, 25)
    return InputSpec(name, name, LAYOUTS[name], (bodies, 3, FRAMES, joints))


@pytest.fixture(scope="module")
def clip():
    return example_clip([spec(name) for name in LAYOUTS], FRAMES)


def make(clip, wanted):
    return features.inputs(clip, [wanted])[wanted.name]


def literal_stamp(values, c_min, c_max, size):
    """Apply Eq. 1 to each joint and frame, then interpolate the image pixel by pixel."""
    _, frames, joints = values.shape
    image = np.zeros((3, joints, frames))  # C × H × W: time along the width
    for c in range(3):
        for t in range(frames):
            for k in range(joints):
                image[c, k, t] = min(max(255 * (values[c, t, k] - c_min) / (c_max - c_min), 0), 255)
    resized = np.zeros((3, size, size))
    for row in range(size):
        for column in range(size):
            y = min(max((row + 0.5) * joints / size - 0.5, 0), joints - 1)
            x = min(max((column + 0.5) * frames / size - 0.5, 0), frames - 1)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, joints - 1), min(left + 1, frames - 1)
            upper = image[:, top, left] * (1 - (x - left)) + image[:, top, right] * (x - left)
            lower = image[:, bottom, left] * (1 - (x - left)) + image[:, bottom, right] * (x - left)
            resized[:, row, column] = upper * (1 - (y - top)) + lower * (y - top)
    return resized


def test_stamp_matches_equation_1():
    values = np.random.default_rng(1).normal(0, 2, (3, 7, 25)).astype(np.float32)
    found = stamp(values, -3.0, 4.0, 32)
    np.testing.assert_allclose(found, literal_stamp(values, -3.0, 4.0, 32), atol=0.02)
    np.testing.assert_allclose(normalize(np.array([-3.0, 0.5, 4.0, 9.0, -9.0]), -3.0, 4.0), [0, 127.5, 255, 255, 0])


@pytest.mark.parametrize("name", LAYOUTS)
def test_stamps_match_equation_1_of_graph_inputs(clip, name):
    made = make(clip, spec(name, minimum=-5.0, maximum=6.0))
    assert made.shape == (1, 3, 224, 224)
    assert made.dtype == np.float32
    coordinates = make(clip, graph_spec(name))[0]
    np.testing.assert_allclose(made[0], stamp(coordinates, -5.0, 6.0, 224), atol=1e-3)


def test_stamp_width_is_time_and_height_is_joints():
    values = np.zeros((3, 8, 8), np.float32)
    values[0] = np.arange(8)[:, None]  # grows with time
    values[1] = np.arange(8)[None, :]  # grows with the joint
    made = stamp(values, 0.0, 7.0, 16)
    assert (np.diff(made[0], axis=1) >= 0).all() and np.ptp(made[0], axis=0).max() < 1e-3
    assert (np.diff(made[1], axis=0) >= 0).all() and np.ptp(made[1], axis=1).max() < 1e-3


@pytest.mark.parametrize("name", LAYOUTS)
def test_stamp_default_extrema_cover_recorded_motion(clip, name):
    made = make(clip, spec(name))
    assert ((made > 0) & (made < 255)).mean() > 0.99
    assert np.ptp(made) > 40


@pytest.mark.parametrize(
    ("name", "keys"), [("hands", ["hand_pixels"]), ("face", ["face_pixels"]), ("motion", ["motion"])]
)
def test_stamp_absent_stream_is_zero(clip, name, keys):
    without = {key: value for key, value in clip.items() if key not in keys}
    assert not make(without, spec(name, bodies=2)).any()


def test_stamp_absent_body_is_zero(clip):
    made = make(clip, spec("body", bodies=2))
    assert made[0].any()
    assert not made[1].any()


def test_extrema_cover_all_clips(clip):
    specs = [spec(name) for name in LAYOUTS]
    still = {key: value for key, value in clip.items() if key not in ("motion", "face_pixels")}
    other = example_clip(specs, FRAMES, seed=3)
    found = extrema([clip, other, still], [*specs, graph_spec("body")])
    assert set(found) == set(LAYOUTS)
    for name, (low, high) in found.items():
        values = np.stack([make(c, graph_spec(name)) for c in (clip, other)])
        assert (low, high) == (values.min(), values.max())
        made = make(clip, spec(name, minimum=low, maximum=high))
        assert made.min() >= 0 and made.max() <= 255
    assert "face" not in extrema([still], specs)


def test_stamp_invalid_preprocessing_or_shape_raises(clip):
    with pytest.raises(ConfigError, match=r"minimum is 2, maximum 1"):
        make(clip, spec("body", minimum=2.0, maximum=1.0))
    with pytest.raises(ConfigError, match="center"):
        make(clip, spec("motion", center="none"))
    with pytest.raises(InputError, match=r"\[1, 12, 25, 3\].*40 frames"):
        make(clip, spec("body", frames=40))
    with pytest.raises(InputError, match=r"hand_pixels is \[1, 12, 2, 21, 2\].*40 frames"):
        make(clip, spec("hands", frames=40))
    with pytest.raises(InputError, match=r"\[1, 3, 10, 20\], expected \[M, 3, size, size\]"):
        make(clip, InputSpec("s", "body_stamp", "kinect_v2_25", (1, 3, 10, 20), "", {"frames": FRAMES}))
