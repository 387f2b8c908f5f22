"""One folder of skeletons written with numpy, through `actrec teach`, `eval`, `eval --stream` and `train`."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from actrec import datasets
from actrec.cli import main
from actrec.datasets.user_folder import Folder
from actrec.recordings.clip_recorder import ClipRecorderConfig, _prepare_folder
from actrec.skeleton import layouts
from actrec.utils.errors import InputError
from actrec_models.data.continuous import join_clips
from actrec_models.evaluation import streams
from actrec_models.finetune import fine_tuning
from actrec_models.training.checkpoints import read
from tests.models.made_up import TINY
from tests.models.made_up import write as write_recipe
from tests.tiny_model import write_tiny

TEACHING = Path(__file__).resolve().parents[2] / "docs/teaching.md"
ACTIONS = ("clap", "sit to stand", "squat")


def write_person(file, clips, subject, **clock):
    """Write three actions and an unknown one of a subject, one after the other, as an untrimmed file."""
    own = [i for i, meta in enumerate(clips.metas) if (meta["subject"], meta["trial"]) == (subject, 1)]
    named = {clips.classes[clips.labels[i]]: clips[i] for i in own}
    chosen = [named[name] for name in (*ACTIONS, "bowling")]
    made = join_clips("x", chosen, [*ACTIONS, "unknown"])
    np.savez(
        file, positions=made.sequence.bodies, layout=layouts.CANONICAL, person=f"subject {subject}",
        labels=[each.label for each in made.actions], start_s=[each.start_s for each in made.actions],
        end_s=[each.end_s for each in made.actions], **clock,
    )  # fmt: skip
    return made


@pytest.fixture(scope="module")
def folders(tmp_path_factory, data_root):
    """Write files of four people to learn from, and of two others to test on."""
    root = tmp_path_factory.mktemp("own")
    for name, part, subjects in (("mine", "train", (1, 3, 5, 7)), ("others", "test", (2, 4))):
        clips = datasets.create("utd_mhad", data_root / "utd_mhad", part=part)
        (root / name).mkdir()
        for subject in subjects:
            write_person(root / name / f"subject_{subject}.npz", clips, subject, fps=30)
    return root


@pytest.mark.slow
@pytest.mark.timeout(300)  # for a busy machine
def test_own_skeletons_through_all_commands(folders, tmp_path, capsys):
    torch.set_num_threads(1)
    mine, others, package = folders / "mine", folders / "others", tmp_path / "package"
    quick = ["--minutes", "0.1", "--steps", "1", "--rehearsals", "1"]
    assert main(["teach", str(mine), "--out", str(package), "--json", "--quiet", *quick]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["classes"], report["clips"], report["evaluated_by"]) == (
        list(ACTIONS), 12, "leave one person out"
    )  # fmt: skip
    assert report["unknown_clips"] == 12, "one action and the rest before and after the actions, of each person"

    assert main(["eval", str(package), "--root", str(others), "--json", "--quiet"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["clips"], figures["unknown_clips"]) == (6, 6) and figures["right"] >= 4

    assert main(["eval", str(package), "--stream", str(others), "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)[str(package)]["actions"] == 6

    recipe = write_recipe(tmp_path / "r.yaml", **{**TINY, "dataset": "folder", "split": "all", "epochs": 1})
    train = ["train", str(recipe), "--root", str(mine), "--out", str(tmp_path / "run"), "--accelerator", "cpu"]
    assert main([*train, "--workers", "0", "--quiet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 3


def test_documented_example_is_a_dataset(folders, tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", TEACHING.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    with np.load(folders / "mine/subject_1.npz") as made:
        np.save("joints.npy", np.tile(made["positions"], (1, 3, 1, 1)))
    exec(code, {})
    source = Folder("mine")
    assert [(e.name, source.classes[e.label], e.meta["person"]) for e in source.entries()] == [
        (f"monday.npz@{start}-{start + 3}", ("wave", "clap")[k % 2], "anna") for k, start in enumerate(range(2, 33, 6))
    ]
    assert all(len(source.read(entry).stamps_ns) == 91 for entry in source.entries())
    assert [entry.name for entry in source.unknown_entries()][:2] == ["monday.npz@0-2", "monday.npz@5-8"]


def test_labels_of_files_folders_and_table_are_combined(folders, tmp_path, data_root):
    clips = datasets.create("utd_mhad", data_root / "utd_mhad")
    for name in ("anna", "clap"):
        (tmp_path / name).mkdir()
    write_person(tmp_path / "anna/all.npz", clips, 1, fps=30)  # labels of its own
    np.savez(tmp_path / "clap/one.npz", positions=clips[0].bodies, layout=layouts.CANONICAL, fps=30)
    source = Folder(tmp_path)
    assert source.classes == ACTIONS and len(source.entries()) == 4
    with pytest.raises(InputError, match="holds 1 recordings in folders named as their labels, first 'clap/one.npz'"):
        _prepare_folder(tmp_path, ClipRecorderConfig("clap"))
    (tmp_path / "anna/cut.npz").write_bytes((tmp_path / "anna/all.npz").read_bytes()[:5000])
    with pytest.raises(InputError, match=r"cut\.npz' is corrupt"):
        Folder(tmp_path)
    (tmp_path / "anna/cut.npz").unlink()
    (tmp_path / "labels.csv").write_text("recording,label\nclap/one.npz,wave\n")
    assert Folder(tmp_path).classes == (*ACTIONS, "wave") and len(Folder(tmp_path).unknown_entries()) == 3
    assert sorted(len(stream.actions) for stream in streams.open_streams(tmp_path)) == [1, 4]
    (tmp_path / "labels.csv").write_text("recording,label,end_s\nclap/one.npz,wave,\nanna/all.npz,wave,2\n")
    assert Folder(tmp_path).classes == ("wave",) and not Folder(tmp_path).unknown_entries()
    (tmp_path / "labels.csv").unlink()
    np.savez(tmp_path / "none.npz", positions=clips[0].bodies, layout=layouts.CANONICAL, fps=30)
    with pytest.raises(InputError, match="none.npz' lies outside the class folders: .*or save its labels in it"):
        Folder(tmp_path)


def test_frame_rate_option_is_the_same_everywhere(tmp_path, data_root, capsys):
    mine, model, recipe = tmp_path / "mine", tmp_path / "model", tmp_path / "r.yaml"
    mine.mkdir()
    made = write_person(mine / "a.npz", datasets.create("utd_mhad", data_root / "utd_mhad"), 1)
    write_tiny(model)
    write_recipe(recipe, dataset="folder", split="all", epochs=1, batch=2)
    run = ["--root", str(mine), "--out", str(tmp_path / "run"), "--quiet", "--workers", "0"]
    commands = {
        "prepare": ["prepare", "folder", *run[:3], str(tmp_path / "folder"), *run[4:], "--json"],
        "stream": ["eval", str(model), "--stream", str(mine), "--json", "--quiet"],
        "teach": ["teach", str(mine), "--out", str(tmp_path / "taught"), "--quiet"],
        "train": ["train", str(recipe), *run, "--accelerator", "cpu"],
    }
    printed = {}
    for name, command in commands.items():
        assert main(command) == 1 and "give the frame rate: --recording fps=HZ" in capsys.readouterr().err
        status = main([*command, "--recording", "fps=15"])
        printed[name] = capsys.readouterr()
        assert status == (name == "teach"), printed[name].err
    assert "each action needs at least three clips" in printed["teach"].err
    minutes = json.loads(printed["stream"].out)[str(model)]["minutes"]
    assert minutes == pytest.approx((len(made.sequence) - 1) / 15 / 60, abs=0.006)
    trained = read(tmp_path / "run/last.ckpt")["hyper_parameters"]["recipe"]
    assert trained["dataset_options"] == {"recording": {"fps": 15}}
    stored = datasets.create("folder", tmp_path / "folder")
    assert len(stored) == 3 and np.diff(stored[0].stamps_ns)[0] == pytest.approx(1e9 / 15)


def test_hands_are_a_dataset_apart_from_bodies(tmp_path, data_root):
    hands = datasets.create("shrec17_14", data_root / "shrec17")
    for number in range(3):
        clip, label = hands[number], ("a", "b")[number % 2]
        np.savez(tmp_path / f"{number}.npz", positions=clip.bodies, layout="hand_22", fps=30, labels=label)
    found = datasets.create("folder", tmp_path)
    assert found.layout == "hand_22"
    np.testing.assert_array_equal(found[0].bodies, hands[0].bodies)
    with pytest.raises(InputError, match=r"holds hands \(hand_22\): train a network of hands with `actrec train`"):
        fine_tuning.teach(tmp_path, fine_tuning.TeachConfig(), progress=False)
    with pytest.raises(InputError, match="holds hands"):
        streams.open_streams(tmp_path)
    write_person(tmp_path / "body.npz", datasets.create("utd_mhad", data_root / "utd_mhad"), 1, fps=30)
    with pytest.raises(InputError, match=r"has hands \('2\.npz'\) and bodies \('body\.npz'\): use a folder for each"):
        Folder(tmp_path)
