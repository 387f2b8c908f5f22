"""`actrec prepare --prune` deletes missing clips from the disk and keeps all others."""

import errno
import os

import pytest

from actrec.datasets.store import PreparedDataset
from actrec.datasets.store_writer import Shards, ShardWriter, shards
from actrec.utils.errors import DeviceError
from actrec_models.data.preparation import Run, prepare
from tests.models.flaky import names_of

SHARDS = 150_000
"""Size of a shard in bytes; each has several clips, some of them missing from the dataset."""


@pytest.fixture
def half_missing(published, tmp_path):
    """Remove every other item from a dataset; return its store, the remaining names and the missing clips' bytes."""
    out, names = tmp_path / "out", names_of(published)
    prepare("nucla", published, out, run=Run(shard_bytes=SHARDS))
    store = PreparedDataset(out)
    missing = [store[index].bodies.tobytes() for index, name in enumerate(store.names) if name in names[::2]]
    for name in names[::2]:
        (published / f"{name}.json").unlink()
    return out, names[1::2], missing


def shard_contents(out):
    return [path.read_bytes() for path in shards(out)]


def prune(published, out):
    return prepare("nucla", published, out, run=Run(prune=True, shard_bytes=SHARDS))


def test_prune_deletes_bytes_and_names_of_missing_clips(published, half_missing, tmp_path, data_root):
    out, names, missing = half_missing
    assert prepare("nucla", published, out).absent and all(any(c in f for f in shard_contents(out)) for c in missing)
    mapped = PreparedDataset(out)
    expected = [mapped[index].bodies.copy() for index in range(len(mapped))]
    summary = prune(published, out)
    assert summary.prepared == 0 and not summary.absent and PreparedDataset(out).names == tuple(names)
    assert not any(clip in content for clip in missing for content in shard_contents(out))
    assert set(Shards(out).records) == set(names)
    missing_names = set(names_of(data_root / "nucla/raw")) - set(names)
    assert not any(name.encode() in content for name in missing_names for content in shard_contents(out))
    assert summary.fingerprint == prepare("nucla", published, tmp_path / "new").fingerprint
    assert not [error for _, error in PreparedDataset(out).damaged() if error]
    assert all((mapped[index].bodies == expected[index]).all() for index in range(len(mapped))), "still readable"
    paths = shards(out)
    assert prune(published, out).fingerprint == summary.fingerprint and shards(out) == paths


@pytest.mark.parametrize(("owner", "method"), [(ShardWriter, "add"), (ShardWriter, "sync"), (Shards, "tidy")])
def test_prune_interrupted_keeps_all_clips(published, half_missing, monkeypatch, owner, method):
    out, names, _ = half_missing

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(owner, method, interrupt)
        with pytest.raises(KeyboardInterrupt):
            prune(published, out)
    summary = prune(published, out)
    assert summary.prepared == 0 and PreparedDataset(out).names == tuple(names)


def test_prune_full_disk_keeps_all_clips(published, half_missing, monkeypatch):
    out, names, missing = half_missing

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(DeviceError, match="no space is left"):
            prune(published, out)
    assert prepare("nucla", published, out).prepared == 0 and PreparedDataset(out).names == tuple(names)
    prune(published, out)
    assert not any(clip in content for clip in missing for content in shard_contents(out))


def test_prune_damaged_clip_prepared_again(published, half_missing):
    out, names, _ = half_missing
    store = PreparedDataset(out)
    clip_bytes = store[store.names.index(names[0])].bodies.tobytes()
    path = next(path for path in shards(out) if clip_bytes in path.read_bytes())
    content = bytearray(path.read_bytes())
    content[content.index(clip_bytes)] ^= 1
    path.write_bytes(content)
    assert prune(published, out).prepared == 1
    assert not [error for _, error in PreparedDataset(out).damaged() if error]


def test_prune_full_shards_kept(published, tmp_path):
    prepare("nucla", published, tmp_path / "out", run=Run(shard_bytes=SHARDS))
    store = Shards(tmp_path / "out")
    assert not store.gaps
    names = [record.shard for record in store.records.values()]
    name, shard = next((n, r.shard) for n, r in store.records.items() if names.count(r.shard) > 1)
    store.drop([name])
    assert store.gaps == {shard}
