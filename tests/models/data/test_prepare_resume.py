"""Preparation into an existing store keeps prepared clips and prepares only new ones."""

import errno
import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from actrec import datasets
from actrec.cli import main
from actrec.datasets import acted
from actrec.datasets.base import Entry
from actrec.datasets.store import STORE, PreparedDataset
from actrec.datasets.store_writer import Shards, shards
from actrec.datasets.user_folder import Folder
from actrec.scene_flow.primal_dual import gpu
from actrec.utils.errors import ConfigError, DeviceError, InputError
from actrec_models.data import preparation_workers as workers
from actrec_models.data.estimation import PrepareConfig
from actrec_models.data.preparation import Run, prepare
from tests.models.flaky import names_of
from tests.models.own_recordings import walker, write_bag


def test_prepare_again_unreadable_recordings_keep_earlier_clips(published, tmp_path):
    first = prepare("nucla", published, tmp_path / "out")
    for path in published.glob("*.json"):
        path.write_text("")
    second = prepare("nucla", published, tmp_path / "out")
    assert (second.fingerprint, second.clips, second.prepared) == (first.fingerprint, first.clips, 0)
    assert len(second.skipped) == first.clips
    assert all("the store keeps its earlier clip" in item["reason"] for item in second.skipped)


def test_prepare_again_absent_recordings_excluded_and_kept(published, tmp_path, capsys):
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
    streams = capsys.readouterr()
    assert json.loads(streams.out)["absent"] == names[:3]
    assert f"3 clips that were prepared are no longer in the dataset, first '{names[0]}'" in streams.err
    assert PreparedDataset(first.folder).names == tuple(names[3:])
    third = prepare("nucla", published, first.folder)
    assert (third.prepared, third.fingerprint) == (0, first.fingerprint)
    assert main([*command, "--prune"]) == 0
    assert "--prune" not in capsys.readouterr().err
    assert prepare("nucla", published, first.folder).prepared == 3


@pytest.mark.parametrize("name", ["later", ".later", "lost+found"])
def test_prepare_unreadable_folder_not_treated_as_empty(published, tmp_path, monkeypatch, name):
    """An unreadable folder raises; hidden folders and `lost+found` are ignored."""
    root = tmp_path / "root"
    shutil.copytree(published, root / "present")
    (root / name).mkdir()
    first = prepare("nucla", root, tmp_path / "out")
    scan = os.scandir

    def fail(path="."):
        if str(path).endswith(name):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", fail)
    if name == "later":
        with pytest.raises(DeviceError, match="cannot read the folder '.*later': Input/output error"):
            prepare("nucla", root, tmp_path / "out", run=Run(prune=True))
    else:
        assert prepare("nucla", root, tmp_path / "out", run=Run(prune=True)).absent == []
    monkeypatch.undo()
    second = prepare("nucla", root, tmp_path / "out")
    assert (second.prepared, second.fingerprint) == (0, first.fingerprint)


def test_prepare_folder_recording_identified_by_its_files(tmp_path):
    bag = tmp_path / "wave" / "wave_001"
    bag.mkdir(parents=True)
    (bag / "metadata.yaml").write_text("rosbag2_bagfile_information: {}")
    entry = Entry("wave_001", 0, {}, {"recording": bag})
    expected = workers.signature(entry, PrepareConfig())
    (bag / "wave_001_0.mcap").write_bytes(b"another take")
    assert workers.signature(entry, PrepareConfig()) != expected


def test_prepare_again_corrected_file_of_the_same_size_is_prepared(tmp_path):
    joints = np.random.default_rng(0).normal(3.0, 0.3, (30, 25, 3))
    for name in ("wave", "clap"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        np.savez(tmp_path / "mine" / name / "a.npz", positions=joints, layout="kinect_v2_25", fps=30.0)
    first = prepare("folder", tmp_path / "mine", tmp_path / "out")
    np.savez(tmp_path / "mine/wave/a.npz", positions=joints, layout="kinect_v2_25", fps=15.0)
    second, clips = prepare("folder", tmp_path / "mine", tmp_path / "out"), PreparedDataset(tmp_path / "out")
    assert (first.prepared, second.prepared) == (2, 1)
    assert np.ptp(clips[clips.names.index("wave/a.npz")].stamps_ns) == pytest.approx(29 / 15 * 1e9, abs=10)
    assert prepare("folder", tmp_path / "mine", tmp_path / "out").prepared == 0


@pytest.mark.slow
def test_prepare_performances_of_other_code_are_made_again(tmp_path, monkeypatch):
    first = prepare("acted", "", tmp_path / "out", options={"clips": 1})
    assert prepare("acted", "", tmp_path / "out", options={"clips": 1}).prepared == 0
    monkeypatch.setattr(acted, "_code", lambda: b"an update")
    assert prepare("acted", "", tmp_path / "out", options={"clips": 1}).prepared == first.prepared > 0


def test_prepare_again_lost_shards_prepares_their_clips_again(published, tmp_path):
    out = tmp_path / "out"
    first = prepare("nucla", published, out, run=Run(shard_bytes=60_000))
    for path in shards(out)[::2]:
        path.unlink()
    second = prepare("nucla", published, out)
    assert second.fingerprint == first.fingerprint and 0 < second.prepared < first.clips
    assert not [error for _, error in PreparedDataset(out).damaged() if error]


def test_prepare_update_keeps_open_readers_working(published, tmp_path):
    """Shards are not truncated, as reading truncated mapped files kills the process."""
    prepare("nucla", published, tmp_path / "out")
    reader = PreparedDataset(tmp_path / "out")
    expected = reader[0].bodies.copy()
    (shard,) = shards(tmp_path / "out")
    size = shard.stat().st_size
    for name in reader.names[1:]:  # the first clip stays, so its shard stays
        content = json.loads((published / f"{name}.json").read_text())
        content["skeletons"] += content["skeletons"][-1:]
        (published / f"{name}.json").write_text(json.dumps(content))
    assert prepare("nucla", published, tmp_path / "out").prepared == len(reader) - 1
    assert shard.stat().st_size == size
    np.testing.assert_array_equal(reader[0].bodies, expected)
    assert all(len(reader[n].stamps_ns) for n in range(len(reader)))


def test_prepare_store_without_settings_file_raises(published, tmp_path):
    """Without its settings, the store could mix clips of different options."""
    prepare("nucla", published, tmp_path / "out")
    (tmp_path / "out" / STORE).unlink()
    expected = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(InputError, match="has no store.json"):
        prepare("nucla", published, tmp_path / "out", settings=PrepareConfig(image_quality=50))
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == expected


def test_prepare_file_system_without_locks_raises_own_error(published, tmp_path, monkeypatch):
    def flock(file, how):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(DeviceError, match=r"cannot lock files \(Function not implemented\).*choose another --out"):
        prepare("nucla", published, tmp_path / "out")


def test_prepare_undeletable_old_shard_raises(published, tmp_path):
    (tmp_path / "out" / "shard_000001_old.arrow").mkdir(parents=True)  # a folder, which unlink does not remove
    with pytest.raises(DeviceError, match="cannot write to '.*out': Is a directory"):
        prepare("nucla", published, tmp_path / "out")


def test_prepare_user_folder_written(published, tmp_path):
    user_folder = tmp_path / "mine"
    for number, path in enumerate(sorted(published.glob("*.json"))[:4]):
        (user_folder / ("wave", "clap")[number % 2]).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, user_folder / ("wave", "clap")[number % 2])
    summary = prepare("folder", user_folder, tmp_path / "out")
    assert summary.clips == 4
    clips = datasets.create("folder", tmp_path / "out", split="all")
    assert clips.classes == ("clap", "wave") and len(clips) == 4
    with pytest.raises(ConfigError, match="folder has split all, part; got 'person'"):
        datasets.create("folder", tmp_path / "out", split="person")


def write_recording(folder):
    """Write a recording with joints, color and depth; return the folder of its class folder."""
    return write_bag(folder / "wave/one", walker, frames=5, images=True).parents[1]


def test_prepare_user_folder_color_kept(tmp_path):
    settings = PrepareConfig(streams=["bodies", "color"])
    prepare("folder", write_recording(tmp_path / "mine"), tmp_path / "out", settings=settings)
    clip = PreparedDataset(tmp_path / "out")[0]
    assert clip.streams["color"].shape == (5, 48, 64, 3)
    assert [int(image.mean()) for image in clip.streams["color"]] == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(clip.streams["size"], [64, 48])
    assert PreparedDataset(tmp_path / "out").scene_flow == {}
    settings = PrepareConfig(streams=["bodies", "color"], estimate=["motion"], flow={"height": 48})
    prepare("folder", tmp_path / "mine", tmp_path / "moved", settings=settings)
    moved = PreparedDataset(tmp_path / "moved")
    assert {"color", "motion"} <= set(moved[0].streams)
    assert moved.subset([0]).scene_flow == {"method": "dis", "height": 48}
    assert replace(settings, motion_from="color").scene_flow is None


def test_prepare_names_device_of_scene_flow_once(tmp_path, monkeypatch, capfd):
    write_recording(tmp_path / "mine")
    write_bag(tmp_path / "mine/wave/two", walker, frames=4, images=True)
    monkeypatch.setattr(gpu, "unused", lambda: "CuPy is not installed: install it")
    command = [
        "prepare",
        "folder",
        "--root",
        str(tmp_path / "mine"),
        "--workers",
        "0",
        "--quiet",
        "--streams",
        "bodies,color",
    ]
    for method, lines in (
        ("pd_flow", ["scene flow by pd_flow on CPU: CuPy is not installed: install it"]),
        ("dis", []),
    ):
        settings = ["--estimate", "motion", "--set", "flow.height=48", "--set", f"flow.method={method}"]
        assert main([*command, "--out", str(tmp_path / method), *settings]) == 0
        assert [line for line in capfd.readouterr().err.splitlines() if "scene flow" in line] == lines


def test_prepare_color_not_recorded_raises(tmp_path, published):
    write_bag(tmp_path / "mine/wave/one", walker)
    for name, root, message in (
        ("folder", tmp_path / "mine", "holds joints and no images: record it with --images"),
        ("nucla", published, "has no camera frames here"),
    ):
        with pytest.raises(InputError, match=f"none of the.*{message}"):
            prepare(name, root, tmp_path / f"of_{name}", settings=PrepareConfig(streams=["bodies", "color"]))
    with pytest.raises(InputError, match="has no hands .*leave it out of --streams, or --estimate it"):
        prepare("nucla", published, tmp_path / "hands", settings=PrepareConfig(streams=["bodies", "hands"]))


def test_prepare_bodies_with_later_videos_unchanged(data_root, tmp_path):
    name, options = "S001C001P001R001A001", {"incomplete": "keep"}
    (tmp_path / "ntu").mkdir()
    shutil.copy(data_root / f"ntu/skeleton/{name}.skeleton", tmp_path / "ntu")
    first = prepare("ntu60", tmp_path / "ntu", tmp_path / "out", options=options)
    (tmp_path / f"ntu/{name}_rgb.avi").touch()
    (tmp_path / f"ntu/{name}").mkdir()
    (tmp_path / f"ntu/{name}/Depth-00000001.png").touch()
    second = prepare("ntu60", tmp_path / "ntu", tmp_path / "out", options=options)
    assert (second.prepared, second.bytes) == (0, first.bytes), "no clip is read or stored again"
    entry = datasets.source("ntu60", tmp_path / "ntu", **options).entries()[0]
    several = [PrepareConfig(estimate=["flow"]), PrepareConfig(streams=["color"]), PrepareConfig()]
    assert set(entry.files) == {"skeleton", "color", "depth"}
    assert [len(set(entry.files) - settings.unread) for settings in several] == [3, 2, 1]
    assert len({workers.signature(entry, settings) for settings in several}) == 3


def test_prepare_bodies_only_opens_no_video(data_root, tmp_path):
    name = "S001C001P001R001A001"
    (tmp_path / "ntu").mkdir()
    shutil.copy(data_root / f"ntu/skeleton/{name}.skeleton", tmp_path / "ntu")
    (tmp_path / f"ntu/{name}_rgb.avi").touch()
    options = {"incomplete": "keep"}
    assert prepare("ntu60", tmp_path / "ntu", tmp_path / "out", options=options).clips == 1
    clip = PreparedDataset(tmp_path / "out")[0]
    assert clip.streams["size"].tolist() == [1920, 1080] and clip.streams["pixels"].shape == (1, 103, 25, 2)
    with pytest.raises(InputError, match=f"{name}_rgb.avi' is truncated or not a video"):
        settings = PrepareConfig(streams=["bodies", "color"])
        prepare("ntu60", tmp_path / "ntu", tmp_path / "color", options=options, settings=settings)


def test_prepare_setting_with_name_of_option_kept(data_root, tmp_path):
    (tmp_path / "ntu").mkdir()
    shutil.copy(data_root / "ntu/skeleton/S001C001P001R001A001.skeleton", tmp_path / "ntu")
    options = {"incomplete": "keep"}  # the dataset has an option max_bodies too
    prepare("ntu60", tmp_path / "ntu", tmp_path / "out", options=options)
    with pytest.raises(ConfigError, match=r"was prepared with max_bodies=2, not max_bodies=4: choose another --out"):
        prepare("ntu60", tmp_path / "ntu", tmp_path / "out", options=options, settings=PrepareConfig(max_bodies=4))


def test_prepare_intrinsics_file_found_from_other_folder(tmp_path, monkeypatch):
    write_recording(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    source = Folder(tmp_path / "mine", recording={"intrinsics": "camera.yaml"})
    monkeypatch.chdir("/")
    assert source.recording.intrinsics == str(tmp_path / "camera.yaml")
    numbers = "60,60,31.5,23.5"
    assert Folder(tmp_path / "mine", recording={"intrinsics": numbers}).recording.intrinsics == numbers


def test_prepare_output_inside_recordings_raises(published, tmp_path):
    (tmp_path / "mine/wave").mkdir(parents=True)
    shutil.copy(next(iter(published.glob("*.json"))), tmp_path / "mine/wave")
    with pytest.raises(ConfigError, match="lies among the recordings of .*choose another"):
        prepare("folder", tmp_path / "mine", tmp_path / "mine/prepared")


def test_prepare_failed_run_leaves_folder_reusable(published, tmp_path):
    (tmp_path / "empty").mkdir()
    for path in published.glob("*.json"):
        (tmp_path / "empty" / path.name).touch()
    with pytest.raises(InputError, match="none of the"):
        prepare("nucla", tmp_path / "empty", tmp_path / "out", settings=PrepareConfig(image_quality=80))
    assert prepare("nucla", published, tmp_path / "out").clips == len(names_of(published))


def test_prepare_failed_sync_discards_its_clips(published, tmp_path, monkeypatch):
    sync, failed = os.fsync, []

    def fail(number):
        if "shard_" in os.readlink(f"/proc/self/fd/{number}") and not failed:
            failed.append(number)
            raise OSError(errno.EIO, "Input/output error")
        sync(number)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(DeviceError, match="cannot write to"):
            prepare("nucla", published, tmp_path / "out")
    assert failed
    assert not Shards(tmp_path / "out").records
    summary = prepare("nucla", published, tmp_path / "out")
    assert summary.fingerprint == prepare("nucla", published, tmp_path / "here").fingerprint


def test_prepare_ctrl_c_in_compiled_code_stops(published, tmp_path, monkeypatch):
    def fail_like_compiled_code(*_):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as interrupt:
            raise SystemError("returned a result with an exception set") from interrupt

    monkeypatch.setattr(workers, "encode", fail_like_compiled_code)
    with pytest.raises(KeyboardInterrupt):
        prepare("nucla", published, tmp_path / "out")
