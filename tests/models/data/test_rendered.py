"""Clips of the simulated camera as a dataset."""

import dataclasses
import pickle

import numpy as np
import pytest

pytest.importorskip("torch", reason="the networks need PyTorch: make venv")

from actrec import datasets
from actrec.datasets.base import Entry
from actrec.simulation.actions import CYCLE
from actrec.simulation.appearance import cast_member
from actrec.types import KEYS
from actrec.utils.camera_model import project
from actrec.utils.errors import ConfigError, InputError
from actrec_models.data.rendered import VIEWS, RenderedItem, RenderedRgbd

TINY = {"width": 80, "height": 60, "fps": 4.0, "takes": 1, "flow_shrink": 1}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return datasets.source("rendered", tmp_path_factory.mktemp("rendered"), **TINY)


@pytest.fixture(scope="module")
def clip(source):
    return source.read(next(e for e in source.entries() if e.name == "sit_down_p2_v2_t1"))


def test_rendered_entries_cover_every_action_actor_view_and_take(source):
    entries = source.entries()
    assert source.classes == CYCLE
    assert len(entries) == len({e.name for e in entries}) == 8 * 8 * len(VIEWS)
    assert len(datasets.source("rendered", source.root).entries()) == 2 * len(entries)
    assert {(e.label, *e.meta.values()) for e in entries} == {
        (label, subject, view, 1) for label in range(8) for subject in range(1, 9) for view in (1, 2, 3)
    }


def test_rendered_splits_hold_out_actors_and_a_view(source):
    for split, key, test_values in (("cross_actor", "subject", {6, 7, 8}), ("cross_view", "view", {3})):
        parts = {
            part: datasets.create("rendered", source.root, split=split, part=part, **TINY) for part in datasets.PARTS
        }
        values = {part: {meta[key] for meta in clips.metas} for part, clips in parts.items()}
        assert values["test"] == test_values
        assert values["train"].isdisjoint(test_values)
        assert sum(len(clips) for clips in parts.values()) == len(source.entries())
        assert all(set(clips.labels) == set(range(8)) for clips in parts.values())
    with pytest.raises(ConfigError, match="split cross_actor, cross_view; got 'cross_subject'"):
        source.part(source.entries()[0], "cross_subject")


def test_rendered_clip_matches_data_contract(clip):
    frames = len(clip.stamps_ns)
    shapes = {
        "pixels": (1, frames, 25, 2), "hands": (1, frames, 2, 21, 3), "hand_pixels": (1, frames, 2, 21, 2),
        "size": (2,), "color": (frames, 60, 80, 3), "flow": (frames, 60, 80, 3), "motion": (1, frames, 25, 2),
    }  # fmt: skip
    assert {key: clip.streams[key].shape for key in clip.streams} == shapes
    assert shapes.keys() < KEYS.keys()
    assert clip.bodies.shape == (1, frames, 25, 3)
    assert clip.bodies.dtype == np.float32
    assert clip.streams["color"].dtype == np.uint8
    assert (np.diff(clip.stamps_ns) == 250_000_000).all()


def test_rendered_joints_match_depth_and_flow(source, clip):
    item = RenderedItem(source.config, next(e for e in source.entries() if e.name == clip.name))
    frame = next(iter(item.frames()))
    body = frame.skeletons[0]
    np.testing.assert_allclose(body.positions, clip.bodies[0, 0], atol=1e-5)
    np.testing.assert_allclose(project(clip.bodies, item.intrinsics), clip.streams["pixels"], atol=1e-3)
    assert body.scores.max() == 1.0, "some joints are visible"
    # As the person sits down, the skin, which gives flow and motion, moves with the spine's joints.
    pixels, motion = clip.streams["pixels"][0, :, 20], clip.streams["motion"][0, :, 20]
    velocity_px = np.diff(pixels, axis=0) * source.config.fps
    fastest = np.abs(velocity_px[:, 1]).argmax()
    np.testing.assert_allclose(motion[fastest], velocity_px[fastest], atol=0.25 * np.abs(velocity_px).max())
    u, v = np.round(pixels[fastest]).astype(int)
    velocity = (clip.bodies[0, fastest + 1, 20] - clip.bodies[0, fastest, 20]) * source.config.fps
    np.testing.assert_allclose(clip.streams["flow"][fastest, v, u], velocity, atol=0.3 * np.abs(velocity).max())


@pytest.mark.parametrize("shrink", [2, 3, 4])
def test_rendered_reduced_flow_is_at_the_same_place(source, shrink):
    entry = next(e for e in source.entries() if e.name == "wave_p1_v1_t1")
    centers = []
    for step in (1, shrink):
        options = dataclasses.replace(source.config, width=96, height=72, flow_shrink=step)
        speed = np.linalg.norm(RenderedItem(options, entry).flow([5])[0].astype(np.float32), axis=-1)
        rows, columns = np.indices(speed.shape)
        centers.append(np.array([(speed * columns).sum(), (speed * rows).sum()]) / speed.sum())
    np.testing.assert_allclose((centers[1] + 0.5) * shrink - 0.5, centers[0], atol=0.25)


def test_rendered_read_is_deterministic(source):
    entry, same_entry = source.entries()[30], pickle.loads(pickle.dumps(source)).entries()[30]
    first, second = source.read(entry), source.read(same_entry)
    np.testing.assert_array_equal(first.bodies, second.bodies)
    for key in ("color", "flow"):
        np.testing.assert_array_equal(first.streams[key], second.streams[key])
    other = datasets.source("rendered", source.root, **TINY, seed=2)
    assert other.fingerprint([entry]) != source.fingerprint([entry]) == source.fingerprint([same_entry])
    assert not np.array_equal(other.read(entry).bodies[:, 0], first.bodies[:, 0])


def test_rendered_images_rendered_on_access(source, monkeypatch):
    monkeypatch.setattr("actrec.simulation.scene.Scene.at", lambda *_: pytest.fail("rendered"))
    clip = source.read(source.entries()[0])
    assert np.isfinite(clip.bodies).all()
    assert np.isfinite(clip.streams["hand_pixels"]).all()


def test_rendered_frames_match_clip(source, clip):
    entry = next(e for e in source.entries() if e.name == clip.name)
    frames = list(source.frames(entry))
    assert [frame.stamp_ns for frame in frames] == clip.stamps_ns.tolist()
    np.testing.assert_array_equal(np.stack([frame.color for frame in frames]), clip.streams["color"])
    for frame in frames:
        frame.check()
        assert 0.5 < np.nanmedian(frame.depth) < 5.0
        assert np.isnan(frame.depth).any(), "the sensor has missing depth"


def test_rendered_options_checked(tmp_path):
    assert RenderedRgbd(tmp_path, actors=5).config.actors == 5
    assert RenderedRgbd(tmp_path / "nowhere").config.actors == 8
    with pytest.raises(ConfigError, match="held_out is 3 of 3 actors"):
        datasets.source("rendered", tmp_path / "nowhere", actors=3)
    with pytest.raises(ConfigError, match="unknown option size"):
        datasets.source("rendered", tmp_path, size=3)


@pytest.mark.parametrize("meta", [{}, {"subject": 1, "view": 9, "take": 1}, {"subject": "x", "view": 1, "take": 1}])
def test_rendered_foreign_entry_raises(source, meta):
    with pytest.raises(InputError, match="'S001' is no item of the rendered dataset"):
        source.read(Entry("S001", 0, meta))


def test_cast_members_differ_and_are_reproducible():
    people = [cast_member(number) for number in range(1, 9)]
    assert people == [cast_member(number) for number in range(1, 9)]
    assert len({p.appearance.shirt for p in people}) == len({p.appearance.limbs for p in people}) == 8
    statures = sorted(p.appearance.stature for p in people)
    assert 1.52 <= statures[0] < 1.60
    assert 1.85 < statures[-1] <= 1.92


def test_rendered_action_subset_gives_same_clips(source, tmp_path):
    subset = datasets.source("rendered", tmp_path, **TINY, actions=["walk", "wave"])
    assert subset.classes == ("walk", "wave")
    entry = next(e for e in subset.entries() if e.name == "wave_p2_v1_t1")
    assert entry.label == 1
    original = next(e for e in source.entries() if e.name == entry.name)
    np.testing.assert_array_equal(subset.read(entry).bodies, source.read(original).bodies)
    for actions, message in ((["wave", "wave"], "wave, wave"), (["juggle"], "juggle"), ([], "empty")):
        with pytest.raises(ConfigError, match=f"actions is {message}"):
            datasets.source("rendered", tmp_path, actions=actions)
