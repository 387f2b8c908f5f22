import numpy as np
import pytest

from actrec import features
from actrec.features import clips
from actrec.features.clips import CAMERA, example_clip
from actrec.features.specs import InputSpec, WindowSpec
from actrec.types import KEYS
from actrec.utils.errors import InputError

WINDOW = WindowSpec(4.8, 20, 8, 6)
BODY = InputSpec("body", "body", "kinect_v2_25", (2, 3, 12, 25))
CLIP = {
    "bodies": np.arange(20, dtype=np.float32)[None, :, None, None] * np.ones((1, 1, 25, 3), np.float32),
    "size": np.array([320, 240], np.float32),
    "crop": np.arange(20),
}


def test_cut_each_key_along_its_time_axis():
    part = clips.cut(CLIP, 3, 8)
    assert part["bodies"].shape == (1, 8, 25, 3)
    assert part["bodies"][0, 0, 0, 0] == 3
    np.testing.assert_array_equal(part["crop"], range(3, 11))
    np.testing.assert_array_equal(part["size"], CLIP["size"])


@pytest.mark.parametrize(("start", "frames"), [(13, 8), (-1, 8), (0, 21)])
def test_cut_frames_outside_clip_raises(start, frames):
    with pytest.raises(InputError, match=rf"'bodies' \[1, 20, 25, 3\] has no frames {start} to"):
        clips.cut(CLIP, start, frames)


def test_window_inputs_share_inputs_that_span_window():
    raw = {"center": "none", "align": "none", "scale": "none"}
    each = InputSpec("each", "body", "kinect_v2_25", (1, 3, 8, 25), preprocessing=raw)
    made = clips.window_inputs(CLIP, [each], WINDOW)
    assert [inputs["each"][0, 0, 0, 0] for inputs in made] == [0, 6, 12]
    assert len(clips.window_inputs(CLIP, [each], WINDOW, starts=[5])) == 1


def test_window_inputs_compute_spanning_input_once(monkeypatch):
    calls = []

    def inputs(clip, specs):
        calls.extend((spec.name, clip["bodies"].shape[1]) for spec in specs)
        return {spec.name: clip["bodies"] for spec in specs}

    monkeypatch.setattr(features, "inputs", inputs)
    whole = InputSpec("whole", "joint_map", "kinect_v2_25", (3, 20, 25), preprocessing={"scope": "window"})
    each = InputSpec("each", "body", "kinect_v2_25", (1, 3, 8, 25))
    made = clips.window_inputs(CLIP, [whole, each], WINDOW)
    assert calls == [("whole", 20), ("each", 8), ("each", 8), ("each", 8)]
    assert all(set(inputs) == {"whole", "each"} and inputs["whole"] is made[0]["whole"] for inputs in made)


def test_example_clip_follows_contract_and_repeats_by_seed(monkeypatch):
    monkeypatch.setattr(features, "streams", lambda specs: dict.fromkeys(("bodies", "hands", "face", "flow", "color")))
    clip, again, other = (example_clip([BODY], 12, bodies=2, seed=seed) for seed in (1, 1, 2))
    assert set(clip) == set(KEYS) - {"up"}, "the camera of examples is level"
    sizes = {"M": 2, "T": 12, "V": 25, "H": 240, "W": 320}
    for name, value in clip.items():
        axes = [size.strip() for size in KEYS[name][1].strip("[]").split(",")]
        shape = tuple(int(a) if a.isdigit() else sizes[a] for a in axes)
        assert value.shape == (shape if name != "flow" else (12, 120, 160, 3)), name
        assert value.dtype == (np.uint8 if name == "color" else np.float32), name
        assert np.isfinite(value).all(), name
        np.testing.assert_array_equal(value, again[name])
        assert name == "size" or (value != other[name]).any(), name


def test_example_clip_people_are_upright_and_move():
    clip = example_clip([BODY], 12, bodies=2)
    assert set(clip) == {"bodies", "pixels", "size"}
    head, feet = clip["pixels"][:, :, 3, 1], clip["pixels"][:, :, 15, 1]
    assert (head < feet - 100).all()
    assert (clip["pixels"] >= 0).all()
    assert (clip["pixels"] < [CAMERA.width, CAMERA.height]).all()
    assert np.ptp(clip["bodies"], axis=1).max() > 0.005


def test_example_clip_other_layout_has_its_joints():
    spec = InputSpec("body", "body", "hand_22", (1, 3, 8, 22))
    clip = example_clip([spec], 8)
    assert clip["bodies"].shape == (1, 8, 22, 3)
    assert clip["pixels"].shape == (1, 8, 22, 2)


@pytest.mark.parametrize("frames", [1, 12])
def test_example_clip_is_valid_input_of_features(frames):
    spec = InputSpec("body", "body", "kinect_v2_25", (2, 3, frames, 25))
    made = features.inputs(example_clip([spec], frames, bodies=2), [spec])["body"]
    assert made.shape == spec.shape
    assert np.abs(made).max() < 10
