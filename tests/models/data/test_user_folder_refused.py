"""An invalid user folder or recording raises a clear error."""

import errno
import shutil
from pathlib import Path

import pytest

from actrec import datasets
from actrec.datasets.user_folder import Folder
from actrec.recordings.rosbag.bag_writer import BagWriter
from actrec.utils.errors import DeviceError, InputError
from tests.models.own_recordings import walker, write_bag


def test_folder_unknown_label_spelling_checked(tmp_path):
    write_bag(tmp_path / "Unknown/first", walker)
    with pytest.raises(InputError, match="the label is 'Unknown'; .*have the label 'unknown'"):
        Folder(tmp_path)
    (tmp_path / "labels.csv").write_text("recording;label\nUnknown/first;UNKNOWN\n")
    with pytest.raises(InputError, match="lacks recording, label.*with commas between, not semicolons"):
        Folder(tmp_path)
    (tmp_path / "labels.csv").write_text("recording,label\nUnknown/first,UNKNOWN\n")
    with pytest.raises(InputError, match="line 2: the label is 'UNKNOWN'"):
        Folder(tmp_path)


def test_folder_unreadable_raises(tmp_path, monkeypatch):
    write_bag(tmp_path / "walk/first", walker)
    iterdir = Path.iterdir

    def deny_folder(folder):
        if folder.name == "walk":
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return iterdir(folder)

    monkeypatch.setattr(Path, "iterdir", deny_folder)
    with pytest.raises(DeviceError, match="cannot read '.*walk': Permission denied"):
        Folder(tmp_path)
    monkeypatch.undo()
    is_file = Path.is_file

    def deny_recording(path):
        if path.name == "metadata.yaml" and path.parent.name == "first":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", deny_recording)
    with pytest.raises(DeviceError, match="cannot read '.*first': Permission denied"):
        Folder(tmp_path)


def test_folder_invalid_contents_raise(tmp_path):
    with pytest.raises(DeviceError, match=r"no folder .*none'.*--root DIR.*actrec record --label NAME"):
        datasets.source("folder", tmp_path / "none")
    with pytest.raises(DeviceError, match="holds no recording: make some with"):
        datasets.source("folder", tmp_path)
    (tmp_path / "labels.csv").write_text("recording,label\n")
    with pytest.raises(InputError, match=r"labels.csv' names no recording: write a line for each"):
        Folder(tmp_path)
    (tmp_path / "labels.csv").write_text("recording,label\nabsent,wave\n")
    with pytest.raises(InputError, match=r"labels\.csv' names 1 recordings that are not there, first 'absent'"):
        datasets.source("folder", tmp_path)
    (tmp_path / "labels.csv").unlink()
    write_bag(tmp_path / "loose", walker)
    with pytest.raises(InputError, match="loose' lies outside the class folders"):
        datasets.source("folder", tmp_path)


def test_folder_recording_beside_classes_raises(tmp_path, data_root):
    complete = write_bag(tmp_path / "wave/first", walker)
    for name in ("README.md", "notes.txt", "who.csv", "settings.json", ".hidden.mcap"):
        (tmp_path / name).write_text("notes")
    assert len(Folder(tmp_path).entries()) == 1
    shutil.copy(complete / "first.mcap", tmp_path / "stray.mcap")
    with pytest.raises(InputError, match=r"stray\.mcap' lies outside the class folders"):
        Folder(tmp_path)
    (tmp_path / "stray.mcap").rename(tmp_path / "first.mcap")
    table = shutil.copy(next((data_root / "kinect_v2_csv").glob("*.csv")), tmp_path / "a_table.csv")
    with pytest.raises(InputError, match=r"a_table\.csv' lies outside the class folders"):
        Folder(tmp_path)
    Path(table).unlink()
    shutil.rmtree(tmp_path / "wave")
    with pytest.raises(InputError, match=r"first\.mcap' lies outside the class folders"):
        Folder(tmp_path)
    (tmp_path / "labels.csv").write_text("recording,label\nfirst.mcap,wave\n")
    assert len(Folder(tmp_path).entries()) == 1


def test_folder_invalid_recording_raises_and_unfinished_warns(tmp_path, caplog):
    complete = write_bag(tmp_path / "wave/whole", walker)
    write_bag(tmp_path / "wave/nobody", lambda k: [])
    truncated = write_bag(tmp_path / "wave/cut", walker)
    content = (truncated / "cut.mcap").read_bytes()
    (truncated / "cut.mcap").write_bytes(content[: len(content) // 2])
    unfinished = tmp_path / "wave/killed"
    unfinished.mkdir()
    (unfinished / "killed.mcap").write_bytes(content[: len(content) // 2])
    empty = tmp_path / "wave/empty"
    with BagWriter(empty) as bag:
        bag.add_topic("/chatter", "std_msgs/msg/String")
    (tmp_path / "wave/video.mp4").write_bytes(b"not a video")
    (tmp_path / "wave/joints.skeleton").write_text("12\n1\n")
    source = datasets.source("folder", tmp_path)
    errors = {}
    for entry in source.entries():
        try:
            source.read(entry)
        except InputError as error:
            errors[entry.name.split("/")[1]] = str(error)
            assert "\n" not in str(error)
    assert set(errors) == {"nobody", "empty", "video.mp4", "joints.skeleton"}
    assert "shows no person in any of its 20 frames" in errors["nobody"]
    for name in ("cut", "killed"):
        assert f"finish it with `actrec record --recover '{tmp_path / 'wave' / name}' --out NEW`" in caplog.text
    assert "holds no messages" in errors["empty"]
    for name, message in errors.items():
        assert f"wave/{name}' cannot be used" in message
    source = datasets.source("folder", tmp_path)
    shutil.rmtree(complete)
    with pytest.raises(DeviceError, match="no recording"):
        source.read(next(entry for entry in source.entries() if entry.name == "wave/whole"))


@pytest.mark.parametrize("absolute", [False, True])
def test_folder_labels_of_a_recording_outside_are_refused(tmp_path, absolute):
    write_bag(tmp_path / "secret", walker)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/labels.csv").write_text(f"recording,label\n{tmp_path if absolute else '..'}/secret,wave\n")
    with pytest.raises(InputError, match=r"line 2: recording is '.*secret', expected a path in the folder"):
        datasets.source("folder", tmp_path / "mine").entries()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            "one,wave,5,6,",
            "one' from 5 s to 6 s cannot be used: its label's start and end contain no frame: it lasts 1.90 s",
        ),
        ("one,wave,,,body_9", "has no body 'body_9'; it has body_1"),
    ],
)
def test_folder_label_not_matching_recording_raises(tmp_path, row, message):
    write_bag(tmp_path / "one", walker)
    (tmp_path / "labels.csv").write_text(f"recording,label,start_s,end_s,body\n{row}\n")
    source = datasets.source("folder", tmp_path)
    with pytest.raises(InputError, match=message):
        source.read(source.entries()[0])
