"""Positions of clips in a recording: training samples the same windows that evaluation scores."""

from dataclasses import fields, replace

import numpy as np
import pytest

from actrec.datasets.base import Clip, ClipDataset
from actrec.features.clips import window_inputs
from actrec.features.specs import InputSpec, WindowSpec
from actrec.types import NANOSECONDS
from actrec.utils import config
from actrec_models.data import augmentation
from actrec_models.data.augmentation import Augmentation
from actrec_models.data.samples import Samples, parts
from actrec_models.layers import cnn3d
from actrec_models.training.recipe import Recipe
from tests.models.places import still
from tests.tiny_model import RAW

FPS = 4.0
BODY = InputSpec("body", "body", "kinect_v2_25", (1, 3, 4, 25), "m", RAW)
IMAGE = InputSpec("image", "image", "CTHW", (3, 4, 16, 16))
MAP = InputSpec("joint_map", "joint_map", "kinect_v2_25", (75, 8), "m", {"scope": "window"})
IN_CLIPS = WindowSpec(2.0, 8, 4, 2)
UNCHANGED = {"speed": 1.0, "cut": 0.0, "hold_s": 0.0}


def recording(frames):
    """Return a clip whose frame i shows a person at x = i and an image of brightness 5 · i."""
    clip = still("clip", 0, [(float(i), 2.0) for i in range(frames)], FPS)
    color = np.ones((frames, 16, 16, 3), np.uint8) * (5 * np.arange(frames, dtype=np.uint8))[:, None, None, None]
    return replace(clip, streams={"color": color, "size": np.array([16, 16])})


def samples(clip, specs, augmentation=None, window=IN_CLIPS, **settings):
    recipe = config.build(Recipe, {"clips": "whole", **settings})
    return Samples(ClipDataset([clip], ["a", "b"]), specs, window, recipe, augmentation)


def frames_of(sample):
    """Return the recorded frames that a sample's images show."""
    return tuple(np.round((sample["image"][0, :, 8, 8] + 1) * 127.5 / 5).astype(int))


def evaluated_frames(clip, specs, window=IN_CLIPS):
    """Return the recorded frames of each clip that evaluation scores."""
    clips = []
    for part in parts(clip, specs, window, "whole"):
        indices = np.round(np.maximum(part.stamps_ns, 0) / NANOSECONDS * FPS).astype(int)
        clips += [tuple(indices[start : start + window.clip_frames]) for start in part.starts]
    return clips


@pytest.mark.parametrize("frames", [1, 3, 12, 40])
def test_windows_stretched_covers_whole_recording(frames):
    clip = recording(frames)
    [(stamps, part, starts, _)] = parts(clip, [BODY], window := WindowSpec(1.0, 4), "stretched")
    assert (part, starts, len(stamps)) == (window, (0,), 4)
    assert (stamps[0], stamps[-1]) == (clip.stamps_ns[0], clip.stamps_ns[-1])
    x = clip.at_stamps(stamps)["bodies"][0, :, 0, 0]
    np.testing.assert_allclose(x - x[0], np.linspace(0, frames - 1, 4), rtol=1e-4)


@pytest.mark.parametrize("frames", [5, 9, 30, 61])
@pytest.mark.parametrize("window", [WindowSpec(1.25, 5), WindowSpec(2.0, 8, 4, 3), WindowSpec(2.0, 8, 5, 2)])
def test_windows_parts_cover_recording_from_start_to_end(frames, window):
    clip = recording(frames)
    found = [part.stamps_ns for part in parts(clip, [BODY], window, "whole")]
    assert (found[0][0], found[-1][-1]) == (0, clip.stamps_ns[-1])
    steps = np.diff([stamps[0] for stamps in found]) / NANOSECONDS * FPS
    stride = window.stride or 2
    assert (steps[1:] == stride).all() and (steps[:1] <= stride).all()
    stamps = np.unique(np.concatenate(found))
    np.testing.assert_array_equal(stamps, clip.stamps_ns)  # all frames are covered


@pytest.mark.parametrize("frames", [1, 3])
def test_windows_short_recording_gives_one_clip_at_its_end(frames):
    expected = tuple(max(i, 0) for i in range(frames - 4, frames))
    assert evaluated_frames(recording(frames), [BODY]) == [expected]
    assert evaluated_frames(recording(frames), [BODY, MAP]) == [expected]


@pytest.mark.parametrize("rate", [12.0, 30.0, 29.97])
def test_windows_nanosecond_rounding_loses_no_frame(rate):
    stamps = (np.arange(16) / rate * NANOSECONDS).astype(np.int64) + 1_700_000_000 * NANOSECONDS
    clip = Clip("c3d", 0, stamps, np.zeros((1, 16, 25, 3), np.float32))
    window = WindowSpec(48 / rate, 48, 16, 8)
    [part] = parts(clip, [BODY], window, "whole")
    np.testing.assert_allclose(part.stamps_ns, stamps, rtol=0, atol=2)


def test_windows_full_window_inputs_get_full_windows():
    found = list(parts(recording(24), [BODY, MAP], IN_CLIPS, "whole"))
    assert {part.window for part in found} == {IN_CLIPS}
    assert [len(part.stamps_ns) for part in found] == [8] * len(found)
    assert {part.starts for part in found} == {(0, 2, 4)}


@pytest.mark.parametrize(("frames", "ends"), [(24, (19, 21, 23)), (4, (0, 1, 3))])
def test_windows_live_inputs_of_full_window_end_with_each_clip(frames, ends):
    found = list(parts(recording(frames), [BODY, MAP], IN_CLIPS, "live"))
    assert [(part.window, part.starts) for part in found] == [(IN_CLIPS, (4,))] * 3
    assert [part.stamps_ns[-1] / NANOSECONDS * FPS for part in found] == list(ends)
    assert [part.starts for part in parts(recording(frames), [BODY], IN_CLIPS, "live")] == [IN_CLIPS.starts]


@pytest.mark.parametrize("augmentation", [None, Augmentation(**UNCHANGED)])
def test_windows_live_training_samples_exactly_the_evaluated_maps(augmentation):
    """A map of the whole window ends with the clip beside it, in training as live."""
    clip, expected = recording(24), {}
    wide = replace(MAP, preprocessing={**MAP.preprocessing, "upper_m": (25.0, 2.5, 5.0)})  # no pose is clipped
    for part in parts(clip, [IMAGE, wide], IN_CLIPS, "live"):
        (inputs,) = window_inputs(clip.at_stamps(part.stamps_ns), [IMAGE, wide], part.window, part.starts)
        expected[frames_of(inputs)] = inputs["joint_map"]
    training = samples(clip, [IMAGE, wide], augmentation, clips="live")
    training.any_clip = True
    found = [training[epoch, 0, 0] for epoch in range(40)]
    assert {frames_of(sample) for sample in found} == set(expected)
    for sample in found:
        np.testing.assert_allclose(sample["joint_map"], expected[frames_of(sample)], atol=1e-5)


def test_windows_clips_start_inside_recording():
    """Clips of four frames start in steps of two back from the end, and never before the recording."""
    assert evaluated_frames(recording(7), [BODY, MAP]) == [(0, 1, 2, 3), (1, 2, 3, 4), (3, 4, 5, 6)]
    assert evaluated_frames(recording(4), [BODY, MAP]) == [(0, 1, 2, 3)]
    window = WindowSpec(2.25, 9, 4, 2)  # its clips do not cover its first frame
    assert evaluated_frames(recording(9), [MAP], window) == [(0, 1, 2, 3), (1, 2, 3, 4), (3, 4, 5, 6), (5, 6, 7, 8)]
    assert {frame for clip in evaluated_frames(recording(30), [MAP], window) for frame in clip} == set(range(30))


@pytest.mark.parametrize("augmentation", [None, Augmentation(**UNCHANGED)])
@pytest.mark.parametrize("length", [2, 4, 11, 40])
def test_windows_training_samples_exactly_the_evaluated_windows(augmentation, length):
    clip = recording(length)
    training = samples(clip, [IMAGE], augmentation)
    expected = evaluated_frames(clip, [IMAGE])
    found = [frames_of(training[epoch, 0, 0]) for epoch in range(40 * len(expected))]
    assert set(found) == set(expected)
    counts = [found.count(clip) for clip in expected]
    assert min(counts) > 20 and max(counts) < 65  # expected: 40


def test_windows_of_one_epoch_start_at_different_frames():
    clip = recording(11)  # five positions
    training = samples(clip, [IMAGE], Augmentation(**UNCHANGED))
    for epoch in range(5):
        clips = [frames_of(training[epoch, 0, k]) for k in range(5)]
        assert sorted(clips) == evaluated_frames(clip, [IMAGE])
        assert clips == [frames_of(training[epoch, 0, k]) for k in range(5)], "resumed runs get the same clips"
    assert len({tuple(frames_of(training[epoch, 0, k]) for k in range(5)) for epoch in range(9)}) > 5


def test_windows_map_and_clip_come_from_same_window():
    training = samples(recording(12), [IMAGE, MAP], seed=4)
    for epoch in range(20):
        sample = training[epoch, 0, 0]
        (first, *_, last), columns = frames_of(sample), np.flatnonzero(sample["joint_map"][2])
        assert 0 <= first < last <= 11
        assert len(columns) == 8, "windows have eight recorded frames"


def test_windows_bodies_only_augmented_at_same_starts():
    no_change = {field.name: 0.0 for field in fields(Augmentation)} | {"speed": 1.0, "mirror": False}
    window = WindowSpec(1.0, 4)
    training = samples(recording(12), [BODY], Augmentation(**no_change), window)
    found = {tuple(np.diff(training[epoch, 0, 0]["body"][0, 0, :, 0])) for epoch in range(40)}
    assert {np.round(steps).tolist() == [1, 1, 1] for steps in map(np.array, found)} == {True}
    x = {round(float(training[epoch, 0, 0]["body"][0, 0, -1, 0])) for epoch in range(60)}
    assert x == {clip[-1] for clip in evaluated_frames(recording(12), [BODY], window)}


def test_windows_without_sliding_sampled_as_before():
    clip = recording(40)
    training = samples(clip, [IMAGE], clips="live")
    assert frames_of(training[5, 0, 0]) == (36, 37, 38, 39)
    stamps = augmentation.sample_stamps(clip, 2.0, 8, Augmentation(**UNCHANGED), np.random.default_rng(0))
    np.testing.assert_array_equal(stamps, clip.stamps_ns[-8:])


def test_windows_speed_augmentation_stays_inside_recording():
    clip, rng = recording(20), np.random.default_rng(3)
    options = Augmentation(**{**UNCHANGED, "speed": 2.0})
    for part in parts(clip, [IMAGE], IN_CLIPS, "whole"):
        lengths = []
        for _ in range(50):
            changed = augmentation.vary_speed(clip, part.stamps_ns, options, rng)
            assert (changed[0], changed[-1]) >= (0, part.stamps_ns[-1]) and changed[-1] <= clip.stamps_ns[-1]
            lengths.append((changed[-1] - changed[0]) / (part.stamps_ns[-1] - part.stamps_ns[0]))
        assert 0.5 <= min(lengths) < 0.7 and 1.6 < max(lengths) <= 2.0
    unchanged = augmentation.vary_speed(clip, part.stamps_ns, Augmentation(**UNCHANGED), rng)
    np.testing.assert_array_equal(unchanged, part.stamps_ns)


def test_augment_bodies_smoothed_averages_neighbors_and_keeps_missing_joints():
    amounts = {"tilt_deg": 0, "proportions": 0, "noise_m": 0, "bias_m": 0, "exchange": 0, "missing": 0, "mirror": False}
    bodies = np.zeros((1, 21, 25, 3), np.float32)
    bodies[0, 10, 4] = 1.0
    bodies[0, 11, 6] = np.nan
    plain, smoothed = (
        augmentation.augment_bodies(bodies.copy(), Augmentation(**amounts, smoothed=share), np.random.default_rng(3))
        for share in (0, 1)
    )
    assert np.allclose(plain, bodies, equal_nan=True)
    assert np.isnan(smoothed[0, 11, 6]).all() and np.isfinite(smoothed).sum() == np.isfinite(bodies).sum()
    moved = smoothed[0, :, 4, 0]
    assert moved.max() in (
        pytest.approx(1 / 3),
        pytest.approx(1 / 5),
        pytest.approx(1 / 7),
    ) and moved.sum() == pytest.approx(1)


def published_frames(count, start):
    """Return the images that P-I3D's and VPN's authors read of a video of `count`, here four instead of 64."""
    images = list(range(count))
    if count > 4 * 2:
        files = images[start : start + 4 * 2 : 2]
    elif count < 4:
        files = (images * 4)[:4]
    else:
        files = images[start : start + 4]
    return tuple(sorted(files))


@pytest.mark.parametrize("frames", [1, 3, 4, 7, 8, 9, 40])
def test_subsequences_equal_published_frames(frames):
    clip, last = recording(frames), max(frames - 8, 0) if frames > 8 else max(frames - 4, 0)
    window = WindowSpec(5.0, 20, 4, 4)  # five clips
    possible = {published_frames(frames, start) for start in range(last + 1)}
    tested = [
        tuple(np.searchsorted(clip.stamps_ns, part.stamps_ns)) for part in parts(clip, [IMAGE], window, "subsequences")
    ]
    assert len(set(tested)) == len(tested) == min(last + 1, 5) and set(tested) <= possible
    assert (tested[0], tested[-1]) == (published_frames(frames, 0), published_frames(frames, last))
    whole = samples(clip, [IMAGE], Augmentation(**UNCHANGED), window, clips="subsequences")
    whole.any_clip = True
    assert {frames_of(whole[epoch, 0, 0]) for epoch in range(40 if last < 5 else 200)} == possible


def test_subsequences_have_poses_of_whole_recording():
    spec = cnn3d.pose_spec(5, "window", "segments")
    raw = replace(spec, preprocessing={**spec.preprocessing, **RAW})
    clip = recording(40)
    trained = samples(clip, [IMAGE, raw], Augmentation(**UNCHANGED), clips="subsequences")
    assert [round(float(x)) for x in trained[0]["pose"][0, :, 0]] == [3, 11, 19, 27, 35]  # tests: the middle of eight
    trained.any_clip = True
    found = np.array([trained[epoch, 0, 0]["pose"][0, :, 0] for epoch in range(60)]).round().astype(int)
    assert (found // 8 == np.arange(5)).all()
    assert set(found.ravel()) == set(range(40))  # every frame of the recording
