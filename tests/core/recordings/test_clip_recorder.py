"""Recording of labeled clips: countdown, rejection, the labels file."""

import dataclasses
import errno
import itertools
import math
import os
import stat
import threading
from pathlib import PureWindowsPath

import numpy as np
import pytest

from actrec.cli import main
from actrec.perception.recorded_joints import read_bodies
from actrec.recordings import clip_recorder, labels
from actrec.recordings.clip_recorder import ClipRecorderConfig, Observation
from actrec.recordings.rosbag.bag_writer import SKELETONS_TOPIC
from actrec.types import Body
from actrec.utils import config, file_lock
from actrec.utils.errors import ConfigError, DeviceError, EndOfStream, InputError
from tests.tiny_model import person_at

PERIOD_NS = 100_000_000


def test_record_latched_camera_info_does_not_cut_the_countdown(tmp_path):
    """It is as old as the driver, and comes before the first skeletons."""
    read = observations(lambda k: [body(0.001 * k)])
    latched = iter([Observation(0, None, lambda bag: None)])
    done, _ = record(tmp_path, lambda timeout_s: next(latched, None) or read(timeout_s), countdown=2.0)
    (clip,) = done.kept
    first = read_bodies(tmp_path / "mine" / clip.recording)
    assert first.stamps_ns[0] > 3_000_000_000 - 1


def test_labels_have_the_same_paths_on_windows(tmp_path, monkeypatch):
    monkeypatch.setattr(labels, "PurePath", PureWindowsPath)
    (tmp_path / "labels.csv").write_text("recording,label\nwave/a.npz,wave\n")
    (clip,) = labels.read_labels(tmp_path / "labels.csv")
    assert clip.recording == "wave/a.npz"
    for outside in ("..\\a.npz", "C:\\a.npz", "C:a.npz", "\\\\server\\a.npz"):
        (tmp_path / "labels.csv").write_text(f"recording,label\n{outside},wave\n")
        with pytest.raises(InputError, match="expected a path in the folder of the recordings"):
            labels.read_labels(tmp_path / "labels.csv")


def body(x=0.0, body_id="body_1", z=2.0):
    positions = person_at(x) + np.array([0, 0, z - 2.0], np.float32)
    return Body(body_id, "kinect_v2_25", positions, np.full((25, 2), np.nan, np.float32), np.ones(25, np.float32))


def observations(bodies_at, count=10_000, start=0):
    """Return a reader of observations at 10 Hz; `bodies_at(k)` returns the bodies of observation k."""
    numbers = itertools.count(start)

    def read(timeout_s):
        k = next(numbers)
        if k >= count:
            raise EndOfStream("over")
        stamp, bodies = 1_000_000_000 + k * PERIOD_NS, bodies_at(k)
        return Observation(stamp, bodies, lambda bag: bag.write_bodies(SKELETONS_TOPIC, stamp, "camera", bodies))

    return read


def record(tmp_path, read, stopped=None, **settings):
    shown = []
    settings = {"label": "wave", "out": str(tmp_path / "mine"), "countdown": 0.5, "seconds": 1.0, **settings}
    done = clip_recorder.record(
        read,
        config.build(ClipRecorderConfig, settings),
        stopped or threading.Event(),
        lambda text, stays: shown.append(text),
    )
    return done, shown


def test_record_two_clips_counts_down_and_labels(tmp_path):
    done, shown = record(tmp_path, observations(lambda k: [body(0.001 * k)]), repeat=2, person="anna", countdown=2.0)
    assert [clip.recording for clip in done.kept] == ["wave_001", "wave_002"]
    assert labels.read_labels(tmp_path / "mine/labels.csv") == done.kept
    assert (done.kept[0].person, done.kept[0].body, done.kept[0].label) == ("anna", "body_1", "wave")
    assert [s for s in shown if "get ready" in s][:2] == [
        "'wave', clip 1 of 2: get ready … 2 (1 person in view)", "'wave', clip 1 of 2: get ready … 1 (1 person in view)"
    ]  # fmt: skip
    first = read_bodies(tmp_path / "mine/wave_001")
    assert first.stamps_ns[0] > 1_000_000_000 + 2_000_000_000 - 1  # nothing of the countdown
    assert len(first) == 10 and first.stamps_ns[-1] - first.stamps_ns[0] == 9 * PERIOD_NS
    more, _ = record(tmp_path, observations(lambda k: [body()]), label="clap")
    assert more.kept[0].recording == "clap_001"
    assert len(labels.read_labels(tmp_path / "mine/labels.csv")) == 3
    assert not list((tmp_path / "mine/.unfinished").iterdir())


def test_record_clip_without_person_rejected_and_repeated(tmp_path):
    done, shown = record(tmp_path, observations(lambda k: [] if k < 20 else [body()]))
    assert len(done.kept) == 1 and len(done.rejected) == 1
    assert "no person was detected: stand 2 to 4 m in front of the camera" in done.rejected[0]
    assert any("rejected, no person was detected" in text for text in shown)
    with pytest.raises(DeviceError, match="3 clips in a row were rejected, the last because no person was detected"):
        record(tmp_path, observations(lambda k: []))
    with pytest.raises(
        DeviceError, match="2 clips in a row.*one person was detected in 50% of the frames at most, 60%"
    ):
        record(tmp_path, observations(lambda k: [body()] if k % 2 else []), patience=2)
    assert [p.name for p in (tmp_path / "mine").iterdir() if not p.name.startswith(".")].count("wave_002") == 0


def test_record_several_people_labels_nearest_keeps_all(tmp_path):
    crowd = [body(0.0, "far", z=4.0), body(0.3, "near", z=2.0), body(2.5, "aside", z=2.0)]
    done, _ = record(tmp_path, observations(lambda k: [*crowd, *([body(0, "passer", z=1.0)] if k % 4 == 0 else [])]))
    assert done.kept[0].body == "near"
    assert set(read_bodies(tmp_path / "mine/wave_001").body_ids) == {"far", "near", "aside", "passer"}


def test_record_leftover_of_crash_uses_next_name(tmp_path):
    (tmp_path / "mine/.unfinished/wave_001").mkdir(parents=True)
    done, _ = record(tmp_path, observations(lambda k: [body()]))
    assert done.kept[0].recording == "wave_002"


def test_record_stopped_drops_unfinished_clip(tmp_path):
    stopped = threading.Event()

    def bodies_at(k):
        if k == 25:  # in the middle of the second clip
            stopped.set()
        return [body()]

    done, _ = record(tmp_path, observations(bodies_at), stopped, repeat=5)
    assert [clip.recording for clip in done.kept] == ["wave_001"]
    assert sorted(p.name for p in (tmp_path / "mine").iterdir()) == [".unfinished", "labels.csv", "wave_001"]
    assert not list((tmp_path / "mine/.unfinished").iterdir())


def test_record_stream_ends_or_stamps_jump_rejects_or_raises(tmp_path):
    with pytest.raises(DeviceError, match="ended after 1 of 3 clips"):
        record(tmp_path, observations(lambda k: [body()], count=25), repeat=3)
    assert len(labels.read_labels(tmp_path / "mine/labels.csv")) == 1

    read_next = observations(lambda k: [body()], start=10)
    ahead = iter([read_next(1.0) for _ in range(10)])
    restarted = observations(lambda k: [body()])
    done, _ = record(tmp_path, lambda t: next(ahead, None) or restarted(t))
    assert done.rejected == ["the camera's stamps did not increase"]
    assert len(done.kept) == 1


def test_record_repeated_image_counted_once(tmp_path):
    read_next = observations(lambda k: [body()])
    twice = (observation for k in itertools.count() for observation in [read_next(1.0)] * (2 if k % 7 == 0 else 1))
    done, _ = record(tmp_path, lambda t: next(twice))
    assert done.rejected == []
    assert len(read_bodies(tmp_path / "mine/wave_001")) == 10

    still_camera = observations(lambda k: [body()])
    first = [still_camera(1.0) for _ in range(10)]
    restarted = observations(lambda k: [body()], start=10)
    still = iter([*first, *first[-1:] * 5])
    done, _ = record(tmp_path, lambda t: next(still, None) or restarted(t))
    assert done.rejected == ["the camera's stamps did not increase"]


def test_record_full_disk_drops_clip_only(tmp_path, monkeypatch):
    from actrec.recordings.rosbag import bag_writer as writer

    record(tmp_path, observations(lambda k: [body()]))

    def full(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer.BagWriter, "flush", full)
    monkeypatch.setattr(writer, "FLUSH_S", -1.0)
    with pytest.raises(DeviceError, match="clip 'wave_002' is dropped: No space left on device; earlier clips"):
        record(tmp_path, observations(lambda k: [body()]))
    assert len(labels.read_labels(tmp_path / "mine/labels.csv")) == 1
    assert not list((tmp_path / "mine/.unfinished").iterdir())
    monkeypatch.undo()
    monkeypatch.setattr(labels.os, "fsync", full)  # the clip fits, the labels file does not
    with pytest.raises(DeviceError, match="clip 'wave_002' is dropped: cannot write .*No space left on device; free"):
        record(tmp_path, observations(lambda k: [body()]))
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == [".unfinished", "labels.csv", "wave_001"]


@pytest.mark.parametrize("label", ["", " wave", "a\nb", "x" * 81, "Unknown"])
def test_record_invalid_label_raises(tmp_path, label):
    with pytest.raises(ConfigError, match="label is|have the label 'unknown'"):
        record(tmp_path, observations(lambda k: [body()]), label=label)


def test_labels_write_and_read_round_trip(tmp_path):
    clips = [
        labels.LabeledClip("a", "wave, slowly", 0.0, math.inf, "anna", "body_2", "train"),
        labels.LabeledClip("b.mp4", "clap", 1.25, 3.5),
        labels.LabeledClip("b.mp4", "unknown", 3.5, 4.0),
    ]
    labels.write_labels(tmp_path / "labels.csv", clips)
    assert labels.read_labels(tmp_path / "labels.csv") == clips
    labels.add_label(tmp_path / "labels.csv", dataclasses.replace(clips[0], recording="c"))
    assert [clip.recording for clip in labels.read_labels(tmp_path / "labels.csv")] == ["a", "b.mp4", "b.mp4", "c"]


def test_add_label_folder_without_locks_uses_lock_file(tmp_path, monkeypatch):
    """NFS locks only files that are open for writing."""
    lock = file_lock.fcntl.flock

    def flock(file, how):
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(errno.EBADF, "Bad file descriptor")
        lock(file, how)

    monkeypatch.setattr(file_lock.fcntl, "flock", flock)
    for name in ("a", "b"):
        labels.add_label(tmp_path / "labels.csv", labels.LabeledClip(name, "wave"))
    assert [clip.recording for clip in labels.read_labels(tmp_path / "labels.csv")] == ["a", "b"]


def test_read_labels_spreadsheet_export_read(tmp_path):
    table = "recording,label\r\n\r\na,grüßen\r\n,\r\n"
    (tmp_path / "labels.csv").write_bytes(table.encode("utf-8-sig"))
    assert labels.read_labels(tmp_path / "labels.csv") == [labels.LabeledClip("a", "grüßen")]
    (tmp_path / "labels.csv").write_bytes(table.encode("cp1252"))
    with pytest.raises(InputError, match="labels.csv' is not UTF-8 text"):
        labels.read_labels(tmp_path / "labels.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lacks recording, label"),
        ("recording,start_s\na,1", "lacks label"),
        (
            "recording,label,strat_s\na,b,1",
            "has strat_s: its first line must list columns out of recording,label,start_s",
        ),
        ("recording,label,\na,b,", "has a column without a name: its first line"),
        ("recording,label,label\na,b,b", "has one column twice: its first line"),
        ("recording,label\na", "line 2 has 1 values for 2 columns"),
        ("recording,label\n\na,\n", "line 3 has no label"),
        ("recording,label\n,wave", "line 2 has no recording"),
        ("recording,label\n/a,wave", "recording is '/a', expected a path in the folder of the recordings"),
        (
            "recording,label\n../a,wave",
            r"recording is '\.\./a', expected a path in the folder .*: move or link it there",
        ),
        ("recording,label,start_s\na,wave,x", "start_s is 'x', expected seconds"),
        ("recording,label,start_s,end_s\na,wave,2,1", "end_s 1 is not after start_s 2"),
        ("recording,label,end_s\na,wave,nan", "end_s is 'nan'"),
        ('recording,label\na,"wa\nve"', r"line 3: label is 'wa\\nve', expected up to 80 printable characters"),
        ("recording,label,person\na,wave,\x1b[31m", r"person is '\\x1b\[31m', expected up to 80"),
        (f"recording,label\na,{'x' * 81}", "expected up to 80 printable characters"),
        ("recording,label,part\na,wave,dev", "part is 'dev', expected train, test or nothing"),
        ("recording,label\na,wave\na,clap\n", "line 3 repeats 'a'"),
        ("recording,label\na,wave\n./a/,clap\n", "line 3 repeats 'a'"),
        ("recording,label,body\na,wave,body_1\na,clap,body_1\n", "line 3 repeats 'a'"),
        ("recording,label,body\na,wave,body_1\na,clap,\n", "fill in body"),
        ("recording,label,body\na,wave,\na,clap,body_1\n", "fill in body"),
        ('recording,label\na,"wave\n', "is invalid CSV"),
    ],
)
def test_read_labels_invalid_file_raises_with_line(tmp_path, text, message):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        labels.read_labels(tmp_path / "labels.csv")
    assert "labels.csv" in str(caught.value)


def test_record_invalid_labels_file_raises_before_recording(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/labels.csv").write_text("recording\n")
    with pytest.raises(InputError, match="lacks label"):
        record(tmp_path, observations(lambda k: [body()]))
    with pytest.raises(DeviceError, match=r"cannot read .*no\.csv"):
        labels.read_labels(tmp_path / "no.csv")


@pytest.mark.parametrize("label", ["Wave hand", "wave_hand", "wavehand", "WAVE-HAND"])
def test_record_respelled_label_raises(tmp_path, label):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/labels.csv").write_text("recording,label\nx,clap\nfirst,wave hand\n")
    with pytest.raises(
        ConfigError, match=f"the label is '{label}', but .* has clips of 'wave hand'; use the same spelling"
    ):
        record(tmp_path, observations(lambda k: [body()]), label=label)
    assert len(record(tmp_path, observations(lambda k: [body()]), label="wave hands")[0].kept) == 1
    (tmp_path / "mine/labels.csv").write_text(f"recording,label\nx,{label}\nfirst,wave hand\n")  # intended by the user
    assert len(record(tmp_path, observations(lambda k: [body()]), label=label)[0].kept) == 1


def test_record_label_with_other_unicode_composition_raises(tmp_path):
    composed, decomposed = "h\u00e4nde", "ha\u0308nde"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/labels.csv").write_text(f"recording,label\nx,{composed}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="use the same spelling"):
        record(tmp_path, observations(lambda k: [body()]), label=decomposed)


def test_record_respelled_person_raises(tmp_path):
    """A person with two names would be in the training and the test part."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/labels.csv").write_text("recording,label,person\nx,clap,ben\ny,clap,-\nz,clap,subject 1-1\n")
    for person, other in (("Ben", "ben"), ("Subject 1_1", "subject 1-1"), ("subject 1 - 1", "subject 1-1")):
        with pytest.raises(
            ConfigError, match=f"the person is '{person}', but .* clips of '{other}'; use the same spelling"
        ):
            record(tmp_path, observations(lambda k: [body()]), person=person)
    for person in ("ben", "benno", "", "subject 11"):
        assert len(record(tmp_path, observations(lambda k: [body()]), person=person)[0].kept) == 1


def test_record_into_folder_per_class_raises(tmp_path):
    bag = tmp_path / "mine/clap/first"
    bag.mkdir(parents=True)
    (bag / "metadata.yaml").write_text("")
    with pytest.raises(InputError, match="holds 1 recordings in folders named as their labels, first 'clap/first'"):
        record(tmp_path, observations(lambda k: [body()]))
    assert not (tmp_path / "mine/labels.csv").exists()
    (tmp_path / "mine/labels.csv").write_text("recording,label\nclap/first,clap\n")
    assert len(record(tmp_path, observations(lambda k: [body()]))[0].kept) == 1


def test_record_into_bag_raises(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/metadata.yaml").write_text("")
    with pytest.raises(InputError, match="is a bag itself"):
        record(tmp_path, observations(lambda k: [body()]))
    assert len(list((tmp_path / "mine").iterdir())) == 1


@pytest.mark.parametrize("there, what", [(True, "write into"), (False, "create")])
def test_record_unwritable_folder_raises_with_cause(tmp_path, monkeypatch, there, what):
    if there:
        (tmp_path / "mine").mkdir()

    def refused(*_args, **_options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(clip_recorder.Path, "mkdir", refused)
    with pytest.raises(DeviceError, match=f"cannot {what} the folder '.*mine': Permission denied; choose another"):
        record(tmp_path, observations(lambda k: [body()]))


def test_record_command_skeleton_replay_writes_clips(tmp_path, data_root, capsys):
    """The command, from a driver whose frames are joints alone: no estimator, no ROS."""
    script = sorted((data_root / "kinect_v2_csv").glob("*.csv"))[0]
    options = [word for o in (f"path={script}", "rate=0.0", "restamp=false") for word in ("--driver-option", o)]
    out = tmp_path / "mine"
    command = ["record", "--label", "gesture", "--out", str(out), "--countdown", "0.2", "--seconds", "0.5"]
    assert main([*command, "--driver", "replay", *options]) == 0
    said = capsys.readouterr()
    assert "1 of 1 clips of 'gesture' in" in said.out and "GO!" in said.err
    (clip,) = labels.read_labels(out / "labels.csv")
    taken, played = read_bodies(out / clip.recording), read_bodies(script)
    first = list(played.stamps_ns).index(taken.stamps_ns[0])
    m = played.body_ids.index(clip.body)
    np.testing.assert_allclose(taken.bodies[0], played.bodies[m, first : first + len(taken)], atol=1e-6)
    assert main([*command, "--driver", "replay", *options, "--repeat", "1000"]) == 1
    assert "the recording has ended after" in capsys.readouterr().err
