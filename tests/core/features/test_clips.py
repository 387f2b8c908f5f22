import numpy as np
import pytest

from actrec import features
from actrec.features import clips
from actrec.features.specs import InputSpec, WindowSpec
from actrec.utils.errors import InputError

WINDOW = WindowSpec(4.8, 20, 8, 6)
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
