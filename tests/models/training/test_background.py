"""The background class: unknown clips in training, and their rejection by the trained network."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from actrec import datasets
from actrec.cli import main
from actrec.datasets.base import ClipDataset
from actrec.inference import package
from actrec.utils.errors import ConfigError
from actrec_models import networks
from actrec_models.data import unknown_clips
from actrec_models.data.samples import Samples
from actrec_models.evaluation.metrics import EvaluationResult
from actrec_models.networks.sem_net import combine
from actrec_models.training import recipe as recipes
from actrec_models.training.checkpoints import open_checkpoint
from tests.core.datasets.motion_files import FOLDERS, SOURCES, shorten
from tests.models import made_up
from tests.models.small import SMALL

SETS = {"hdm05": range(0, 287, 3), "kard": range(0, 540, 7)}
FOLD_KARD = 3


@pytest.fixture(scope="module")
def root(data_root, tmp_path_factory):
    """Every third clip of HDM05 and every seventh of KARD, cut off after 40 frames."""
    root = tmp_path_factory.mktemp("data")
    for name, clips in SETS.items():
        folder = root / "motion" / FOLDERS[name]
        folder.mkdir(parents=True)
        archive = SOURCES[name].archive
        shorten(data_root / "motion" / FOLDERS[name] / archive, folder / archive, tuple(clips))
    return root


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    """Prepare the merged dataset, and train one epoch on HDM05, tested on KARD; return the folder of both."""
    out = tmp_path_factory.mktemp("out")
    assert main(["prepare", "everyday", "--root", str(root), "--out", str(out / "everyday"), "--workers", "1"]) == 0
    fields = {"dataset": "everyday", "split": "person", "background": 0.3, "epochs": 1, "batch": 16,
              "validation": {"share": 0.3, "by": "subject"},
              "sampling": {"balance": "sets", "set_weights": {"hdm05": 2}}}  # fmt: skip
    made_up.write(out / "recipe.yaml", **fields)
    changes = ["--set", "split=leave_one_set_out", "--set", f"dataset_options.fold={FOLD_KARD}"]
    command = ["train", str(out / "recipe.yaml"), *changes, "--data", str(out), "--out", str(out / "run"), "--quiet"]
    assert main(command) == 0
    return out


@pytest.mark.slow
def test_leave_one_set_out_from_store_counts_unlearned_classes_apart(trained, capsys):
    command = ["eval", str(trained / "run/best.ckpt"), "--data", str(trained), "--quiet"]
    capsys.readouterr()
    assert main([*command, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    source = datasets.source("everyday", trained)
    store, options = trained / "everyday", {"split": "leave_one_set_out", "fold": FOLD_KARD}
    kard, hdm05 = (
        set(datasets.create("everyday", store, part=part, **options).labels.tolist()) for part in ("test", "train")
    )
    assert kard & hdm05 and kard - hdm05
    with pytest.raises(ConfigError, match="everyday has folds 3, 7 of split leave_one_set_out; got fold 1"):
        datasets.create("everyday", store, split="leave_one_set_out", fold=1)
    rows = [row for name, row in figures["per_class"].items() if source.classes.index(name) in hdm05 and row["clips"]]
    learned = sum(row["clips"] for row in rows)
    assert 0 < figures["clips_of_learned"] == learned < figures["clips"]
    right = sum(row["recall"] * row["clips"] for row in rows)
    assert figures["accuracy_of_learned"] == pytest.approx(right / learned)
    assert figures["unknown_clips"] > 0 and 0 <= figures["unknown_rejected"] <= 1
    assert main(command) == 0
    text = capsys.readouterr().out
    assert f"{learned}\n" in text.split("whose class has training clips")[1]
    assert "clap (no training clip)" in text and "kick (no training clip)" not in text


def test_background_checkpoint_exports_background_in_calibrated_rejection(trained):
    _, draft, network = open_checkpoint(trained / "run/best.ckpt")
    assert draft.rejection.background == 0 and network.background
    assert main(["export", str(trained / "run/best.ckpt"), "--data", str(trained), "--out", str(trained / "pkg")]) == 0
    exported = package.load(trained / "pkg")
    assert len(exported.labels) == len(datasets.source("everyday", trained).classes)
    assert "background" in exported.rejection.calibrated_on and exported.rejection.background is not None


def test_background_holds_out_the_people_that_validation_holds_out(root):
    recipe = recipes.config.build(
        recipes.Recipe,
        {"dataset": "everyday", "split": "person", "unknown_dataset": "", "background": 0.2,
         "validation": {"only": ["hdm05_bd"], "by": "subject"}},
    )  # fmt: skip
    clips = datasets.create("everyday", root, split="person")
    used, held = unknown_clips.background(recipe, clips, str(root), str(root))
    assert len(used) and len(held) and {meta["subject"] for meta in held.metas} == {"hdm05_bd"}
    assert "hdm05_bd" not in {meta["subject"] for meta in used.metas}


def test_samples_draw_the_share_of_background_clips_with_the_label_after_the_classes():
    known = made_up.skeletons(20)
    unknown = ClipDataset([replace(clip, label=-1) for clip in known], known.classes)
    recipe = recipes.config.build(recipes.Recipe, {**made_up.TINY, "background": 0.25})
    network = networks.create("sem_net", num_classes=2, **recipe.network_options())
    samples = Samples(known, network.input_specs, recipe.window(network), recipe, recipe.check(), background=unknown)
    labels = [samples[epoch, index, 0]["label"] for epoch in range(20) for index in range(20)]
    assert np.mean(np.array(labels) == 2) == pytest.approx(0.25, abs=0.06)
    assert labels[:20] == [samples[0, index, 0]["label"] for index in range(20)]
    plain = Samples(known, network.input_specs, recipe.window(network), recipe, recipe.check())
    spec = network.input_specs[0].name
    for index in [index for index in range(20) if labels[index] < 2][:3]:
        np.testing.assert_array_equal(samples[0, index, 0][spec], plain[0, index, 0][spec])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deepacts_graph", "sem_net"])
def test_network_with_background_lowers_its_loss_by_lower_logits(name):
    torch.manual_seed(0)
    network = networks.create(name, num_classes=3, **SMALL[name])
    network.background = True
    inputs = {spec.name: torch.randn(4, *spec.shape) for spec in network.input_specs}
    optimizer = torch.optim.Adam(network.parameters(), 0.03)
    for _ in range(15):
        optimizer.zero_grad()
        network.losses({**inputs, "label": torch.tensor([0, 1, 3, 3])})["loss"].backward()
        optimizer.step()
    scores = network(**inputs)
    assert scores.shape == (4, 3) and network.with_background(scores).softmax(1)[2:, 3].mean() > 0.6


def test_combined_streams_are_relative_to_their_summed_background():
    scores = [torch.randn(5, 3), torch.randn(5, 3)]
    summed = sum(torch.softmax(torch.nn.functional.pad(score, (0, 1)), 1) for score in scores)
    found = torch.softmax(torch.nn.functional.pad(combine(scores, background=True), (0, 1)), 1)
    torch.testing.assert_close(found, summed / 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unknown_dataset": ""}, "nucla has no clips labeled unknown and there is no unknown_dataset: name a dataset"),
        ({"unknown_dataset": "utd_mhad"}, "the unknown_dataset utd_mhad is not in .* or set background to 0"),
    ],
)
def test_background_without_unknown_clips_is_refused(changes, message, data_root, tmp_path):
    recipe = recipes.config.build(recipes.Recipe, {"dataset": "nucla", "background": 0.1, **changes})
    clips = datasets.create("nucla", data_root / "nucla")
    with pytest.raises(ConfigError, match=message):
        unknown_clips.background(recipe, clips, str(tmp_path), str(data_root / "nucla"))


def test_result_without_threshold_accepts_clips_more_probable_than_the_background():
    probabilities = np.array([[0.3, 0.1], [0.6, 0.1], [0.2, 0.4]])
    result = EvaluationResult("m", ("a", "b"), ("x", "y", "z"), np.array([0, 0, 1]), probabilities, 0.0)
    assert result.accepted.tolist() == [False, True, True]
