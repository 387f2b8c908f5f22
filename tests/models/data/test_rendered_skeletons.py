"""Recorded skeletons, rendered and estimated again as training clips."""

import contextlib
import functools
import pickle
from dataclasses import replace

import numpy as np
import pytest

from actrec import cli, datasets
from actrec.datasets.base import Clip, ClipDataset
from actrec.perception.gravity import angle_deg, body_axis, median_direction
from actrec.perception.pipeline import BodyPerception
from actrec.simulation.scene import scene_from_scripts
from actrec.simulation.script import scripts_from_recording
from actrec.skeleton.layouts import KINECT_V2_25
from actrec.skeleton.sequence import SkeletonSequence
from actrec.utils import config, gravity
from actrec.utils.camera_model import KINECT_V1
from actrec.utils.errors import ConfigError, InputError
from actrec_models.data import rendered_skeletons
from actrec_models.training import recipe, trainer
from tests.models.own_recordings import body, write_bag


@pytest.mark.slow
def test_prepare_render_every_writes_readable_clips(data_root, tmp_path, capsys):
    out = tmp_path / "rendered.npz"
    arguments = ["--data", str(data_root), "--render-every", "300", "--workers", "1", "--out", str(out)]
    assert cli.main(["prepare", "utd_mhad", *arguments]) == 0
    assert f"{out}: 2 of 2 clips" in capsys.readouterr().out
    official = datasets.create("utd_mhad", str(data_root / "utd_mhad"), part="train")
    for clip in rendered_skeletons.read(out):
        recorded = official[official.names.index(clip.name)]
        clip, recorded = clip.leveled(), recorded.leveled()
        assert clip.label == recorded.label and clip.bodies.shape[2:] == (25, 3)
        assert np.diff(clip.stamps_ns).min() >= 1e9 / 15 - 1
        hips = clip.bodies[0, len(clip.stamps_ns) // 2, 0], recorded.bodies[0, len(recorded.stamps_ns) // 2, 0]
        assert np.linalg.norm(hips[0] - hips[1]) < 0.3


@pytest.mark.slow
def test_prepare_render_every_goes_on_after_the_clips_of_a_stopped_run(data_root, tmp_path, monkeypatch, capsys):
    out, keep = tmp_path / "rendered.npz", rendered_skeletons._keep
    command = ["prepare", "utd_mhad", "--data", str(data_root), "--render-every", "150", "--workers", "1", "--quiet"]

    def keep_and_stop(*arguments):
        keep(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(rendered_skeletons, "PART", 2)
    monkeypatch.setattr(rendered_skeletons, "_keep", keep_and_stop)
    with contextlib.suppress(KeyboardInterrupt):
        cli.main([*command, "--out", str(out)])
    first = rendered_skeletons.read(tmp_path / "rendered.npz.unfinished" / "0.npz")
    loaded, load = [], rendered_skeletons._loaded

    def load_and_note(clip):
        loaded.append(clip.name)
        return load(clip)

    monkeypatch.setattr(rendered_skeletons, "_keep", keep)
    monkeypatch.setattr(rendered_skeletons, "_loaded", load_and_note)
    assert not out.exists() and cli.main([*command, "--out", str(out)]) == 0
    clips = rendered_skeletons.read(out)
    assert len(clips) == 3 and loaded == [clips[2].name] and not (tmp_path / "rendered.npz.unfinished").exists()
    for resumed, kept in zip(clips, first, strict=False):
        assert resumed.name == kept.name
        np.testing.assert_array_equal(resumed.bodies, kept.bodies)


def test_unfinished_rendering_of_other_clips_is_not_taken(tmp_path):
    folder = tmp_path / "clips.npz.unfinished"
    assert rendered_skeletons._resume(folder, "one", "kinect_v2_25") == []
    rendered_skeletons._keep(folder, 0, ["half of its frames have no body"] * rendered_skeletons.PART)
    assert len(rendered_skeletons._resume(folder, "one", "kinect_v2_25")) == rendered_skeletons.PART
    assert rendered_skeletons._resume(folder, "another", "kinect_v2_25") == []
    (folder / "0.json").write_text('{"0": "half of')
    with pytest.raises(InputError, match="0.json' is damaged; delete"):
        rendered_skeletons._resume(folder, "another", "kinect_v2_25")
    (folder / "key").unlink()
    with pytest.raises(InputError, match="is no unfinished rendering"):
        rendered_skeletons._resume(folder, "one", "kinect_v2_25")


@pytest.mark.slow
def test_varied_cameras_stand_around_the_person_and_look_up_and_down(data_root):
    clip = datasets.create("utd_mhad", str(data_root / "utd_mhad"), part="train")[0]
    pitches, sides = set(), []
    for seed, cameras in ((2, "varied"), (3, "pitched")):
        found = rendered_skeletons.estimate(clip, seed, cameras=cameras)
        assert found is not None
        pitches.add(round(gravity.angles_from_up(found.streams["up"])[1], 3))
        shoulders = found.leveled().bodies[0, 5, 4] - found.leveled().bodies[0, 5, 8]
        sides.append(np.arctan2(shoulders[2], shoulders[0]))
    assert len(pitches) == 2 and max(map(abs, pitches)) <= rendered_skeletons.PITCH_DEG
    assert max(map(abs, pitches)) >= rendered_skeletons.LEAST_PITCH_DEG
    assert abs(sides[0] - sides[1]) > 0.12


def test_push_before_a_camera_that_looks_down_keeps_the_legs_below_the_hips(data_root):
    """The estimator's people stand parallel to the image, and their hands are too near to the trunk."""
    clips = datasets.create("utd_mhad", str(data_root / "utd_mhad"), part="test")
    clip = clips[clips.names.index("a18_s2_t3")]
    camera = functools.partial(rendered_skeletons.aimed, clip, 0.0, np.radians(30.0))
    apart = []
    with contextlib.closing(BodyPerception()) as perception:
        for number, frame in enumerate(rendered_skeletons.frames(clip, 1, mount=camera)):
            bodies = perception.process(frame)
            if 9 <= number < 14:  # the arms are stretched
                found = bodies[0].positions @ gravity.level_rotation(frame.up).T
                truth = clip.leveled().bodies[0, np.searchsorted(clip.stamps_ns - clip.stamps_ns[0], frame.stamp_ns)]
                legs = [
                    KINECT_V2_25.index[f"{part}_{side}"] for part in ("knee", "ankle") for side in ("left", "right")
                ]
                hips = [KINECT_V2_25.index[f"hip_{side}"] for side in ("left", "right")]
                apart.append((found[legs] - found[hips].mean(axis=0)) - (truth[legs] - truth[hips].mean(axis=0)))
    assert np.median(np.linalg.norm(apart, axis=2), axis=0).max() < 0.1


def test_add_keeps_rendered_clips_of_training_people_and_their_metadata(data_root, tmp_path):
    parts = {part: datasets.create("utd_mhad", str(data_root / "utd_mhad"), part=part) for part in ("train", "test")}
    file = tmp_path / "rendered.npz"
    rendered_skeletons.write(file, [replace(clips[0].leveled(), streams={}) for clips in parts.values()])
    assert len(rendered_skeletons.add(parts["train"], f"{file},{file}")) == len(parts["train"]) + 2
    both = rendered_skeletons.add(parts["train"], str(file))
    assert len(both) == len(parts["train"]) + 1 and both.names[-1] == parts["train"].names[0]
    assert both.metas[-1] == {**parts["train"].metas[0], "set": "rendered", "origin": ""}
    assert both.metas[0] == parts["train"].metas[0]
    np.testing.assert_allclose(both[len(both) - 1].bodies, both[0].leveled().bodies, atol=1e-5)


def test_add_rendered_clips_have_the_recordings_of_their_originals(tmp_path):
    for name, speed in (("wave/a", 0.1), ("clap/b", 0.3)):
        write_bag(tmp_path / "mine" / name, lambda t, v=speed: [body(v * t)])
    clips = datasets.create("folder", tmp_path / "mine", split="all")
    rendered_skeletons.write(tmp_path / "rendered.npz", [clips[0]])
    both = rendered_skeletons.add(clips, str(tmp_path / "rendered.npz"))
    assert both.recordings == (*clips.recordings, clips.recordings[0]) and all(clips.recordings)
    assert both.identities() == clips.identities()


def test_rendering_skips_a_clip_that_cannot_be_read():
    class Damaged(ClipDataset):
        def __getitem__(self, index):
            raise InputError(f"'{self.names[index]}.npz' is truncated")

    stamps = np.arange(3) * 66_666_667
    clips = Damaged([Clip("a", 0, stamps, np.zeros((1, 3, 25, 3), np.float32))], ("wave",))
    found, skipped = rendered_skeletons.estimate_all([clips], 1, 15.0, 1, quiet=True)
    assert (found, skipped) == ([], ["a skipped: 'a.npz' is truncated"])


def test_training_with_the_rendered_clips_of_other_people_is_refused(data_root, tmp_path):
    test = datasets.create("utd_mhad", str(data_root / "utd_mhad"), part="test")
    rendered_skeletons.write(tmp_path / "rendered.npz", [replace(test[0].leveled(), streams={})])
    settings = config.build(
        recipe.Recipe, {"dataset": "utd_mhad", "split": "subject", "rendered": str(tmp_path / "rendered.npz")}
    )
    with pytest.raises(InputError, match="renders no clip of the training part of utd_mhad.*--render-every"):
        trainer.training_clips(settings, str(data_root))


def test_prepare_render_every_without_file_is_refused(data_root, capsys):
    assert cli.main(["prepare", "utd_mhad", "--data", str(data_root), "--render-every", "300"]) == 2
    assert "--out FILE.npz" in capsys.readouterr().err


@pytest.mark.slow
def test_prepare_render_every_finds_hands_of_varied_cameras(data_root, tmp_path):
    out = tmp_path / "hands.npz"
    arguments = ["--data", str(data_root), "--render-every", "980", "--render-cameras", "varied", "--workers", "1"]
    assert cli.main(["prepare", "shrec17_28", *arguments, "--out", str(out)]) == 0
    official = datasets.create("shrec17_28", str(data_root / "shrec17"), part="train")
    clips = rendered_skeletons.read(out, official.layout)
    turned = [gravity.angles_from_up(clip.streams["up"]) for clip in clips]
    np.testing.assert_allclose(turned, rendered_skeletons.HAND_MOUNTINGS[:2], atol=1e-3)
    for clip in clips:
        recorded = official[official.names.index(clip.name)]
        assert clip.label == recorded.label and np.diff(clip.stamps_ns).min() >= 1e9 / 16
        way, truth = (each.bodies[0, :, 1] for each in (clip.leveled(), recorded))
        truth = truth[np.searchsorted(recorded.stamps_ns, clip.stamps_ns)]
        apart = (way - way.mean(axis=0)) - (truth - truth.mean(axis=0))
        assert np.median(np.linalg.norm(apart, axis=1)) < 0.03


def test_prepare_render_every_of_another_layout_is_refused():
    with pytest.raises(ConfigError, match="face_68"):
        rendered_skeletons.estimate_all([datasets.ClipDataset([], ["a"], "face_68")], 1, 15.0, 1)


@pytest.mark.parametrize(("dataset", "part"), [("nucla", "train"), ("nucla", "test"), ("utd_mhad", "test")])
def test_mounting_of_a_dataset_is_upright_for_its_people(data_root, dataset, part):
    clips = datasets.create(dataset, str(data_root / dataset), part=part)
    axes = [
        body_axis(joints, np.isfinite(joints).all(axis=-1).astype(np.float32))
        for clip in (clips[i].leveled() for i in range(0, len(clips), 10))
        for joints in clip.bodies[0, ::5]
    ]
    upright = [(axis, weight) for axis, weight in axes if weight > 0.5]
    found = median_direction(np.array([a for a, _ in upright]), np.array([w for _, w in upright]))
    assert angle_deg(found, np.array(gravity.LEVEL)) < 5.0


def test_scene_of_a_turned_camera_shows_the_same_motion(data_root):
    clip = datasets.create("utd_mhad", str(data_root / "utd_mhad"), part="test")[0]
    scores, pixels = (
        np.ones(clip.bodies.shape[:3], np.float32),
        np.full((*clip.bodies.shape[:3], 2), np.nan, np.float32),
    )
    recording = SkeletonSequence(clip.name, clip.stamps_ns, clip.bodies, scores, pixels, ("body_1",))
    scripts = scripts_from_recording(recording)
    still = scene_from_scripts(KINECT_V1, scripts, clip.name)
    turned = scene_from_scripts(
        KINECT_V1,
        scripts,
        clip.name,
        mount=lambda pose: replace(pose, height=2.0, pitch=0.4, roll=2.0),
    )
    first, second = (scene.actors[0].pose(0.5).joints for scene in (still, turned))
    in_room = [
        joints @ scene.camera.rotation.T + scene.camera.position for joints, scene in ((first, still), (second, turned))
    ]
    np.testing.assert_allclose(in_room[0], in_room[1], atol=1e-5)


def test_rendered_everyday_shows_every_nth_clip_of_everyday_with_its_exact_joints(data_root):
    options = {"sets": ["utd_mhad"], "classes": "shown"}
    every = datasets.source("everyday", data_root, **options)
    source = pickle.loads(pickle.dumps(datasets.source("rendered_everyday", data_root, **options, every=20)))
    entries = source.entries()
    assert [entry for entry in every.entries() if entry.label == 3][::20] == [e for e in entries if e.label == 3]
    entry = next(entry for entry in entries if source.classes[entry.label] == "throw")
    exact, recorded = source.read(entry), every.read(entry)
    shown = list(source.frames(entry))
    assert [frame.stamp_ns for frame in shown] == exact.stamps_ns.tolist()
    assert abs(exact.stamps_ns[-1] - np.ptp(recorded.stamps_ns)) < 2e8 and exact.label == entry.label
    errors = []
    with contextlib.closing(BodyPerception()) as perception:
        for frame, truth in zip(shown, exact.bodies[0], strict=True):
            errors += [np.linalg.norm(body.positions - truth, axis=1) for body in perception.process(frame)]
    assert len(errors) > 0.8 * len(shown) and np.nanmedian(errors) < 0.08


def test_rendered_everyday_has_the_license_and_parts_of_everyday_and_its_own_fingerprint(data_root):
    options = {"sets": ["kard"], "classes": "shown"}
    every = datasets.source("everyday", data_root, **options)
    source = datasets.source("rendered_everyday", data_root, **options, every=50)
    entries = source.entries()
    assert source.license_of({**options, "every": 50}) == every.license_of(options)
    assert [source.part(entry, "own") for entry in entries] == [every.part(entry, "own") for entry in entries]
    level = datasets.source("rendered_everyday", data_root, **options, every=50, cameras="recorded")
    prints = {each.fingerprint(entries) for each in (every, source, level)}
    assert len(prints) == 3
    with pytest.raises(ConfigError, match="every"):
        datasets.source("rendered_everyday", data_root, every=0)


def test_unfinished_rendering_of_changed_clips_has_another_key(tmp_path, monkeypatch):
    keys = []

    def resume(folder, key, layout):
        keys.append(key)
        return ["skipped"]

    monkeypatch.setattr(rendered_skeletons, "_resume", resume)
    for place in (0.0, 1.0):
        clips = ClipDataset([Clip("a", 0, np.arange(3), np.full((1, 3, 25, 3), place, np.float32))], ("wave",))
        rendered_skeletons.estimate_all([clips], 1, 15.0, 1, unfinished=tmp_path / "x", quiet=True)
    assert keys[0] != keys[1]
