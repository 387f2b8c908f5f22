"""A user's recordings as a dataset: labels, spans, people, splits, and evaluation."""

import dataclasses
import itertools
import json
import pickle
import shutil
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import yaml

from actrec import datasets
from actrec.cli import main
from actrec.datasets import user_folder
from actrec.datasets.fingerprints import content
from actrec.datasets.user_folder import UNKNOWN_LABEL, Folder
from actrec.perception import networks, recorded_joints
from actrec.types import Intrinsics
from actrec.utils import gravity
from actrec.utils.calibration_files import write_intrinsics
from actrec.utils.errors import ConfigError, InputError
from actrec_models.data.estimation import PrepareConfig
from actrec_models.data.preparation_workers import signature
from actrec_models.training import provenance
from tests.models.made_up import TINY
from tests.models.own_recordings import PERIOD_NS, START, body, walker, write_bag
from tests.tiny_model import person_at


@pytest.fixture
def recordings(tmp_path):
    """Write two recordings with four labeled clips."""
    write_bag(tmp_path / "one", walker)
    write_bag(tmp_path / "two", lambda k: [body(5, "other"), *([body(0.1 * k)] if k >= 4 else [])], images=True)
    (tmp_path / "labels.csv").write_text(
        "recording,label,start_s,end_s,person,body,part\n"
        "one,wave,,0.55,anna,,train\none,clap,0.6,,ben,,test\ntwo,wave,,,ben,body_1,\ntwo,unknown,0,0.5,,other,\n"
    )
    return tmp_path


def test_folder_labels_file_assigns_clips_and_people(recordings):
    source = Folder(recordings)
    assert source.classes == ("clap", "wave")
    entries = source.entries()
    assert [(e.name, source.classes[e.label], e.meta["person"]) for e in entries] == [
        ("one@0-0.55", "wave", "anna"), ("one@0.6-", "clap", "ben"), ("two", "wave", "ben")
    ]  # fmt: skip
    assert [(e.name, e.label) for e in source.unknown_entries()] == [("two@0-0.5", UNKNOWN_LABEL)]
    first, second, third = (source.read(entry) for entry in entries)
    assert (first.stamps_ns[0], len(first.stamps_ns), second.stamps_ns[0]) == (START, 6, START + 6 * PERIOD_NS)
    np.testing.assert_allclose(second.bodies[0, 0], person_at(0.6), atol=1e-6)
    # The clip starts when the labeled person enters.
    assert third.stamps_ns[0] == START + 4 * PERIOD_NS and third.bodies.shape == (1, 16, 25, 3)
    np.testing.assert_allclose(third.bodies[0, 0], person_at(0.4), atol=1e-6)
    assert source.read(source.unknown_entries()[0]).label == UNKNOWN_LABEL


def test_folder_changed_lens_file_is_other_data_of_the_same_recording(recordings):
    """Joints estimated with another lens are others: they are prepared again, and a training does not resume."""
    lens = recordings.parent / "lens.yaml"
    found = []
    for fx in (60.0, 70.0):
        write_intrinsics(lens, Intrinsics(64, 48, fx, fx, 31.5, 23.5), "lens")
        source = Folder(recordings, recording={"intrinsics": str(lens)})
        entry = source.entries()[0]
        found.append((source.fingerprint([entry]), signature(entry, PrepareConfig(), source), source.identity(entry)))
    (first, signed, identity), other = found
    assert first != other[0] and signed != other[1] and identity == other[2]


def test_folder_two_people_labeled_separately(tmp_path):
    write_bag(tmp_path / "both", lambda k: [body(5 + 0.2 * k, "other"), body(0.1 * k)])
    (tmp_path / "labels.csv").write_text("recording,label,body\nboth,wave,body_1\nboth,clap,other\n")
    source = Folder(tmp_path)
    found = {entry.name: source.read(entry) for entry in source.entries()}
    assert list(found) == ["both#body_1", "both#other"]
    for name, label, x in (("both#body_1", "wave", 0.4), ("both#other", "clap", 5.8)):
        assert source.classes[found[name].label] == label
        np.testing.assert_allclose(found[name].bodies[0, 4], person_at(x), atol=1e-5)


@pytest.mark.parametrize(
    ("lost", "kept"),
    [(range(6, 10), [*range(6), *range(10, 20)]), (range(6, 12), range(12, 20)), (range(11, 16), range(11))],
)
def test_folder_clip_has_no_pause_that_restarts_a_live_window(tmp_path, lost, kept):
    """The person is lost for some of 20 frames at 10 Hz; windows bridge 0.5 s."""
    write_bag(tmp_path / "one", lambda k: [body(5, "other"), *([] if k in lost else [body(0.1 * k)])])
    (tmp_path / "labels.csv").write_text("recording,label,body\none,wave,body_1\n")
    source = Folder(tmp_path)
    clip = source.read(source.entries()[0])
    assert [*(clip.stamps_ns - START) // PERIOD_NS] == [*kept]
    np.testing.assert_allclose(clip.bodies[0, 0], person_at(0.1 * kept[0]), atol=1e-5)


def test_folder_spans_count_from_the_first_image_as_its_frames_do(tmp_path):
    """The skeleton node published its first message a second after the recording began."""
    write_bag(tmp_path / "one", lambda k: None if k < 10 else [body(0.1 * k)], images=True)
    (tmp_path / "labels.csv").write_text("recording,label,start_s,end_s\none,wave,1.2,1.5\n")
    source = Folder(tmp_path)
    (entry,) = source.entries()
    expected = [START + k * PERIOD_NS for k in (12, 13, 14, 15)]
    assert [*source.read(entry).stamps_ns] == expected == [frame.stamp_ns for frame in source.frames(entry)]


def test_folder_splits_assign_parts(recordings):
    clips = datasets.create("folder", recordings)
    assert (len(clips), list(clips.labels)) == (3, [1, 0, 1])
    assert datasets.create("folder", recordings, split="part", part="test").names == ("one@0.6-",)
    assert datasets.create("folder", recordings, split="part", part="train").names == ("one@0-0.55",)
    test_clips = datasets.create("folder", recordings, split="person", part="test", held_out=["ben"])
    assert test_clips.names == ("one@0.6-", "two")
    with pytest.raises(ConfigError, match="needs the option held_out"):
        datasets.create("folder", recordings, split="person")
    with pytest.raises(ConfigError, match="no person carl; its people: anna, ben"):
        datasets.create("folder", recordings, held_out="carl")
    with pytest.raises(ConfigError, match="has split all, part, person; got 'view'"):
        datasets.create("folder", recordings, split="view")
    with pytest.raises(ConfigError, match="unknown option speed of RecordingConfig"):
        datasets.create("folder", recordings, recording={"speed": 1})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bodies": "two"}, "FolderConfig.bodies is 'two', expected a whole number"),
        ({"bodies": 1.5}, "FolderConfig.bodies is 1.5, expected a whole number"),
        ({"bodies": 0}, "FolderConfig.bodies is 0, allowed: 1"),
        ({"held_out": None}, "held_out is None, expected a name or a list of names"),
        ({"held_out": [["anna"]]}, "held_out is .*expected a name"),
        ({"held_out": 5}, "has no person 5; its people: anna, ben"),
        ({"recording": "abc"}, "FolderConfig.recording is 'abc', expected keys and values"),
        ({"recording": {1: 2}}, "recording has the name 1, expected a string"),
    ],
)
def test_folder_invalid_options_raise(options, message, recordings):
    with pytest.raises(ConfigError, match=message):
        Folder(recordings, **options)


def test_folder_model_labels_reordered(recordings):
    source = Folder(recordings, classes=["wave", "squat", "clap"])
    assert [source.classes[entry.label] for entry in source.entries()] == ["wave", "clap", "wave"]
    with pytest.raises(InputError, match="has recordings labeled clap; known: wave, squat"):
        Folder(recordings, classes=["wave", "squat"])


def test_folder_moved_recording_recognized(recordings, tmp_path_factory):
    other = tmp_path_factory.mktemp("other") / "copy"
    shutil.copytree(recordings, other)
    (other / "one").rename(other / "uno")
    (other / "labels.csv").write_text((other / "labels.csv").read_text().replace("one,", "uno,"))
    identities, copied_identities = ([s.identity(e) for e in s.entries()] for s in (Folder(recordings), Folder(other)))
    assert identities == copied_identities and len(set(identities)) == 2


def test_folder_recording_hashed_once(recordings, monkeypatch):
    files = []

    def record_file(file):
        files.append(file)
        return content(file)

    monkeypatch.setattr(user_folder, "content", record_file)
    source = Folder(recordings)
    identities = [source.identity(entry) for entry in [*source.entries(), *source.unknown_entries()]]
    assert len(identities) == 4 and len(set(identities)) == 2
    assert len(files) == len(set(files)) == sum(file.is_file() for file in recordings.rglob("*/*"))


def test_eval_folder_excludes_training_recordings(recordings, tmp_path_factory, capsys):
    folder = tmp_path_factory.mktemp("trained")
    shutil.rmtree(recordings / "two")
    (recordings / "labels.csv").unlink()
    for k, label in enumerate(("wave", "clap", "wave", "clap")):
        write_bag(recordings / label / f"{k}", lambda t, k=k: [body(0.1 * t * (k + 1))])
    shutil.rmtree(recordings / "one")
    settings = {**TINY, "dataset": "folder", "split": "all"}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings))
    common = ["--root", str(recordings), "--quiet"]
    assert main(["train", str(folder / "recipe.yaml"), "--out", str(folder / "run"), "--threads", "1", *common]) == 0
    checkpoint, package = str(folder / "run/last.ckpt"), str(folder / "package")
    capsys.readouterr()
    assert main(["export", checkpoint, "--out", package, "--root", str(recordings), "--no-weights"]) == 0
    assert "not measured: no test part" in capsys.readouterr().out
    assert "not measured" in (folder / "package/README.md").read_text()
    assert main(["models", package, "--json"]) == 0
    assert main(["export", package, "--float16", "--out", str(folder / "half"), "--root", str(recordings)]) == 0
    for model in (checkpoint, package):
        for options in ([], ["--part", "train"]):
            assert main(["eval", model, *common, *options]) == 1
            assert "was trained on 4 of the 4 clips" in capsys.readouterr().err
    write_bag(folder / "fresh/wave/again", lambda t: [body(0.3 * t)], frames=25)
    capsys.readouterr()
    command = ["eval", package, "--root", str(folder / "fresh"), "--quiet"]
    assert main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["clips"] == 1 and "unknown_clips" not in report
    prepare = ["prepare", "folder", "--root", str(folder / "fresh"), "--workers", "0", "--quiet", "--out"]
    assert main([*prepare, str(folder / "some")]) == 0
    assert main(["eval", package, "--root", str(folder / "some"), "--quiet"]) == 1
    option = 'classes=["clap", "wave"]'
    assert f"prepare them into another store with --option '{option}'" in capsys.readouterr().err
    assert main([*prepare, str(folder / "all"), "--option", option]) == 0
    assert main(["eval", package, "--root", str(folder / "all"), "--quiet"]) == 0
    capsys.readouterr()
    for k in range(2):
        write_bag(folder / f"fresh/unknown/{k}", lambda t, k=k: [body(-0.4 * t * (k + 1))], frames=25)
    assert main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["clips"], report["unknown_clips"]) == (1, 2) and report["unknown_rejected"] in (0, 0.5, 1)
    assert main(command) == 0
    assert "of 2 recordings labeled unknown" in capsys.readouterr().out


def write_three_people(folder):
    """Write recordings of two actions by anna, ben and carl."""
    lines = ["recording,label,person"]
    for k, (label, person) in enumerate(itertools.product(("wave", "clap"), ("anna", "ben", "carl"))):
        write_bag(folder / f"{k}", lambda t, k=k: [body(0.1 * t * (k + 1))])
        lines.append(f"{k},{label},{person}")
    (folder / "labels.csv").write_text("\n".join(lines))
    return folder


def test_eval_folder_of_training_people_raises(tmp_path, capsys):
    recordings = write_three_people(tmp_path / "recordings")
    models = [str(tmp_path / name / "last.ckpt") for name in ("ben", "carl")]
    for name in ("ben", "carl"):
        settings = {**TINY, "dataset": "folder", "split": "person", "dataset_options": {"held_out": [name]}}
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
        command = ["train", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / name), "--threads", "1"]
        assert main([*command, "--root", str(recordings), "--quiet"]) == 0
    common = ["--root", str(recordings), "--quiet"]
    capsys.readouterr()
    assert main(["eval", models[0], *common, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["clips"] == 2
    assert main(["eval", models[0], *common, "--option", "held_out=ben"]) == 0  # a single name needs no list
    for arguments in ([models[0], "--option", "held_out=carl"], [*models, "--fuse", "softmax"]):
        assert main(["eval", *arguments, *common]) == 1
        assert "was trained on 2 of the 2 clips" in capsys.readouterr().err
    assert main(["eval", models[0], *common, "--part", "train"]) == 0


@pytest.mark.slow
def test_train_init_of_tested_people_raises(tmp_path, capsys):
    """Weights of split `all` are refused; weights of the same split are not."""
    recordings = write_three_people(tmp_path / "recordings")

    def train(name, *arguments, **changes):
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**TINY, "dataset": "folder", **changes}))
        command = ["train", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / name), "--threads", "1"]
        return main([*command, "--root", str(recordings), "--quiet", *arguments])

    ben, base = {"split": "person", "dataset_options": {"held_out": ["ben"]}}, str(tmp_path / "base/last.ckpt")
    assert train("base", split="all") == 0
    assert train("on_base", "--init", base, **ben) == 2
    assert f"--init {base} was trained on 2 of the 2 recordings that would be tested on" in capsys.readouterr().err
    assert train("ben", **ben) == 0
    assert train("on_ben", "--init", str(tmp_path / "ben/last.ckpt"), **ben, seed=2) == 0


def test_eval_model_on_people_of_its_base_raises(tmp_path, capsys):
    """As of a package that an earlier version trained on such a base."""
    recordings = write_three_people(tmp_path / "recordings")
    split = {"split": "person", "dataset_options": {"held_out": ["ben"]}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**TINY, "dataset": "folder", **split}))
    command = ["train", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run"), "--threads", "1"]
    assert main([*command, "--root", str(recordings), "--quiet"]) == 0
    checkpoint = tmp_path / "run/last.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    known = content["actrec"]["provenance"]
    known["initial_trainings"] = [provenance.training("folder", "all", {})]
    known["recordings"] = list(datasets.create("folder", recordings).identities())
    torch.save(content, checkpoint)
    capsys.readouterr()
    assert main(["eval", str(checkpoint), "--root", str(recordings), "--quiet"]) == 1
    assert "was trained on 2 of the 2 clips" in capsys.readouterr().err


def test_eval_store_of_training_people_raises(tmp_path, capsys):
    recordings = write_three_people(tmp_path / "recordings")
    stores = {name: str(tmp_path / "stores" / name) for name in ("ben", "carl")}
    for name, store in stores.items():
        options = ["--option", f"held_out={name}", "--root", str(recordings), "--out", store]
        assert main(["prepare", "folder", *options, "--workers", "0", "--quiet"]) == 0
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**TINY, "dataset": "folder", "split": "person"}))
    command = ["train", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run"), "--threads", "1"]
    assert main([*command, "--root", stores["ben"], "--quiet"]) == 0
    model = str(tmp_path / "run/last.ckpt")
    assert main(["eval", model, "--root", stores["ben"], "--quiet"]) == 0
    for options in (["--root", stores["carl"]], ["--root", str(recordings), "--option", "held_out=carl"]):
        assert main(["eval", model, "--quiet", *options]) == 1
        assert "was trained on 2 of the 2 clips" in capsys.readouterr().err
    assert main(["eval", model, "--quiet", "--root", str(recordings), "--option", "held_out=ben"]) == 0


def test_folder_several_bodies_padded(recordings):
    clips = datasets.create("folder", recordings, bodies=3)
    assert clips[2].bodies.shape == (3, 16, 25, 3)
    np.testing.assert_allclose(clips[2].bodies[1, 0], person_at(5), atol=1e-6)
    assert np.isnan(clips[2].bodies[2]).all()


def test_folder_pickled_and_fingerprint_follows_changes(recordings):
    clips = datasets.create("folder", recordings)
    restored = pickle.loads(pickle.dumps(clips))
    np.testing.assert_array_equal(restored[1].bodies, clips[1].bodies)
    fingerprint = clips.fingerprint()
    assert restored.fingerprint() == fingerprint
    shutil.rmtree(recordings / "one")
    write_bag(recordings / "one", walker, frames=21)
    assert datasets.create("folder", recordings).fingerprint() != fingerprint


def test_folder_frames_of_images_read(recordings):
    source = Folder(recordings)
    frames = list(source.frames(source.unknown_entries()[0]))
    assert [frame.color[0, 0, 0] for frame in frames if frame.color is not None] == [0, 1, 2, 3, 4, 5]
    assert frames[0].stamp_ns == START and frames[0].depth is not None
    with pytest.raises(InputError, match="one' holds joints and no images: record it with --images"):
        next(source.frames(source.entries()[0]))


def test_folder_frames_before_clip_not_decoded(tmp_path):
    """Frames before the clip are skipped without decoding."""
    (tmp_path / "walk").mkdir()
    for number in range(12):
        cv2.imwrite(str(tmp_path / f"walk/{number}.jpg"), np.full((48, 64, 3), number, np.uint8))
    (tmp_path / "walk/3.jpg").write_bytes(b"not an image")
    (tmp_path / "labels.csv").write_text("recording,label,start_s,end_s\nwalk,wave,8,10\nwalk,clap,2,4\n")
    source = Folder(tmp_path, recording={"fps": 1.0, "hfov_deg": 60.0})
    late, early = source.entries()
    assert [frame.stamp_ns // 10**9 for frame in source.frames(late)] == [8, 9, 10]
    with pytest.raises(InputError, match=r"3\.jpg"):
        list(source.frames(early))


def test_folder_subfolders_name_classes(tmp_path, data_root, caplog):
    write_bag(tmp_path / "walk/first", walker)
    shutil.copy(write_bag(tmp_path / "b", walker) / "b.mcap", tmp_path / "walk/second.mcap")
    shutil.rmtree(tmp_path / "b")
    (tmp_path / "drink").mkdir()
    (tmp_path / "unknown").mkdir()
    (tmp_path / ".unfinished/x").mkdir(parents=True)
    skeletons = sorted((data_root / "ntu/skeleton").glob("*.skeleton"))
    shutil.copy(skeletons[0], tmp_path / "drink")
    shutil.copy(sorted((data_root / "nucla/raw").rglob("*.json"))[0], tmp_path / "drink")
    shutil.copy(sorted((data_root / "kinect_v2_csv").glob("*.csv"))[0], tmp_path / "unknown")
    (tmp_path / "drink/notes.txt").write_text("not a recording")
    source = Folder(tmp_path)
    assert source.classes == ("drink", "walk")
    assert (len(source.entries()), len(source.unknown_entries())) == (4, 1)
    assert "notes.txt': not a recording" in caplog.text
    for entry in [*source.entries(), *source.unknown_entries()]:
        clip = source.read(entry)
        assert clip.bodies.shape[0] == 1 and clip.bodies.shape[2:] == (25, 3) and len(clip.stamps_ns) > 5


def test_folder_broken_link_ignored(tmp_path, caplog):
    write_bag(tmp_path / "walk/first", walker)
    (tmp_path / "walk/gone.mcap").symlink_to("nowhere.mcap")
    assert [entry.name for entry in Folder(tmp_path).entries()] == ["walk/first"]
    assert "gone.mcap': not a recording" in caplog.text
    (tmp_path / "labels.csv").write_text("recording,label\nwalk/first,walk\n")
    (tmp_path / "gone.mcap").symlink_to("nowhere.mcap")
    assert len(Folder(tmp_path).entries()) == 1


def test_folder_unlisted_recordings_warn(tmp_path, caplog):
    write_bag(tmp_path / "walk/first", walker)
    write_bag(tmp_path / "second", walker)
    write_bag(tmp_path / "third", walker)
    (tmp_path / "labels.csv").write_text("recording,label\nthird,walk\n")
    assert len(Folder(tmp_path).entries()) == 1
    assert "2 recordings are ignored" in caplog.text and "does not list them, first 'second'" in caplog.text


def test_folder_images_estimated_once(tmp_path, data_root, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "recordings/turn/person"
    folder.mkdir(parents=True)
    found = sorted((data_root / "rgbd/person_turning").rglob("*.*"))
    for file in found:
        if file.suffix in (".png", ".jpg") and "".join(filter(str.isdigit, file.stem)).lstrip("0") in list("12345"):
            target = folder / file.relative_to(data_root / "rgbd/person_turning")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    settings = {"intrinsics": "525,525,319.5,239.5", "depth_scale": 0.001}
    source = datasets.source("folder", tmp_path / "recordings", recording=settings)
    clip = source.read(source.entries()[0])
    assert len(clip.stamps_ns) >= 3 and np.isfinite(clip.bodies).any()
    monkeypatch.setattr(recorded_joints, "BodyPerception", lambda _: pytest.fail("estimated again"))
    second = datasets.source("folder", tmp_path / "recordings", recording=settings)
    np.testing.assert_array_equal(second.read(second.entries()[0]).bodies, clip.bodies)
    (cached,) = (tmp_path / "cache/actrec/skeletons").iterdir()
    cached.write_bytes(b"damaged")
    perception = SimpleNamespace(
        process=lambda frame: [body(0)],
        close=lambda: None,
        find_gravity=list,
        up=None,
        gravity=SimpleNamespace(conclude=lambda: None),
    )
    monkeypatch.setattr(recorded_joints, "BodyPerception", lambda _: perception)
    other = datasets.source("folder", tmp_path / "recordings", recording=settings)
    bodies = other.read(other.entries()[0]).bodies
    np.testing.assert_array_equal(bodies, np.broadcast_to(bodies[:, :1], bodies.shape))


def test_cache_key_changes_with_the_code_of_the_estimator(tmp_path, monkeypatch):
    """Joints that another version estimated are not read from the cache."""
    code, recording = tmp_path / "actrec", tmp_path / "clip.mp4"
    for package in recorded_joints.ESTIMATING:
        shutil.copytree(recorded_joints.CODE / package, code / package)
    recording.write_bytes(b"")
    config = recorded_joints.RecordingConfig()
    keys = [recorded_joints._cache_key(recording, config)]
    monkeypatch.setattr(recorded_joints, "CODE", code)
    keys.append(recorded_joints._cache_key(recording, config))
    with (code / "perception/lifting.py").open("a") as file:
        file.write("MIN_SCORE = 0.5\n")
    recorded_joints._estimator.cache_clear()
    keys.append(recorded_joints._cache_key(recording, config))
    assert keys[0] == keys[1] != keys[2]


def test_folder_mount_reaches_clips_and_frames(tmp_path, data_root):
    (tmp_path / "wave").mkdir()
    shutil.copy(data_root / "kinect_v2_csv/Ges01_wavehand.csv", tmp_path / "wave/a.csv")
    write_bag(tmp_path / "wave/b", walker, images=True)
    source = datasets.source("folder", tmp_path, recording={"mount": "portrait_left"})
    up = gravity.parse_mount("portrait_left")
    for entry in source.entries():
        np.testing.assert_array_equal(source.read(entry).streams["up"], up)
    np.testing.assert_array_equal(next(source.frames(source.entries()[1])).up, up)


def test_cache_key_changes_with_the_networks(tmp_path, monkeypatch):
    recording, config = tmp_path / "clip.mp4", recorded_joints.RecordingConfig()
    recording.write_bytes(b"")
    before, known = recorded_joints._cache_key(recording, config), networks.files()
    other = dataclasses.replace(known["body_landmarks_full"], sha256="0" * 64)
    monkeypatch.setattr(networks, "files", lambda: {**known, "body_landmarks_full": other})
    assert recorded_joints._cache_key(recording, config) != before


def test_eval_folder_whose_training_recordings_have_become_tests_raises(tmp_path, capsys):
    """The column `part` was changed after the training."""
    recordings = write_three_people(tmp_path / "recordings")

    def divide(*tests):
        rows = [f"{k},{'wave' if k < 3 else 'clap'},{'test' if k in tests else 'train'}" for k in range(6)]
        (recordings / "labels.csv").write_text("\n".join(["recording,label,part", *rows]))

    divide(2, 5)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**TINY, "dataset": "folder", "split": "part"}))
    command = ["train", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run"), "--threads", "1"]
    assert main([*command, "--root", str(recordings), "--quiet"]) == 0
    command = ["eval", str(tmp_path / "run/last.ckpt"), "--root", str(recordings), "--quiet"]
    assert main(command) == 0
    divide(1, 2, 4, 5)
    assert main(command) == 1
    assert "was trained on 2 of the 4 clips" in capsys.readouterr().err
