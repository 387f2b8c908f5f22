"""Tests that `actrec prepare --prune` deletes missing clips from the disk and keeps all others."""

import errno
import os

import pytest

from actrec.datasets.store import PreparedDataset
from actrec.datasets.store_format import JOURNAL
from actrec.datasets.store_writer import Journal, ShardWriter
from actrec.utils.errors import DeviceError
from actrec_models.data.preparation import Run, prepare
from tests.models.flaky import names_of

SHARDS = 150_000
"""Bytes of a shard: each holds several clips, some of them missing from the dataset."""


@pytest.fixture
def fewer(published, tmp_path):
    """A store whose dataset lost every other item: its folder, the remaining names, the bytes of the missing clips."""
    out, names = tmp_path / "out", names_of(published)
    prepare("nucla", published, out, run=Run(shard_bytes=SHARDS))
    store = PreparedDataset(out)
    gone = [store[place].bodies.tobytes() for place, name in enumerate(store.names) if name in names[::2]]
    for name in names[::2]:
        (published / f"{name}.json").unlink()
    return out, names[1::2], gone


def on_disk(out):
    return [path.read_bytes() for path in out.glob("shard_*.bin")]


def pruned(published, out):
    return prepare("nucla", published, out, run=Run(prune=True, shard_bytes=SHARDS))


def test_prune_deletes_bytes_and_names_of_missing_clips(published, fewer, tmp_path):
    out, names, gone = fewer
    assert prepare("nucla", published, out).absent and all(any(one in f for f in on_disk(out)) for one in gone)
    mapped = PreparedDataset(out)
    before = [mapped[index].bodies.copy() for index in range(len(mapped))]
    summary = pruned(published, out)
    assert summary.prepared == 0 and not summary.absent and PreparedDataset(out).names == tuple(names)
    assert not any(one in content for one in gone for content in on_disk(out))
    told = (out / JOURNAL).read_text()
    assert all(f'"{name}"' in told for name in names) and told.count('"a') == len(names)
    assert summary.fingerprint == prepare("nucla", published, tmp_path / "anew").fingerprint
    assert not [wrong for _, wrong in PreparedDataset(out).damaged() if wrong]
    assert all((mapped[index].bodies == before[index]).all() for index in range(len(mapped))), "still mapped"
    shards = sorted(out.glob("shard_*.bin"))
    assert pruned(published, out).fingerprint == summary.fingerprint and sorted(out.glob("shard_*.bin")) == shards


@pytest.mark.parametrize("place", ["add", "shorten"])
def test_prune_interrupted_keeps_all_clips(published, fewer, monkeypatch, place):
    out, names, _ = fewer

    def stops(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as stopped:
        stopped.setattr(Journal, place, stops)
        with pytest.raises(KeyboardInterrupt):
            pruned(published, out)
    summary = pruned(published, out)
    assert summary.prepared == 0 and PreparedDataset(out).names == tuple(names)


def test_prune_full_disk_keeps_all_clips(published, fewer, monkeypatch):
    out, names, gone = fewer

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as filled:
        filled.setattr(ShardWriter, "_append", full)
        with pytest.raises(DeviceError, match="no space is left"):
            pruned(published, out)
    assert prepare("nucla", published, out).prepared == 0 and PreparedDataset(out).names == tuple(names)
    pruned(published, out)
    assert not any(one in content for one in gone for content in on_disk(out))


def test_prune_damaged_clip_prepared_again(published, fewer):
    out, names, _ = fewer
    store = PreparedDataset(out)
    kept = store[store.names.index(names[0])].bodies.tobytes()
    path = next(path for path in out.glob("shard_*.bin") if kept in path.read_bytes())
    content = bytearray(path.read_bytes())
    content[content.index(kept)] ^= 1
    path.write_bytes(content)
    assert pruned(published, out).prepared == 1
    assert not [wrong for _, wrong in PreparedDataset(out).damaged() if wrong]


def test_prune_full_shards_kept(published, tmp_path):
    prepare("nucla", published, tmp_path / "out", run=Run(shard_bytes=SHARDS))
    with Journal(tmp_path / "out") as journal:
        assert not journal.with_holes()
        shards = [record.shard for record in journal.records.values()]
        name, shard = next((n, r.shard) for n, r in journal.records.items() if shards.count(r.shard) > 1)
        journal.drop([name])
        assert [records[0].shard for records in journal.with_holes()] == [shard]
