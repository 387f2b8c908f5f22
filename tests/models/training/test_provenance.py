"""Provenance of a run: commit of the source, all parts of a resumed run, content of the data."""

import shutil
import subprocess

import pytest
import torch

from actrec import datasets
from actrec.datasets.base import Entry
from actrec.utils.errors import DeviceError
from actrec_models.training import checkpoints, provenance
from actrec_models.training.trainer import Machine
from tests.models.made_up import skeletons
from tests.models.places import Places
from tests.models.training import children

CPU = Machine(accelerator="cpu", workers=0)


@pytest.fixture
def clips(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setattr(datasets, "create", lambda name, root, **options: skeletons())


def git(folder, *words):
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    return subprocess.run(["git", "-C", folder, *who, *words], capture_output=True, text=True, check=True).stdout


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


def test_commit_without_git_is_empty(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.commit() == "", "a robot without git must not lose a fine-tuned network"


def made_by(monkeypatch, commit, version):
    """Has trainings be made by another code."""
    monkeypatch.setattr(provenance, "commit", lambda: commit)
    monkeypatch.setattr(provenance, "packages", lambda: {"actrec": version, "numpy": "2.0"})


def test_provenance_resumed_with_other_code_lists_both(clips, tmp_path, monkeypatch):
    stages = [{"epochs": 1}, {"epochs": 1}]
    made_by(monkeypatch, "aaaa", "1.0")
    children.run(tmp_path, CPU, stages=stages)
    for commit, version in (("bbbb+", "1.1"), ("bbbb+", "1.1"), ("", "1.1")):
        (tmp_path / "last.ckpt").unlink()  # the last stage is trained again, from the weights of the first
        made_by(monkeypatch, commit, version)
        kept = children.run(tmp_path, CPU, stages=stages)
        content = checkpoints.read(kept)["actrec"]["provenance"]
        assert content["commit"] == f"aaaa, then {commit or 'unknown'}"
        assert content["packages"] == {"actrec": "1.0, then 1.1", "numpy": "2.0"}
    recipe, run = checkpoints.load_checkpoint(kept)[0], provenance.from_checkpoint(checkpoints.read(kept))
    assert provenance.package_provenance(recipe, run).commit == "aaaa, then unknown"


def test_merge_lists_parts_in_order():
    def going_on(before, **changed):
        now = {"commit": "b", "host": "here", "device": "cpu", "packages": {"numpy": "2.1"}, **changed}
        return provenance.merge(before, now)

    alone = going_on({"epochs": 3})
    assert alone == going_on({}) == going_on(alone), "from before it was kept; nothing; the same again"
    assert going_on({"commit": ""})["commit"] == "unknown, then b"
    gone = going_on({**alone, "packages": {"scipy": "1.0", "numpy": "2.0"}}, device="2 × H200", commit="c")
    assert (gone["commit"], gone["device"], gone["host"]) == ("b, then c", "cpu, then 2 × H200", "here")
    assert gone["packages"] == {"scipy": "1.0", "numpy": "2.0, then 2.1"}
    assert going_on(gone)["commit"] == "b, then c, then b"


def test_fingerprint_differs_for_other_content(tmp_path):
    short, long, folder = (tmp_path / name for name in ("short", "long", "folder"))
    short.write_bytes(b"1" * 100_000)
    long.write_bytes(b"1" * 300_000)
    folder.mkdir()
    source = Places(tmp_path)
    entry = Entry("clip", 0, files={"skeleton": short, "color": long, "depth": folder})

    def written(path, place, content=b"2"):
        before = path.read_bytes()
        path.write_bytes(before[:place] + content + before[place + 1 :])
        found = source.fingerprint([entry])
        path.write_bytes(before)
        return found

    first = source.fingerprint([entry])
    places = [(short, 0), (short, 50_000), (short, 99_999), (long, 0), (long, 65_535), (long, 299_999)]
    found = {written(path, place) for path, place in places}
    assert len(found | {first}) == 7
    assert written(long, 150_000) == first, "the middle of a long file is not read"
    assert written(long, 150_000, b"22") != first
    (folder / "1.png").touch()
    assert source.fingerprint([entry]) != first
    short.unlink()
    with pytest.raises(DeviceError, match=f"cannot read '{short}': No such file"):
        source.fingerprint([entry])


def test_fingerprint_of_folder_depends_on_content(tmp_path):
    """Of the same size and name, as a bag that is recorded again may be."""
    bag = tmp_path / "clap/clap_001"
    for path in (tmp_path / "wave/a.skeleton", bag / "metadata.yaml", bag / "clap_001_0.mcap"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(1000))

    def found():
        source = datasets.source("folder", tmp_path)
        return source.fingerprint(source.entries())

    first = found()
    assert found() == first
    for path in (tmp_path / "wave/a.skeleton", bag / "clap_001_0.mcap"):
        path.write_bytes(bytes(999) + b"1")
        assert found() != first
        path.write_bytes(bytes(1000))
    assert found() == first
