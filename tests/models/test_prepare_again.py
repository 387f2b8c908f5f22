"""Preparation into a store that is there: what was prepared is never lost, nothing else is counted."""

import errno
import json
import os
import shutil

import pytest

from actrec.cli import main
from actrec.errors import ConfigError, DeviceError, InputError
from actrec_models import data
from actrec_models.data import PreparedDataset, prepare_tasks
from actrec_models.data.prepare import prepare
from actrec_models.data.prepare_settings import PrepareConfig
from actrec_models.data.source import Entry
from actrec_models.data.store_format import JOURNAL
from actrec_models.data.store_journal import Journal
from tests.models.flaky import names_of


def test_what_cannot_be_read_again_keeps_what_was_prepared(published, tmp_path):
    first = prepare("nucla", published, tmp_path / "out")
    for path in published.glob("*.json"):
        path.write_text("")
    again = prepare("nucla", published, tmp_path / "out")
    assert (again.fingerprint, again.clips, again.prepared) == (first.fingerprint, first.clips, 0)
    assert len(again.skipped) == first.clips
    assert all("the store keeps what was prepared of it before" in item["reason"] for item in again.skipped)


def test_what_is_away_for_a_while_is_left_out_and_kept(published, tmp_path, capsys):
    first, names = prepare("nucla", published, tmp_path / "out"), names_of(published)
    shutil.copytree(published, tmp_path / "fewer")
    for name in names[:3]:
        (tmp_path / "fewer" / f"{name}.json").unlink()
    command = [
        "prepare",
        "nucla",
        "--root",
        str(tmp_path / "fewer"),
        "--out",
        first.folder,
        "--workers",
        "0",
        "--quiet",
    ]
    assert main([*command, "--strict", "--json"]) == 1
    told = capsys.readouterr()
    assert json.loads(told.out)["absent"] == names[:3]
    assert f"3 clips that were prepared are no items of the dataset now, first '{names[0]}'" in told.err
    assert PreparedDataset(first.folder).names == tuple(names[3:])
    back = prepare("nucla", published, first.folder)
    assert (back.prepared, back.fingerprint) == (0, first.fingerprint)
    assert main([*command, "--prune"]) == 0
    assert "--prune" not in capsys.readouterr().err
    assert prepare("nucla", published, first.folder).prepared == 3


def test_a_recording_that_is_a_folder_is_known_by_the_files_in_it(tmp_path):
    bag = tmp_path / "wave" / "wave_001"
    bag.mkdir(parents=True)
    (bag / "metadata.yaml").write_text("rosbag2_bagfile_information: {}")
    entry = Entry("wave_001", 0, {}, {"recording": bag})
    before = prepare_tasks.signature(entry)
    (bag / "wave_001_0.mcap").write_bytes(b"another take")
    assert prepare_tasks.signature(entry) != before


def test_a_finished_store_is_not_touched_without_its_journal(published, tmp_path):
    out = tmp_path / "out"
    done = prepare("nucla", published, out)
    content = (out / JOURNAL).read_bytes()
    for kept in (b"", content[: content.index(b"\n", len(content) // 2) + 1][:-40]):
        (out / JOURNAL).write_bytes(kept)
        with pytest.raises(InputError, match=f"the finished store of {done.clips}: it can still be trained from"):
            prepare("nucla", published, out)
        assert PreparedDataset(out).fingerprint() == done.fingerprint
        assert not [wrong for _, wrong in PreparedDataset(out).damaged() if wrong]


def test_a_folder_of_ones_own_is_prepared(published, tmp_path):
    mine = tmp_path / "mine"
    for number, path in enumerate(sorted(published.glob("*.json"))[:4]):
        (mine / ("wave", "clap")[number % 2]).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, mine / ("wave", "clap")[number % 2])
    done = prepare("folder", mine, tmp_path / "out")
    assert done.clips == 4
    clips = data.create("folder", tmp_path / "out", split="all")
    assert clips.classes == ("clap", "wave") and len(clips) == 4
    with pytest.raises(ConfigError, match="folder has split all, part; got 'person'"):
        data.create("folder", tmp_path / "out", split="person")


def test_a_store_among_recordings_would_be_one(published, tmp_path):
    (tmp_path / "mine/wave").mkdir(parents=True)
    shutil.copy(next(iter(published.glob("*.json"))), tmp_path / "mine/wave")
    with pytest.raises(ConfigError, match="lies among the recordings of .*choose another"):
        prepare("folder", tmp_path / "mine", tmp_path / "mine/prepared")


def test_a_run_that_prepared_nothing_leaves_the_folder_open(published, tmp_path):
    (tmp_path / "empty").mkdir()
    for path in published.glob("*.json"):
        (tmp_path / "empty" / path.name).touch()
    with pytest.raises(InputError, match="none of the"):
        prepare("nucla", tmp_path / "empty", tmp_path / "out", settings=PrepareConfig(picture_quality=80))
    assert prepare("nucla", published, tmp_path / "out").clips == len(names_of(published))


def test_clips_that_may_not_be_on_the_disk_are_not_noted(published, tmp_path, monkeypatch):
    sync, shards = os.fsync, []

    def failing(number):
        if "shard_" in os.readlink(f"/proc/self/fd/{number}") and not shards:
            shards.append(number)
            raise OSError(errno.EIO, "Input/output error")
        sync(number)

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", failing)
        with pytest.raises(DeviceError, match="cannot write to"):
            prepare("nucla", published, tmp_path / "out")
    assert shards
    with Journal(tmp_path / "out") as journal:
        assert not journal.records
    done = prepare("nucla", published, tmp_path / "out")
    assert done.fingerprint == prepare("nucla", published, tmp_path / "here").fingerprint


def test_ctrl_c_in_compiled_code_ends_the_run(published, tmp_path, monkeypatch):
    def wrapped(*_):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as interrupt:
            raise SystemError("returned a result with an exception set") from interrupt

    monkeypatch.setattr(prepare_tasks, "encode", wrapped)
    with pytest.raises(KeyboardInterrupt):
        prepare("nucla", published, tmp_path / "out")
