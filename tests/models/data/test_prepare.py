"""Preparation keeps prepared clips after killed workers and runs, full disks and unreadable items."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import numpy as np
import pytest

from actrec import datasets
from actrec.cli import main
from actrec.datasets.store import SKIPPED, STORE, PreparedDataset, read_head
from actrec.datasets.store_writer import END, Shards, ShardWriter, locked, shards
from actrec.utils.errors import ConfigError, DeviceError, InputError, MissingLibraryError
from actrec_models.data import preparation as module
from actrec_models.data import preparation_workers as workers
from actrec_models.data.estimation import PrepareConfig
from actrec_models.data.preparation import Run, prepare
from tests.models import flaky
from tests.models.flaky import names_of

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def registered():
    targets = dict(datasets.DATASETS._targets)
    flaky.register()
    yield
    datasets.DATASETS._targets.clear()
    datasets.DATASETS._targets.update(targets)


def run_python(code, *arguments):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], env=environment, stdout=subprocess.PIPE, text=True
    )


# -- unreadable items --------------------------------------------------------------------------------------------------


def damage(folder):
    """Damage four sequences and return their names."""
    names = names_of(folder)
    (folder / f"{names[0]}.json").write_text((folder / f"{names[0]}.json").read_text()[:500])
    (folder / f"{names[1]}.json").write_text("")
    for name, skeletons in ((names[2], []), (names[3], np.zeros((5, 20, 3)).tolist())):
        content = json.loads((folder / f"{name}.json").read_text())
        (folder / f"{name}.json").write_text(json.dumps({**content, "skeletons": skeletons}))
    single = folder / f"{names[4]}.json"
    content = json.loads(single.read_text())
    single.write_text(json.dumps({**content, "skeletons": content["skeletons"][:1]}))
    return names[:4]


def test_prepare_unreadable_clips_reported_skipped_and_retried(published, tmp_path, data_root, capsys):
    damaged = damage(published)
    command = ["prepare", "nucla", "--data", str(published.parent), "--out", str(tmp_path / "out"), "--workers", "0"]
    assert main([*command, "--quiet", "--json"]) == 0
    streams = capsys.readouterr()
    report = json.loads(streams.out)
    assert (report["clips"], report["prepared"]) == (len(names_of(published)) - 4,) * 2
    assert [item["name"] for item in report["skipped"]] == damaged
    assert len(PreparedDataset(tmp_path / "out")[0].stamps_ns) == 1, "a single frame is a clip"
    assert "warning: 4 items skipped" in streams.err and "skipped.json" in streams.err
    skipped = json.loads((tmp_path / "out" / SKIPPED).read_text())
    assert skipped == report["skipped"] and all(len(item["reason"]) > 20 for item in skipped)
    assert all("\n" not in item["reason"] for item in skipped)
    assert main([*command, "--quiet", "--strict"]) == 1
    shutil.copy(data_root / f"nucla/raw/{damaged[0]}.json", published)
    assert main([*command, "--quiet", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["prepared"], len(report["skipped"])) == (1, 3)


def test_prepare_ntu_truncated_file_skipped(data_root, tmp_path):
    folder = tmp_path / "ntu60"
    folder.mkdir()
    files = sorted((data_root / "ntu/skeleton").glob("*.skeleton"))[:3]
    for path in files:
        shutil.copy(path, folder)
    content = files[1].read_bytes()
    (folder / files[1].name).write_bytes(content[: len(content) // 2])
    summary = prepare("ntu60", folder, tmp_path / "out", options={"incomplete": "keep"})
    (skipped,) = summary.skipped
    assert skipped["name"] == files[1].stem and "truncated" in skipped["reason"]
    stored = PreparedDataset(tmp_path / "out")
    source = datasets.source("ntu60", folder, incomplete="keep")
    for clip, entry in zip(
        (stored[n] for n in range(len(stored))), (e for e in source.entries() if e.name != files[1].stem), strict=True
    ):
        expected = source.read(entry)
        np.testing.assert_array_equal(clip.bodies, expected.bodies)
        np.testing.assert_array_equal(clip.streams["pixels"], expected.streams["pixels"])
    assert (
        datasets.create("ntu60", tmp_path / "out", split="cross_view", part="test", incomplete="keep").names
        == stored.names
    )
    with pytest.raises(ConfigError, match="incomplete=keep: prepare ntu60 into another folder.*incomplete=listed"):
        datasets.create("ntu60", tmp_path / "out", incomplete="listed")


def test_prepare_missing_library_raises(published, tmp_path, monkeypatch):
    def read(self, entry):
        raise ModuleNotFoundError("No module named 'av'")

    monkeypatch.setattr("actrec.datasets.nucla.Nucla.read", read)
    with pytest.raises(MissingLibraryError, match="No module named 'av'; install"):
        prepare("nucla", published, tmp_path / "out")


def test_prepare_no_readable_clip_raises(published, tmp_path):
    for path in published.glob("*.json"):
        path.write_text("")
    with pytest.raises(InputError, match=r"none of the \d+ items of nucla .* can be prepared: .*json"):
        prepare("nucla", published, tmp_path / "out")
    with pytest.raises(InputError, match="is not finished: run the same"):
        PreparedDataset(tmp_path / "out")


def test_prepare_duplicate_name_raises(published, tmp_path, monkeypatch):
    entries = datasets.source("nucla", published).entries() * 2
    monkeypatch.setattr("actrec.datasets.nucla.Nucla.entries", lambda self: entries)
    with pytest.raises(InputError, match=f"names '{entries[0].name}' twice"):
        prepare("nucla", published, tmp_path / "out")


# -- repeated runs -----------------------------------------------------------------------------------------------------


def test_prepare_again_updates_only_added_changed_and_deleted_clips(published, tmp_path, data_root):
    out = tmp_path / "out"
    first = prepare("nucla", published, out)
    files = {path: path.stat().st_mtime_ns for path in out.iterdir() if path.name not in (".lock", SKIPPED)}
    second = prepare("nucla", published, out)
    assert (second.prepared, second.fingerprint) == (0, first.fingerprint)
    assert {path: path.stat().st_mtime_ns for path in files} == files
    reader = PreparedDataset(out)
    names = names_of(published)
    new = next(p for p in sorted((data_root / "nucla/raw").glob("*.json")) if p.stem not in names)
    shutil.copy(new, published)
    (published / f"{names[0]}.json").unlink()
    changed = published / f"{names[1]}.json"
    content = json.loads(changed.read_text())
    changed.write_text(json.dumps({**content, "skeletons": content["skeletons"][:-2]}))
    third = prepare("nucla", published, out)
    assert third.prepared == 2 and third.fingerprint != first.fingerprint
    assert sorted(PreparedDataset(out).names) == names_of(published)
    index = PreparedDataset(out).names.index(names[1])
    assert len(PreparedDataset(out)[index].stamps_ns) == len(content["skeletons"]) - 2
    assert reader[len(reader) - 1].name == reader.names[-1], "an open reader stays valid"


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ({}, {"root": "x"}, "--option cannot set 'root'"),
        ({"image_quality": 80}, {}, "prepared with image_quality=95, not image_quality=80: choose another --out"),
        ({"streams": ["bodies"]}, {}, r"streams=\[\], not streams=\['bodies'\]"),
        ({}, {"fold": 2}, "all folds of nucla are prepared at once"),
        ({}, {"wings": 2}, "unknown option wings of NuclaConfig; known: fold"),
        ({"streams": ["scent"]}, {}, "--streams has 'scent'; known: bodies"),
        ({"estimate": ["age"]}, {}, "--estimate has 'age'; known: bodies"),
        ({"flow": {"height": -1}}, {}, "SceneFlowConfig.height is -1, allowed"),
        ({"body": {"wings": 2}}, {}, "unknown option wings of BodyPerceptionConfig"),
        ({"hand": {"wings": 2}}, {}, "unknown option wings of HandPerceptionConfig"),
        ({"face": {"wings": 2}}, {}, "unknown option wings of FacePerceptionConfig"),
    ],
)
def test_prepare_other_settings_raises(settings, options, message, published, tmp_path):
    prepare("nucla", published, tmp_path / "out")
    with pytest.raises(ConfigError, match=message):
        prepare("nucla", published, tmp_path / "out", options=options, settings=PrepareConfig(**settings))


def test_prepare_into_folder_with_a_staged_file_succeeds(published, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / f".{STORE}.0123abcd.new").touch()  # as a kill leaves it
    assert prepare("nucla", published, out).prepared > 0


def test_prepare_into_foreign_folder_raises(published, tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="holds other files"):
        prepare("nucla", published, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(DeviceError, match="cannot write to"):
        prepare("nucla", published, tmp_path / "file")


def test_prepare_concurrent_runs_raises(published, tmp_path):
    prepare("nucla", published, tmp_path / "out")
    with locked(tmp_path / "out"), pytest.raises(DeviceError, match="another actrec prepare is writing"):
        prepare("nucla", published, tmp_path / "out")


def test_prepare_missing_streams_raises(published, tmp_path):
    with pytest.raises(InputError, match="has no camera frames here: .*omit --estimate, and color"):
        prepare("nucla", published, tmp_path / "out", settings=PrepareConfig(streams=["color"]))
    with pytest.raises(InputError, match="no camera frames here: .*omit --estimate, and color"):
        prepare("nucla", published, tmp_path / "other", settings=PrepareConfig(estimate=["motion"]))


# -- kills -------------------------------------------------------------------------------------------------------------

PREPARE = """
import sys
from tests.models import flaky
from tests.models.flaky import names_of
flaky.register()
flaky.Slow.ends_never = True
from actrec_models.data import preparation as module
module.BATCH = 2
print("ready", flush=True)
module.prepare("slow", sys.argv[1], sys.argv[2])
"""


def test_prepare_killed_run_loses_only_current_batch(published, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr(module, "BATCH", 2)
    child = run_python(PREPARE, published, out)
    assert child.stdout.readline() == "ready\n"
    while sum(path.stat().st_size for path in shards(out)) < 50_000:  # of four clips
        assert child.poll() is None
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert not read_head(out).complete
    (shard,) = shards(out)
    content = shard.read_bytes()
    recorded = len(Shards(out).records)
    assert recorded >= 3
    # The beginning of another clip simulates a kill during writing.
    shard.write_bytes(shard.read_bytes().removesuffix(END) + content[:4000])
    assert len(Shards(out).records) == recorded
    (out / "shard_000009_0123456789ab.arrow").write_bytes(b"of an unknown worker")
    summary = prepare("slow", published, out)
    assert summary.prepared == len(names_of(published)) - recorded
    assert summary.fingerprint == prepare("slow", published, tmp_path / "at_once").fingerprint
    used = sum(path.stat().st_size for path in shards(out))
    assert used == summary.bytes, "files of dead workers are removed"
    assert all(not error for _, error in PreparedDataset(out).damaged())


@pytest.mark.slow
def test_prepare_killed_worker_loses_only_its_clip(published, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 4)
    monkeypatch.setattr(workers, "ATTEMPTS", 2)
    names = names_of(published)
    options = {"once": names[1], "always": names[2], "marks": str(tmp_path)}
    summary = prepare("deadly", published, tmp_path / "out", options=options, run=Run(workers=1))
    assert summary.skipped == [{"name": names[2], "reason": "2 workers died while they worked on it"}]
    assert summary.clips == len(names) - 1 and (tmp_path / f"{names[1]}.killed").exists()
    shutil.copytree(published, tmp_path / "others")
    (tmp_path / f"others/{names[2]}.json").unlink()
    expected = prepare("nucla", tmp_path / "others", tmp_path / "here")
    assert expected.fingerprint == summary.fingerprint


def test_prepare_external_cluster_gives_same_store(published, tmp_path):
    distributed = pytest.importorskip("distributed")
    options = {"processes": False, "protocol": "tcp", "dashboard_address": None, "threads_per_worker": 2}
    with distributed.LocalCluster(n_workers=1, silence_logs="CRITICAL", **options) as cluster:
        summary = prepare("nucla", published, tmp_path / "out", run=Run(scheduler=cluster.scheduler_address))
    assert summary.fingerprint == prepare("nucla", published, tmp_path / "here").fingerprint
    assert workers._WORKERS == {}, "its workers keep running without open files"


def test_prepare_unreachable_cluster_raises(published, tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    create_client = distributed.Client
    monkeypatch.setattr(distributed, "Client", lambda address, timeout: create_client(address, timeout=0.5))
    with pytest.raises(DeviceError, match="no scheduler answers at 'tcp://127.0.0.1:9'"):
        prepare("nucla", published, tmp_path / "out", run=Run(scheduler="tcp://127.0.0.1:9"))


def test_prepare_no_worker_left_raises(published, tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")

    def fail(**options):
        raise RuntimeError("Nanny failed to start.")

    with monkeypatch.context() as patch:
        patch.setattr(distributed, "LocalCluster", fail)
        with pytest.raises(DeviceError, match=r"be started \(Nanny failed to start.\): --workers 0 does without"):
            prepare("nucla", published, tmp_path / "out", run=Run(workers=1))
    monkeypatch.setattr(workers, "_COUNT_S", 0.2)
    monkeypatch.setattr(module, "BATCH", 1)
    options = {"processes": False, "protocol": "tcp", "dashboard_address": None, "threads_per_worker": 1}
    with distributed.LocalCluster(n_workers=1, silence_logs="CRITICAL", **options) as cluster:
        result = workers._result

        def result_of_the_last_worker(*arguments):
            found = result(*arguments)
            cluster.scale(0)
            while cluster.scheduler.workers:
                time.sleep(0.01)
            monkeypatch.setattr(workers, "WAIT_S", 0.5)
            return found

        monkeypatch.setattr(workers, "_result", result_of_the_last_worker)
        with pytest.raises(DeviceError, match="has no workers left: run the same command again"):
            prepare("slow", published, tmp_path / "out", run=Run(scheduler=cluster.scheduler_address))


def test_prepare_lost_result_of_dead_worker_recomputed(monkeypatch):
    """A dead worker's result is computed again; without workers, waiting ends with an error."""
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(workers, "WAIT_S", 0.5)
    monkeypatch.setattr(workers, "_COUNT_S", 0.2)
    options = {"processes": False, "protocol": "tcp", "dashboard_address": None, "threads_per_worker": 1}
    with distributed.LocalCluster(n_workers=1, **options) as cluster, distributed.Client(cluster) as client:
        future = client.submit(len, "item")
        distributed.wait(future)
        cluster.scale(0)
        while client.nthreads():
            time.sleep(0.01)

        def result():
            watch = workers._Watch(client, "")
            return workers._result(future, workers.Batch([]), deque(), watch, "")

        with pytest.raises(DeviceError, match="^no worker process is left: run the same command again"):
            result()
        cluster.scale(1)
        client.wait_for_workers(1, timeout=60)
        assert result() == 4


# -- a full disk -------------------------------------------------------------------------------------------------------

LIMITED = """
import resource, sys
from actrec_models.data import preparation as module
from actrec.utils.errors import DeviceError
module.BATCH = 2
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
try:
    module.prepare("nucla", sys.argv[1], sys.argv[2])
except DeviceError as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [1500, 60_000])
def test_prepare_full_disk_raises_and_resumes(limit, published, tmp_path):
    """With 1500 bytes the first clip exceeds the limit, with 60,000 a later one."""
    out = tmp_path / "out"
    child = run_python(LIMITED, published, out, limit)
    output, _ = child.communicate(timeout=60)
    assert output.startswith("no space is left in") and "no prepared clip is lost" in output
    assert len(output.strip().splitlines()) == 1
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    recorded = len(Shards(out).records)
    summary = prepare("nucla", published, out)
    assert summary.prepared == len(names_of(published)) - recorded
    assert (recorded > 0) == (limit > 10_000)
    assert summary.fingerprint == prepare("nucla", published, tmp_path / "at_once").fingerprint


@pytest.mark.parametrize("place", [0, 8, 40, 900, 1100, 20_000])
def test_prepare_damaged_shard_never_adopts_wrong_arrays(published, tmp_path, place):
    """The names, shapes and types of a shard may be damaged, which have no checksum."""
    summary = prepare("nucla", published, tmp_path / "out")
    (shard,) = shards(tmp_path / "out")
    content = bytearray(shard.read_bytes())
    content[place : place + 8] = bytes(value ^ 255 for value in content[place : place + 8])
    shard.write_bytes(content)
    again = prepare("nucla", published, tmp_path / "out", run=Run(repair=True))
    assert again.fingerprint == summary.fingerprint and again.prepared > 0
    assert all(not error for _, error in PreparedDataset(tmp_path / "out").damaged())


@pytest.mark.parametrize("damage", ["tail", "middle"])
def test_prepare_unfinished_shard_with_damage_prepares_those_clips_again(published, tmp_path, damage):
    """After a power failure, bytes may be missing on the disk."""
    summary = prepare("nucla", published, tmp_path / "out")
    (shard,) = shards(tmp_path / "out")
    content = bytearray(shard.read_bytes()[: -len(END)])
    start = len(content) - 3000 if damage == "tail" else len(content) // 2
    content[start : start + 3000] = bytes(3000)
    shard.write_bytes(content)
    again = prepare("nucla", published, tmp_path / "out")
    assert again.fingerprint == summary.fingerprint and 0 < again.prepared < summary.clips
    assert all(not error for _, error in PreparedDataset(tmp_path / "out").damaged())


def test_prepare_worker_writing_to_other_folder_raises(published, tmp_path, monkeypatch):
    """A machine of a cluster may have a local folder of the same name."""
    (tmp_path / "other").mkdir()
    monkeypatch.setattr(workers, "ShardWriter", lambda folder, limit: ShardWriter(tmp_path / "other", limit))
    with pytest.raises(DeviceError, match="lacks clips .*every worker must write to this same folder"):
        prepare("nucla", published, tmp_path / "out")


def test_prepare_without_pyarrow_names_the_library(published, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingLibraryError, match="pip install"):
        prepare("nucla", published, tmp_path / "out")


# -- the command -------------------------------------------------------------------------------------------------------


def test_prepare_command_lists_datasets_and_rejects_bad_options(published, tmp_path, capsys):
    assert main(["prepare", "list", "--json"]) == 0
    assert "nucla" in json.loads(capsys.readouterr().out)
    out = ["--data", str(published.parent), "--out", str(tmp_path / "out"), "--quiet"]
    assert main(["prepare", "atlantis", *out]) == 2
    assert main(["prepare", "nucla", *out, "--workers", "-1"]) == 2
    assert main(["prepare", "nucla", *out, "--set", "wings=2"]) == 2
    assert main(["prepare", "nucla", *out, "--check"]) == 1
    render = ["prepare", "nucla", *out[:2], "--out", str(tmp_path / "out.npz"), "--render-every", "9"]
    assert main([*render, "--streams", "bodies", "--set", "image_quality=90", "--strict"]) == 2
    assert main(["prepare", "nucla", *out, "--render-split", "view"]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert "--streams, --set, --strict cannot be used with --render-every, which writes no store" in error[-2]
    assert "--render-split cannot be used without --render-every" in error[-1] and len(error) == 6
    assert main(["prepare", "nucla", "--data", str(tmp_path / "nowhere"), *out[2:], "--workers", "0"]) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert main(["prepare", "nucla", *out, "--workers", "0"]) == 0
    assert main(["prepare", "utd_mhad", *out, "--check"]) == 2
    assert (tmp_path / "out" / STORE).is_file()
