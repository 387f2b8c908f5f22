"""`actrec export … --fuse`: separately trained networks as one package, equal to `actrec eval --fuse`."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from scipy.special import softmax

from actrec import datasets, inference
from actrec.cli import main
from actrec.features.clips import example_windows
from actrec.features.specs import InputSpec, WindowSpec
from actrec.inference import package
from actrec.inference.package import Provenance
from actrec.utils import config
from actrec.utils.errors import PackageError
from actrec_models.evaluation import protocol, scoring
from actrec_models.export import fuse
from actrec_models.export.fuse import join_graphs
from actrec_models.export.onnx_graph import run_onnx, simplify
from actrec_models.finetune.transfer import open_pretrained
from actrec_models.training import checkpoints, initial_weights
from actrec_models.training.checkpoints import open_checkpoint
from actrec_models.training.module import RecognitionModule
from actrec_models.training.recipe import Recipe
from actrec_models.training.trainer import Machine
from tests.models.made_up import CLASSES, TINY, skeletons
from tests.models.places import PLACES, TARGETS
from tests.models.training import children
from tests.tiny_model import FRAMES, RAW, averaging_onnx, person_at, projecting_onnx, tiny_description, tiny_onnx

SETTINGS = {"dataset": "places_train", "split": "all", "unknown_dataset": "", "augment": False}
SPECS = {
    "raw": InputSpec("body", "body", "kinect_v2_25", (1, 3, FRAMES, 25), "m", RAW),
    "centered": InputSpec("body", "body", "kinect_v2_25", (1, 3, FRAMES, 25), "m", {**RAW, "center": "spine_base"}),
}


@pytest.fixture(autouse=True)
def places(monkeypatch):
    monkeypatch.setattr(datasets.DATASETS, "_targets", {**datasets.DATASETS._targets, **TARGETS})


def write(folder, spec="raw", seed=1, settings: Any = SETTINGS, content=None, **changes):
    """Write a package with this provenance; return its path as text."""
    of = Provenance(
        "places_train", "all", seed, 3, 0.0, "none", (f"train {folder.name}",), "c0ffee", "2025-01-01T00:00:00"
    )
    of = dataclasses.replace(of, settings=dict(settings), figures={"parameters": 100 * seed}, **changes.pop("of", {}))
    described = dataclasses.replace(tiny_description(), provenance=of, **{"inputs": (SPECS[spec],), **changes})
    network = content or (tiny_onnx() if spec == "raw" else projecting_onnx(described.inputs, seed=seed))
    package.write(folder, described, network)
    return str(folder)


def export(*arguments, status=0):
    assert main(["export", *map(str, arguments), "--data", "nowhere"]) == status


def probabilities(capsys, tmp_path, models, *arguments):
    """Return the figures of `actrec eval`, and every clip's probabilities."""
    out = tmp_path / "report"
    command = ["eval", *map(str, models), *arguments, "--data", "nowhere", "--json", "--quiet", "--threads", "1"]
    assert main([*command, "--report", str(out)]) == 0
    figures = json.loads(capsys.readouterr().out)
    rows = (out / f"predictions_{'_'.join(Path(model).name for model in models)}.csv").read_text().splitlines()[1:]
    return figures, np.array([[float(value) for value in row.split(",")[-3:]] for row in rows])


@pytest.mark.parametrize(("how", "weights"), [("softmax", ["1", "0.6"]), ("logits", ["1", "2"]), ("softmax", [])])
def test_fuse_package_equals_eval_fuse(tmp_path, capsys, monkeypatch, how, weights):
    streams = [write(tmp_path / "one"), write(tmp_path / "other", "centered", seed=2)]
    weighed = ["--weights", *weights] if weights else []
    export(*streams, "--fuse", how, *weighed, "--out", tmp_path / "both")
    assert f"{tmp_path}/both: " in capsys.readouterr().out
    made, ours = probabilities(capsys, tmp_path, [tmp_path / "both"])
    apart, theirs = probabilities(capsys, tmp_path, streams, "--fuse", how, *weighed)
    np.testing.assert_allclose(ours, theirs, atol=2e-6)
    assert made["accuracy"] == apart["fusion"]["accuracy"] == package.load(tmp_path / "both").provenance.accuracy
    session = inference.load(tmp_path / "both")
    clip = {"bodies": np.tile(person_at(*PLACES[0][2:4]), (1, FRAMES, 1, 1))}
    np.testing.assert_allclose(session.predict(clip).probabilities, ours[0], atol=2e-6)


def test_fuse_package_stores_its_networks(tmp_path):
    streams = [
        write(
            tmp_path / "one",
            events=package.EventThresholds(0.9, {"left": 0.8}),
            of={"hours": 1.0, "data_sha256": "ab", "command": "really"},
        ),
        write(tmp_path / "other", "centered", seed=2, of={"hours": 0.5, "data_sha256": "ab"}),
    ]
    export(*streams, "--fuse", "softmax", "--weights", "2", "1", "--float16", "--out", tmp_path / "both")
    made = package.load(tmp_path / "both")
    trained = made.provenance
    assert made.variant == "2 networks, softmaxes added 0.667 : 0.333"
    assert made.events == package.EventThresholds(), "of one network alone"
    assert made.precisions == ("float32", "float16") and made.float16.accuracy is not None
    assert [spec.name for spec in made.inputs] == ["body", "body_2"]  # different preprocessing
    assert (trained.epochs, trained.hours, trained.data_sha256) == (6, 1.5, "ab")
    assert trained.figures["parameters"] == 300
    assert [part["name"] for part in trained.figures["fused"]] == ["one", "other"]
    again = f"actrec export {' '.join(streams)} --fuse softmax --weights 0.666667 0.333333 --out {tmp_path}/both"
    assert trained.recipe == ("train one", "train other", again) and trained.command == again
    card = (tmp_path / "both/README.md").read_text()
    assert f"| Trained again by | `train one`<br>`train other`<br>`{again}` |" in card
    assert ", 6 epochs, seeds 1, 2 |" in card and "| Last command of one | `really` |" in card
    assert "| Of it 0.667 | one: deepacts_graph (tiny), seed 1, 3 epochs, commit c0ffee |" in card
    assert trained.settings["dataset"] == "places_train" and "clips" in trained.settings


def test_fuse_equal_inputs_are_shared(tmp_path):
    older = dataclasses.replace(SPECS["raw"], name="joints", shape=[1, 3, FRAMES, 25])
    content = projecting_onnx([older], seed=3)
    streams = [write(tmp_path / "one"), write(tmp_path / "other", inputs=(older,), content=content)]
    export(*streams, "--fuse", "softmax", "--out", tmp_path / "both")
    assert [spec.name for spec in package.load(tmp_path / "both").inputs] == ["body"]


def test_fuse_disagreeing_graph_refused(tmp_path, capsys, monkeypatch):
    streams = [write(tmp_path / "one"), write(tmp_path / "other", "centered", seed=2)]
    join = fuse.join_graphs
    monkeypatch.setattr(fuse, "join_graphs", lambda contents, names, how, _: join(contents, names, how, [0.9, 0.1]))
    export(*streams, "--fuse", "softmax", "--out", tmp_path / "both", status=1)
    assert "fused, the probabilities differ by 0." in capsys.readouterr().err
    assert not (tmp_path / "both").exists()


def test_join_graphs_keeps_level_of_logits():
    """The rejection uses the level, which a softmax removes."""
    rng = np.random.default_rng(0)
    weights = [rng.normal(0, 30, (1, 4)), rng.normal(0, 30, (1, 4)) - 60]
    parts = [averaging_onnx([SPECS["raw"]], each) for each in weights]
    shares = [0.75, 0.25]
    made = join_graphs(parts, [{"body": "body"}] * 2, "softmax", shares)
    x = rng.normal(2, 1, (5, 1, 3, FRAMES, 25)).astype(np.float32)
    logits = [run_onnx(part, {"body": x}) for part in parts]
    found = run_onnx(made, {"body": x}).astype(np.float64)
    np.testing.assert_allclose(softmax(found, axis=1), scoring.fuse(logits, "softmax", shares), atol=1e-6)
    strength = sum(
        share * np.log(np.exp(each.astype(np.float64)).sum(1)) for share, each in zip(shares, logits, strict=True)
    )
    np.testing.assert_allclose(np.log(np.exp(found).sum(1)), strength, atol=1e-4)


def test_fuse_checkpoints_of_two_runs(tmp_path, monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setattr(datasets, "create", lambda name, root, **options: skeletons())
    machine = Machine(accelerator="cpu", workers=0)
    runs = [
        children.run(tmp_path / f"run{seed}", machine, dataset="nucla", split="view", seed=seed, epochs=seed)
        for seed in (1, 2)
    ]
    made = fuse.fuse(runs, tmp_path / "both", "", "logits")
    networks = made.provenance.figures["fused"]
    assert [(part["name"], part["seed"], part["epochs"]) for part in networks] == [
        ("run1/last.ckpt", 1, 1),
        ("run2/last.ckpt", 2, 2),
    ]
    assert all(part["file"].startswith("last.ckpt sha256:") for part in networks)
    assert made.family == "sem_net" and made.provenance.data_sha256 == skeletons().fingerprint()
    session = inference.load(made.path)
    inputs = example_windows(made.inputs, made.window, made.bodies, 2)
    with torch.no_grad():
        nets = [open_checkpoint(run)[2] for run in runs]
        apart = [net(**{name: torch.from_numpy(value) for name, value in inputs.items()}).numpy() for net in nets]
    np.testing.assert_allclose(session.backend.run(inputs), (apart[0] + apart[1]) / 2, atol=1e-5)
    content = made.read_onnx()
    assert guards(simplify(content)) == guards(content) > 0, "a softmax is guarded once"


def guards(content):
    return sum(node.op_type == "Max" for node in onnx.load_model_from_string(content).graph.node)


def test_open_checkpoint_replaced_meanwhile_is_consistent(tmp_path, monkeypatch):
    path, newer = tmp_path / "last.ckpt", tmp_path / "newer.ckpt"
    saved(newer, epochs=2)
    networks = [open_checkpoint(each)[2] for each in (saved(path, epochs=1), newer)]
    read = checkpoints.read

    def replaced(file):
        content = read(file)
        shutil.copy(newer, path)
        return content

    monkeypatch.setattr(checkpoints, "read", replaced)
    model = protocol.open_model(path)
    x = example_windows(model.package.inputs, model.package.window, 1, 2)
    with torch.no_grad():
        first, second = (net(**{name: torch.from_numpy(value) for name, value in x.items()}) for net in networks)
    assert not torch.allclose(first, second, atol=1e-3)
    assert model.package.provenance.epochs == 1
    np.testing.assert_allclose(model.session.backend.run(x), first.numpy(), atol=1e-4)
    saved(path, epochs=1)
    stream = fuse._open(path)
    assert stream.description.provenance.epochs == 2
    assert stream.identity.split(":")[1] == initial_weights.identity(newer).split(":")[1]
    np.testing.assert_allclose(run_onnx(stream.content, x), second.numpy(), atol=1e-4)


def saved(path, epochs):
    """Write a checkpoint of an untrained network."""
    torch.manual_seed(epochs)
    recipe = config.build(Recipe, TINY).as_dict()
    module = RecognitionModule(recipe, list(CLASSES))
    parameters = {"recipe": recipe, "classes": list(CLASSES)}
    made_by = {"epochs": epochs, "seconds": 0.0, "provenance": {}}
    torch.save({"hyper_parameters": parameters, "state_dict": module.state_dict(), "actrec": made_by}, path)
    return path


@pytest.mark.parametrize(
    ("dataset", "learnt", "expected"),
    [
        ("folder", [{"recordings": ["a", "b"]}, {"recordings": ["b", "c"]}], ["a", "b", "c"]),
        ("folder", [{"recordings": ["a"]}, {}], None),  # the second is unknown
        ("nucla", [{"recordings": ["a"]}, {}], ["a"]),  # one was pretrained by `actrec teach`
    ],
)
def test_fuse_recordings_stored_if_known_for_all_networks(dataset, learnt, expected):
    of = Provenance(dataset, "all", 1, 3, 0.0, "none", (), "", "")
    described = [
        dataclasses.replace(tiny_description(), provenance=dataclasses.replace(of, figures=each)) for each in learnt
    ]
    streams = [fuse.Stream("one", each, b"", Recipe(), "", "one") for each in described]
    made = fuse._provenance(streams, Recipe(dataset=dataset), np.array([0.5, 0.5]), "--out both")
    assert made.figures.get("recordings") == expected


def test_fuse_keeps_classes_that_no_network_learnt():
    of = Provenance("everyday", "leave_one_set_out", 1, 3, 0.0, "none", (), "", "")
    described = [
        dataclasses.replace(tiny_description(), provenance=dataclasses.replace(of, figures={"absent_classes": absent}))
        for absent in (["bow", "wave"], ["bow"])
    ]
    streams = [fuse.Stream("one", each, b"", Recipe(), "", "one") for each in described]
    made = fuse._provenance(streams, Recipe(dataset="everyday"), np.array([0.5, 0.5]), "--out both")
    assert made.figures["absent_classes"] == ["bow"]


def test_fuse_warns_if_clips_are_combined_after_fusion(tmp_path, caplog):
    for combine in ("mean", "max"):
        window = WindowSpec(2.0, 2 * FRAMES, FRAMES, FRAMES, combine)
        streams = [write(tmp_path / f"{name}_{combine}", window=window) for name in ("one", "other")]
        export(*streams, "--fuse", "softmax", "--out", tmp_path / combine)
        assert ("scores are fused clip by clip and then combined over the clips (max)" in caplog.text) == (
            combine == "max"
        )


def test_open_pretrained_fused_package_refused(tmp_path):
    streams = [write(tmp_path / "one"), write(tmp_path / "other", family="sem_net")]
    export(*streams, "--fuse", "softmax", "--out", tmp_path / "both")
    with pytest.raises(PackageError, match=r"came without model\.safetensors: take one of its networks, one, other"):
        open_pretrained(tmp_path / "both")


def test_fuse_recipe_with_unknown_dataset_preferred(tmp_path):
    plain, knowing = (dataclasses.replace(Recipe(), unknown_dataset=name) for name in ("", "utd_mhad"))
    recipes = enumerate([None, plain, knowing])
    streams = [fuse.Stream(str(k), tiny_description(), b"", each, "", str(k)) for k, each in recipes]
    assert fuse._recipe(streams) is knowing
    assert fuse._recipe(streams[:2]) is plain


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ("left", "right", "up")}, "one and other differ by their labels: they cannot be fused"),
        ({"window": WindowSpec(3.0, FRAMES)}, "differ by their window (2 s, 8 frames and 3 s, 8 frames)"),
        ({"of": {"split": "none"}}, "one was trained on split all, other on none"),
        ({"of": {"dataset": "places"}}, "one was trained on dataset places_train, other on places"),
        ({"settings": {**SETTINGS, "clips": "stretched"}}, "one takes live clips of a recording, other stretched ones"),
        ({"settings": {**SETTINGS, "dataset_options": {"fold": 2}}}, "other with {'fold': 2}"),
    ],
)
def test_fuse_incompatible_streams_refused(tmp_path, capsys, changes, message):
    streams = [write(tmp_path / "one"), write(tmp_path / "other", **changes)]
    export(*streams, "--fuse", "softmax", "--out", tmp_path / "both", status=1)
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1
    assert not (tmp_path / "both").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["one", "--fuse", "softmax"], "--fuse needs two networks or more, got one alone"),
        (["one", "other"], "2 networks become one package with --fuse softmax or --fuse logits"),
        (["one", "--weights", "1"], "--weights needs several trained networks"),
        (["one", "other", "--fuse", "softmax", "--weights", "1"], "1 weights for 2 streams"),
        (["one", "other", "--fuse", "softmax", "--weights", "1", "0"], "other has weight 0"),
        (["one", "other", "--fuse", "softmax", "--calibrate"], "--calibrate needs a single package"),
        (["one", "other", "--fuse", "softmax", "--classes", "a,b"], "--classes belongs to --network"),
        (["one", "other", "--fuse", "softmax", "--events", "0.7"], "--events is a step of its own: fuse first"),
        (["--network", "sem_net", "--fuse", "softmax"], "--fuse needs several trained networks"),
    ],
)
def test_fuse_wrong_use_refused_in_one_line(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "one"), write(tmp_path / "other")
    export(*arguments, "--out", "both", status=2)
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1


def test_fuse_packages_without_recipe_refused(tmp_path, capsys):
    streams = [write(tmp_path / name, settings={}) for name in ("one", "other")]
    export(*streams, "--fuse", "softmax", "--out", tmp_path / "both", status=1)
    assert "none of one, other stores its training's recipe" in capsys.readouterr().err


def test_fuse_of_networks_with_background_keeps_its_logit_without_a_threshold(tmp_path):
    streams = [write(tmp_path / name, settings={**SETTINGS, "background": 0.2}) for name in ("one", "other")]
    export(*streams, "--fuse", "logits", "--out", tmp_path / "both")
    assert package.load(tmp_path / "both").rejection.background == 0.0
