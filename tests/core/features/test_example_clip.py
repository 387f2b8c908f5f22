import numpy as np
import pytest

from actrec import features
from actrec.features.clips import CAMERA, example_clip
from actrec.features.specs import InputSpec
from actrec.types import KEYS

BODY = InputSpec("body", "body", "kinect_v2_25", (2, 3, 12, 25))


def test_example_clip_follows_contract_and_repeats_by_seed(monkeypatch):
    monkeypatch.setattr(features, "streams", lambda specs: dict.fromkeys(("bodies", "hands", "face", "flow", "color")))
    clip, again, other = (example_clip([BODY], 12, bodies=2, seed=seed) for seed in (1, 1, 2))
    assert set(clip) == set(KEYS)
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
