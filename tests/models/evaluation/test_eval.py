"""`actrec eval`: single, fused, repeated and finer models; reports; refusals."""

import csv
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

import actrec_models.networks
from actrec import datasets
from actrec.cli import main
from actrec.inference import package, zoo
from actrec.inference.package import Provenance
from actrec.utils.errors import PackageError
from actrec_models.evaluation import evaluator, protocol
from actrec_models.evaluation.protocol import Target
from actrec_models.training import checkpoints, provenance, recipe
from actrec_models.training import module as training_module
from tests.models.places import PLACES, TARGETS, Places
from tests.tiny_model import LABELS, averaging_onnx, tiny_description, tiny_onnx, write_tiny


@pytest.fixture(autouse=True)
def places(monkeypatch):
    monkeypatch.setattr(datasets.DATASETS, "_targets", {**datasets.DATASETS._targets, **TARGETS})
    monkeypatch.setattr(Places, "read_names", [])


def write(folder, dataset="places", split="all", seed=1, weights=None, settings=None, figures=None, **changes):
    """Write a tiny package with this provenance; return its path as text."""
    of = Provenance(dataset, split, seed, 3, 0.0, "none", ("made up",), "0000000", "2025-01-01T00:00:00")
    of = replace(of, settings=settings or {}, figures=figures or {})
    described = replace(tiny_description(), provenance=of, **changes)
    plain = tiny_onnx(classes=len(described.labels))
    package.write(folder, described, plain if weights is None else averaging_onnx(described.inputs, weights))
    return str(folder)


def evaluate(capsys, *arguments):
    """Return the figures that the command prints."""
    assert main(["eval", *arguments, "--data", "nowhere", "--json", "--quiet", "--threads", "1"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *arguments, status=2):
    """Return the one-line error of the command."""
    assert main(["eval", *arguments, "--data", "nowhere", "--quiet", "--threads", "1"]) == status
    output = capsys.readouterr()
    assert output.out == ""
    assert len(output.err.strip().splitlines()) == 1
    return output.err


# -- one model ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_eval_shipped_package_reproduces_stated_figures(data_root, tmp_path, capsys):
    out = tmp_path / "report"
    arguments = ["eval", "deepacts_graph_nucla", "--data", str(data_root), "--threads", "1", "--quiet"]
    assert main([*arguments, "--json", "--report", str(out)]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["clips"], figures["right"]) == (464, 427)
    assert figures["accuracy"] == pytest.approx(427 / 464)
    assert figures["rejected"] == pytest.approx(34 / 464)
    stated = zoo.find("deepacts_graph_nucla").provenance.figures
    measured = [figures[name] for name in ("rejected", "right_and_accepted", "mean_confidence", "ece")]
    names = ("test_rejected", "test_right_and_accepted", "test_confidence", "test_ece")
    assert measured == pytest.approx([stated[name] for name in names], abs=1e-5)
    assert figures == json.loads((out / "figures.json").read_text())
    assert np.sum(figures["confusion"]) == 464
    assert figures["accuracy_low"] < figures["accuracy"] < figures["accuracy_high"]
    with (out / "predictions_deepacts_graph_nucla.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 464
    assert sum(row["true"] == row["predicted"] for row in rows) == 427
    assert all(row["clip"].endswith("v03") for row in rows)


def test_report_contains_plots_and_escapes_names(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Places, "classes", ("<b>left</b>", "right | far", "far"))
    model = write(tmp_path / "odd", labels=("<b>left</b>", "right | far", "far"))
    out = tmp_path / "deep" / "report"
    assert main(["eval", model, "--data", "nowhere", "--report", str(out), "--quiet", "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    assert "75.00 %" in printed
    assert "official protocol reports top-1 accuracy" in printed
    page, text = (out / "report.html").read_text(), (out / "report.md").read_text()
    for content in (page, text):
        assert "<b>left" not in content
        assert "&lt;b&gt;left&lt;/b&gt;" in content
    assert page.count("data:image/png;base64,") == 3
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "right \\| far" in text
    plots = re.findall(r"\]\((.*?\.png)\)", text)
    assert len(plots) == 3
    for plot in plots:
        assert (out / plot).read_bytes().startswith(b"\x89PNG")
    assert main(["eval", model, "--data", "nowhere", "--report", "/proc/nothing", "--quiet", "--threads", "1"]) == 1
    assert "cannot write the report to /proc/nothing" in capsys.readouterr().err


@pytest.mark.filterwarnings("error")
def test_report_labels_of_any_script_are_drawn_without_warning(tmp_path, capsys, monkeypatch):
    labels = ("cost $5_{ $", "手を振る", "пауза")
    monkeypatch.setattr(Places, "classes", labels)
    model, out = write(tmp_path / "odd $^{", labels=labels), tmp_path / "report"
    evaluate(capsys, model, "--report", str(out))
    assert (out / "confusion.png").is_file() and "手を振る" in (out / "report.html").read_text()


def test_report_unwritable_folder_refused_before_scoring(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").touch()
    model = write(tmp_path / "model")
    monkeypatch.setattr(evaluator, "evaluate_models", lambda *_, **__: pytest.fail("scored first"))
    assert "cannot write the report to" in refused(capsys, model, "--report", str(tmp_path / "file"), status=1)


def test_eval_checkpoint_of_running_training_is_scored(data_root, tmp_path, capsys):
    settings = replace(recipe.Recipe(), model="deepacts_graph", options={"modalities": ["body"], "width": 4}, frames=8)
    torch.manual_seed(1)
    module = training_module.RecognitionModule(settings.as_dict(), list(datasets.DATASETS.get("utd_mhad").classes))
    parameters = {"recipe": settings.as_dict(), "classes": list(datasets.DATASETS.get("utd_mhad").classes)}
    folder = tmp_path / "my_run"
    folder.mkdir()
    made_by = {"epochs": 5, "seconds": 0.0, "provenance": {}}
    content = {"hyper_parameters": parameters, "state_dict": module.state_dict(), "actrec": made_by}
    torch.save(content, folder / "last.ckpt")
    arguments = ["eval", str(folder / "last.ckpt"), "--data", str(data_root), "--json", "--quiet", "--threads", "1"]
    assert main([*arguments, "--dataset", "utd_mhad", "--split", "subject"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["package"], figures["epochs"], figures["clips"]) == ("my_run/last.ckpt", 5, 430)
    source = datasets.source("utd_mhad", data_root / "utd_mhad")
    person = source.read(source.entries()[0])
    (tmp_path / "streams").mkdir()
    spans = {"labels": ["wave"], "start_s": [0.5], "end_s": [1.5]}
    np.savez(tmp_path / "streams/a.npz", positions=person.leveled().bodies, layout="kinect_v2_25", fps=15.0, **spans)
    assert main(["eval", str(folder / "last.ckpt"), "--stream", str(tmp_path / "streams"), "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)[str(folder / "last.ckpt")]["actions"] == 1
    assert "name its checkpoint" in refused(capsys, str(folder), status=1)
    assert refused(capsys, str(tmp_path / "absent.ckpt"), status=1).startswith("actrec: cannot read checkpoint")
    assert main(["export", str(folder), "--out", str(tmp_path / "package")]) == 1
    assert f"name a checkpoint in it, such as {folder / 'last.ckpt'}" in capsys.readouterr().err
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    assert "no plain checkpoint" in refused(capsys, str(tmp_path / "text.ckpt"), status=1)
    whole = (folder / "last.ckpt").read_bytes()
    for length in range(0, len(whole), len(whole) // 40):  # at some lengths PyTorch raises "Invalid argument"
        (tmp_path / "cut.ckpt").write_bytes(whole[:length])
        with pytest.raises(PackageError, match=r"cut.ckpt is refused: it is no plain checkpoint .*, or is truncated"):
            checkpoints.read(tmp_path / "cut.ckpt")


def test_eval_finer_classes_are_summed(tmp_path, capsys):
    model = write(tmp_path / "fine")
    fine, coarse = evaluate(capsys, model), evaluate(capsys, model, "--dataset", "places_coarse")
    assert (fine["right"], coarse["right"]) == (6, 7)  # "left_wrong" is near too
    assert (fine["measure"], coarse["measure"]) == ("accuracy", "mean_class_accuracy")
    assert coarse["per_class"]["near"]["recall"] == 1.0
    assert "3 classes, whose probabilities are summed to the dataset's 2" in coarse["notes"][0]
    strict = write(tmp_path / "strict", rejection=package.Rejection(0.6))
    fine, coarse = evaluate(capsys, strict), evaluate(capsys, strict, "--dataset", "places_coarse")
    # Two of three equal classes are near, 0.67 in all; the live confidence is 0.33.
    assert fine["rejected"] == coarse["rejected"] == 1 / 8
    swapped = write(tmp_path / "swapped", labels=("right", "left", "far"))
    error = refused(capsys, swapped, "--dataset", "places_coarse", status=1)
    assert "swapped knows right, left, far but the classes of places_coarse are near, far away" in error


def test_own_recordings_test_a_model_whose_split_has_the_same_name(tmp_path):
    """By people of `everyday`; all of the user's recordings are new to it."""
    write(tmp_path / "model", dataset="everyday", split="person", figures={"recordings": ["a"]})
    (tmp_path / "mine").mkdir()
    options = protocol.EvalOptions(dataset="folder", root=str(tmp_path / "mine"))
    target = protocol.resolve_target([protocol.open_model(tmp_path / "model")], "nowhere", options)
    assert (target.split, target.part) == ("all", "train")


def test_eval_unreadable_clip_refused_or_counted_as_wrong(tmp_path, capsys):
    model = write(tmp_path / "tiny")
    broken = ("--option", "broken=[left_1]")
    error = refused(capsys, model, *broken, status=1)
    assert error.startswith("actrec: nowhere/places/left_1.skeleton is truncated; repair it")
    assert "--skip-unreadable" in error
    figures = evaluate(capsys, model, *broken, "--skip-unreadable")
    assert (figures["clips"], figures["right"], figures["unreadable"]) == (8, 5, 1)
    assert figures["dataset_options"] == {"broken": ["left_1"]}


# -- several models ----------------------------------------------------------------------------------------------------


def test_eval_fused_streams_sum_probabilities(tmp_path, capsys):
    """The second stream knows only the distance."""
    second = write(tmp_path / "depth", variant="depth", weights=[[-3.0, -3.0, 3.0]])
    streams, out = [write(tmp_path / "joint"), second], tmp_path / "report"
    both = evaluate(capsys, *streams, "--fuse", "softmax", "--weights", "1", "0.6", "--report", str(out))
    assert [model["package"] for model in both["models"]] == ["joint", "depth"]
    assert both["weights"] == pytest.approx([1 / 1.6, 0.6 / 1.6])
    assert "threshold" not in both["fusion"]
    first, second, fused = (predictions(out / f"predictions_{name}.csv") for name in ("joint", "depth", "joint_depth"))
    np.testing.assert_allclose(fused, (first + 0.6 * second) / 1.6, atol=2e-6)
    labels = [label for _, label, *_ in PLACES]
    assert [model["right"] for model in both["models"]] == [np.sum(p.argmax(1) == labels) for p in (first, second)]
    # The second stream decides "far_unsure".
    assert both["fusion"]["right"] == np.sum(fused.argmax(1) == labels) == 7
    assert "Fusion of 2 models, 2 input streams in all" in (out / "report.md").read_text()


def predictions(path):
    """Return the probabilities [N, classes] of a CSV."""
    with path.open() as file:
        return np.array([[float(row[label]) for label in LABELS] for row in csv.DictReader(file)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "1", "1"], "add --fuse softmax"),
        (["--fuse", "softmax", "--weights", "1"], "1 weights for 2 streams"),
        (["--fuse", "softmax", "--weights", "1", "-1"], "each must be 0 or more"),
        (["--fuse", "softmax", "--folds", "all"], "--fuse and --folds cannot be combined"),
        (["--fuse", "softmax", "--seeds"], "2 of seed 1: give the same streams of each of several seeds"),
        (["--folds", "some"], "expected 'all' or numbers"),
        (["--folds", "1,3"], "has folds 1 to 2; got 1, 3"),
        (["--folds", "1"], "2 models for 1 folds"),
        (["--part", "middle"], "train, test"),
        (["--split", "none"], "was trained on split 'all' of places, not 'none'"),
        (["--split", "half"], "places has split all, none; got 'half'"),
        (["--stream", "folder", "--elsewhere"], "--elsewhere cannot be used with --stream, which scores no dataset"),
        (["--dataset", "kth"], "'kth', which is no known dataset"),
        (["--option", "broken"], "expected KEY=VALUE"),
    ],
)
def test_eval_contradictory_options_refused_before_reading(tmp_path, capsys, arguments, message):
    models = [write(tmp_path / name, variant=name) for name in ("joint", "bone")]
    assert message in refused(capsys, *models, *arguments)
    assert Places.read_names == []


def test_eval_incompatible_models_refused(tmp_path, capsys):
    joint, other = write(tmp_path / "joint"), write(tmp_path / "other", labels=("left", "right", "away"))
    error = refused(capsys, joint, other, "--fuse", "softmax", status=1)
    assert re.search("joint knows 3 classes .*far.* but other knows 3 classes .*away", error)
    split = write(tmp_path / "split", split="none")
    error = refused(capsys, joint, split, "--fuse", "softmax")
    assert "split was trained on split 'none' of places, joint on 'all'" in error
    assert "joint and twin have the same seed 1" in refused(capsys, joint, write(tmp_path / "twin"), "--seeds")
    assert "--seeds needs two models" in refused(capsys, joint, "--seeds")
    foreign = write(tmp_path / "foreign", "utd_mhad", labels=("left", "right", "away"))
    assert "foreign knows left, right, away but" in refused(capsys, joint, foreign, status=1)
    assert Places.read_names == [], "refused before any scoring"
    plain = str(write_tiny(tmp_path / "untrained").path)
    assert "'made up', which is no known dataset; choose one with --dataset" in refused(capsys, plain)
    assert "utd_mhad are swipe left" in refused_on(capsys, joint, "utd_mhad")


def refused_on(capsys, model, dataset):
    """Return the refusal to score a model of other classes, on an empty archive."""
    folder = datasets.DATASETS.get(dataset)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder, "entries", lambda self: [])
        return refused(capsys, model, "--dataset", dataset, status=1)


def test_eval_models_of_several_seeds_get_mean_and_spread(tmp_path, capsys):
    models = [write(tmp_path / f"seed{seed}", seed=seed) for seed in (1, 2, 3)]
    figures = evaluate(capsys, *models)
    assert figures["kind"] == "seeds"
    assert figures["spread"]["accuracy"] == {"mean": 0.75, "std": 0.0, "min": 0.75, "max": 0.75}
    other = write(tmp_path / "wide", variant="wide", seed=4)
    assert evaluate(capsys, models[0], other)["kind"] == "comparison"
    assert "seed1 and wide differ by their variant" in refused(capsys, models[0], other, "--seeds")


def test_eval_fuse_with_seeds_repeats_fusion(tmp_path, capsys):
    joints = [write(tmp_path / f"joint{seed}", seed=seed) for seed in (1, 2)]
    depths = [write(tmp_path / f"depth{s}", seed=s, variant="depth", weights=[[-3.0, -3.0, 3.0]]) for s in (1, 2)]
    models = [joints[0], depths[0], joints[1], depths[1]]
    figures = evaluate(capsys, *models, "--fuse", "softmax", "--weights", "1", "0.6", "--seeds")
    assert [fused["package"] for fused in figures["fusions"]] == ["joint1 + depth1", "joint2 + depth2"]
    assert [fused["right"] for fused in figures["fusions"]] == [7, 7]
    assert figures["spread"]["accuracy"]["mean"] == 7 / 8
    assert (figures["streams"], len(figures["weights"])) == (2, 2)
    fit = ["--fuse", "logits", "--seeds"]
    assert "2 of seed 1, 1 of seed 2: give the same streams" in refused(capsys, *models[:3], *fit)
    crossed = [joints[0], depths[0], depths[1], joints[1]]
    assert "differ by their variant: give the streams of each seed in the same order" in refused(capsys, *crossed, *fit)


@pytest.mark.slow
def test_eval_equal_model_names_made_unique(tmp_path, capsys):
    models = [write(tmp_path / run / "package", seed=seed) for seed, run in ((1, "a"), (2, "b"))]
    out = tmp_path / "report"
    figures = evaluate(capsys, *models, models[1], "--report", str(out), "--clips", "whole")
    assert [model["package"] for model in figures["models"]] == ["a/package", "b/package", "b/package (2)"]
    assert {model["clips_of_recording"] for model in figures["models"]} == {"whole"}
    assert len(list(out.glob("predictions_*.csv"))) == 3
    evaluate(capsys, models[0], "--report", str(out))
    assert [path.name for path in out.glob("predictions_*.csv")] == ["predictions_package.csv"]


def test_report_unusual_names_get_unique_files(tmp_path, capsys):
    names = ["жест", "волна", "a b", "a_b", "A b", "x" * 120, "x" * 121]
    models = [write(tmp_path / name, seed=seed) for seed, name in enumerate(names, start=1)]
    out = tmp_path / "report"
    evaluate(capsys, *models, "--report", str(out))
    made = sorted(path.stem.removeprefix("predictions_") for path in out.glob("predictions_*.csv"))
    assert made == sorted(["жест", "волна", "a_b", "a_b_2", "A_b_3", "x" * 50, "x" * 50 + "_2"])


def test_comparable_inputs_fill_in_missing_options():
    specs = actrec_models.networks.create("spa_net_4d", num_classes=3).input_specs
    before = [replace(spec, preprocessing=json.loads(json.dumps(spec.preprocessing))) for spec in specs]
    for spec in before:
        del spec.preprocessing["positions"]
    assert evaluator.comparable_inputs(specs) == evaluator.comparable_inputs(before)
    other = actrec_models.networks.create("spa_net_4d", num_classes=3, space=32).input_specs
    assert evaluator.comparable_inputs(specs) != evaluator.comparable_inputs(other)


def test_eval_model_scored_on_its_own_fold(tmp_path, capsys):
    trained = [write(tmp_path / f"of_{fold}", settings={"dataset_options": {"fold": fold}}) for fold in (1, 2)]
    assert evaluate(capsys, trained[1])["dataset_options"] == {"fold": 2}
    assert [m["fold"] for m in evaluate(capsys, *trained, "--folds", "all")["models"]] == [1, 2]
    for wrong in (
        [trained[1], "--option", "fold=1"],
        [trained[1], trained[0], "--folds", "all"],
        [trained[1], trained[0]],
    ):
        assert "parts of different splits and folds overlap" in refused(capsys, *wrong)
    assert evaluate(capsys, trained[1], "--dataset", "places_coarse")["dataset_options"] == {"fold": 2}
    before = {
        "initial_trainings": [
            provenance.training("utd_mhad", "subject", {}),
            provenance.training("places", "all", {}),
        ]
    }
    begun = write(tmp_path / "begun", settings={"dataset_options": {"fold": 2}}, figures=before)
    assert "network of begun was trained on fold 1 of places, not 'all', fold 2" in refused(capsys, begun)
    default = write(tmp_path / "default", settings={"dataset_options": {}})
    assert "parts of different splits and folds overlap" in refused(capsys, default, "--folds", "2")


def test_eval_folds_scored_one_per_model(tmp_path, capsys, monkeypatch):
    models = [write(tmp_path / name) for name in ("first", "second")]
    asked, unknown = [], Target.unknown_recordings

    def ask(target, fold=0):
        asked.append(fold)
        return unknown(target, fold)

    monkeypatch.setattr(Target, "unknown_recordings", ask)
    figures = evaluate(capsys, *models, "--folds", "all")
    assert asked == [1, 2], "another fold's recordings may be in the training"
    assert [model["fold"] for model in figures["models"]] == [1, 2]
    assert [model["accuracy"] for model in figures["models"]] == [3 / 4, 3 / 4]
    assert {model["clips"] for model in figures["models"]} == {4}
    assert evaluate(capsys, models[0], "--folds", "2")["models"][0]["fold"] == 2
    undivided = write(tmp_path / "undivided", "utd_mhad", "subject", labels=LABELS)
    assert "dataset utd_mhad is not divided into folds" in refused(capsys, undivided, "--folds", "all")
    assert "dataset_options" not in figures and "fold 1" not in figures["notes"]
    assert "folds 2, 2: one appears twice" in refused(capsys, *models, "--folds", "2,2")


@pytest.mark.parametrize("arguments", [["--table", "sem_spa:9"], ["joint_tcn_open", "--elsewhere"]])
def test_eval_property_of_recordings_without_effect_is_refused(capsys, arguments):
    assert "--recording cannot be used with --" in refused(capsys, *arguments, "--recording", "fps=15", status=2)
