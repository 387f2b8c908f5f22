"""Provenance of a run: commit, parts of a resumed run, and fingerprint of the data."""

import dataclasses
import functools
import shutil
import subprocess

import pytest
import torch

from actrec import datasets
from actrec.datasets.base import ClipDataset, Entry
from actrec.utils.errors import ConfigError, DeviceError
from actrec_models.training import checkpoints, provenance
from actrec_models.training.recipe import Recipe
from actrec_models.training.trainer import Machine, TrainingRun
from tests.models.made_up import skeletons
from tests.models.places import Places
from tests.models.training import children

CPU = Machine(accelerator="cpu", workers=0)


@pytest.fixture
def clips(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setattr(datasets, "create", lambda name, root, **options: skeletons())


def git(folder, *args):
    user = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    return subprocess.run(["git", "-C", folder, *user, *args], capture_output=True, text=True, check=True).stdout


def test_commit_is_of_own_checkout(tmp_path, monkeypatch):
    source = tmp_path / "venv/provenance.py"
    source.parent.mkdir()
    shutil.copy(provenance.__file__, source)
    monkeypatch.setattr(provenance, "__file__", str(source))
    assert provenance.commit() == ""
    git(tmp_path, "init", "--quiet")
    (tmp_path / "robot.py").touch()
    git(tmp_path, "add", "robot.py")
    git(tmp_path, "commit", "--quiet", "-m", "a robot's own code")
    assert provenance.commit() == "", "the environment lies in another project's checkout"
    git(tmp_path, "add", "--force", str(source))
    git(tmp_path, "commit", "--quiet", "-m", "ours")
    head = git(tmp_path, "rev-parse", "--short=12", "HEAD").strip()
    assert provenance.commit() == head
    source.write_text("changed")
    assert provenance.commit() == f"{head}+"


ONE_OUT = {"sets": ["nucla", "kard"], "fold": 3}  # kard tests


@pytest.mark.parametrize(
    ("trained", "tested", "shared"),
    [
        (("everyday", "own", {}), ("everyday", "person", {}), True),
        (("everyday", "person", {}), ("rendered_everyday", "person", {}), False),
        (("rendered_everyday", "person", {}), ("everyday", "own", {}), True),
        (("everyday", "person", {}), ("nucla", "view", {}), True),
        (("everyday", "own", {}), ("nucla", "view", {}), False),
        (("everyday", "own", {"sets": ["kard"]}), ("nucla", "subject", {}), False),
        (("nucla", "view", {}), ("everyday", "person", {}), True),
        (("nucla", "view", {}), ("everyday", "leave_one_set_out", ONE_OUT), False),
        (("kard", "subject", {}), ("everyday", "leave_one_set_out", ONE_OUT), True),
        (("everyday", "leave_one_set_out", ONE_OUT), ("everyday", "leave_one_set_out", ONE_OUT), False),
        (("everyday", "leave_one_set_out", ONE_OUT), ("everyday", "leave_one_set_out", {**ONE_OUT, "fold": 1}), True),
        (("ntu120", "cross_setup", {}), ("ntu60", "cross_subject", {}), True),
        (("ntu60", "cross_view", {}), ("ntu120", "cross_subject", {}), True),
        (("ntu120", "cross_subject", {}), ("ntu60", "cross_subject", {}), False),
        (("ntu120", "cross_setup", {}), ("nucla", "view", {}), False),
    ],
)
def test_check_of_overlapping_datasets_compares_their_divisions(trained, tested, shared):
    before = [provenance.training(*trained)]
    if not shared:
        provenance.check("--init base", before, *tested)
        return
    with pytest.raises(ConfigError, match="parts of different splits and folds overlap"):
        provenance.check("--init base", before, *tested)


def test_commit_without_git_is_empty(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.commit() == "", "training works without git"


def set_versions(monkeypatch, commit, version):
    """Set the commit and the package version of following trainings."""
    monkeypatch.setattr(provenance, "commit", lambda: commit)
    monkeypatch.setattr(provenance, "packages", lambda: {"actrec": version, "numpy": "2.0"})


def test_provenance_resumed_with_other_code_lists_both(clips, tmp_path, monkeypatch):
    stages = [{"epochs": 1}, {"epochs": 1}]
    set_versions(monkeypatch, "aaaa", "1.0")
    children.run(tmp_path, CPU, stages=stages)
    for commit, version in (("bbbb+", "1.1"), ("bbbb+", "1.1"), ("", "1.1")):
        (tmp_path / "last.ckpt").unlink()  # the last stage is repeated from the weights of the first
        set_versions(monkeypatch, commit, version)
        path = children.run(tmp_path, CPU, stages=stages)
        content = checkpoints.read(path)["actrec"]["provenance"]
        assert content["commit"] == f"aaaa, then {commit or 'unknown'}"
        assert content["packages"] == {"actrec": "1.0, then 1.1", "numpy": "2.0"}
    recipe, run = checkpoints.open_checkpoint(path)[0], provenance.from_checkpoint(checkpoints.read(path))
    assert provenance.package_provenance(recipe, run).commit == "aaaa, then unknown"


def test_merge_lists_parts_in_order():
    def merge_with(before, **changes):
        current = {"commit": "b", "host": "here", "device": "cpu", "packages": {"numpy": "2.1"}, **changes}
        return provenance.merge(before, current)

    single = merge_with({"epochs": 3})
    assert single == merge_with({}) == merge_with(single), "missing, empty and equal provenance"
    assert merge_with({"commit": ""})["commit"] == "unknown, then b"
    merged = merge_with({**single, "packages": {"scipy": "1.0", "numpy": "2.0"}}, device="2 × H200", commit="c")
    assert (merged["commit"], merged["device"], merged["host"]) == ("b, then c", "cpu, then 2 × H200", "here")
    assert merged["packages"] == {"scipy": "1.0", "numpy": "2.0, then 2.1"}
    assert merge_with(merged)["commit"] == "b, then c, then b"


def test_fingerprint_differs_for_other_content(tmp_path):
    short, long, folder = (tmp_path / name for name in ("short", "long", "folder"))
    short.write_bytes(b"1" * 100_000)
    long.write_bytes(b"1" * 300_000)
    folder.mkdir()
    source = Places(tmp_path)
    entry = Entry("clip", 0, files={"skeleton": short, "color": long, "depth": folder})

    def fingerprint_with(path, position, content=b"2"):
        original = path.read_bytes()
        path.write_bytes(original[:position] + content + original[position + 1 :])
        fingerprint = source.fingerprint([entry])
        path.write_bytes(original)
        return fingerprint

    first = source.fingerprint([entry])
    positions = [(short, 0), (short, 50_000), (short, 99_999), (long, 0), (long, 65_535), (long, 299_999)]
    fingerprints = {fingerprint_with(path, position) for path, position in positions}
    assert len(fingerprints | {first}) == 7
    assert fingerprint_with(long, 150_000) == first, "the middle of a long file is not read"
    assert fingerprint_with(long, 150_000, b"22") != first
    (folder / "1.png").touch()
    assert source.fingerprint([entry]) != first
    short.unlink()
    with pytest.raises(DeviceError, match=f"cannot read '{short}': No such file"):
        source.fingerprint([entry])


def test_fingerprint_of_clips_in_memory_takes_a_name_that_is_not_utf_8():
    clips = [dataclasses.replace(skeletons()[0], name=name) for name in ("clip_\udce9", "clip")]
    first, other = (ClipDataset([clip], ["a"]).fingerprint() for clip in clips)
    assert first != other


def test_fingerprint_of_folder_depends_on_content(tmp_path):
    """Files with equal names and sizes, but other content, change the fingerprint."""
    bag = tmp_path / "clap/clap_001"
    for path in (tmp_path / "wave/a.skeleton", bag / "metadata.yaml", bag / "clap_001_0.mcap"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(1000))

    def fingerprint():
        source = datasets.source("folder", tmp_path)
        return source.fingerprint(source.entries())

    first = fingerprint()
    assert fingerprint() == first
    for path in (tmp_path / "wave/a.skeleton", bag / "clap_001_0.mcap"):
        path.write_bytes(bytes(999) + b"1")
        assert fingerprint() != first
        path.write_bytes(bytes(1000))
    assert fingerprint() == first


def test_license_is_of_all_data_that_trained_the_weights():
    trained = functools.partial(provenance.package_provenance, Recipe(model="joint_tcn", dataset="acted"))
    run = {"epochs": 1, "seconds": 0.0}
    assert trained(run).license == "the same as actrec"
    kard = provenance.training("kard", "person", {})
    joined = trained({**run, "init": ["w.ckpt 0"], provenance.INITIAL_TRAININGS: [kard, kard]}).license
    assert joined.startswith("the same as actrec; research use") and joined.count("research use") == 1
    assert trained({**run, "init": ["w.ckpt 0"]}).license == "the same as actrec; the license of the initial weights"
    own = provenance.package_provenance(Recipe(model="joint_tcn", dataset="folder"), run)
    assert own.license == "the license of your recordings"


def test_background_of_another_dataset_is_a_training(monkeypatch):
    """Its clips trained the network, so that its other splits cannot test it."""
    recipe = Recipe(model="joint_tcn", dataset="acted", unknown_dataset="nucla", background=0.2)
    known = ClipDataset(skeletons()[:8], ("a", "b"))
    run = TrainingRun(recipe, known, None, False, CPU, (), ClipDataset(skeletons()[:4], ("a", "b")))
    assert run.initial_trainings == (provenance.training("nucla", "view", {}),)
    with pytest.raises(ConfigError, match="it has trained on clips that would be tested on"):
        provenance.check("a.ckpt", run.initial_trainings, "nucla", "view_1", {})
    own = ClipDataset(skeletons()[:4], ("a", "b"))
    own.entries = [dataclasses.replace(entry, meta={"subject": 1}) for entry in own.entries]
    assert TrainingRun(recipe, known, None, False, CPU, (), own).initial_trainings == ()
