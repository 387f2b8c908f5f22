"""One family from rendering to the scored package, killed and resumed on the way: a test of the machinery.

What it learns are three procedural actions. That it does says nothing about people.
"""

import json

import numpy as np
import pytest
import yaml

pytest.importorskip("lightning", reason="training needs Lightning: make venv EXTRAS='live train'")

from actrec import inference
from actrec.cli import main
from actrec.datasets import create
from actrec.inference import package
from actrec_models.data.rendered import RenderedRgbd
from actrec_models.training import checkpoints
from tests.models.training import children

ACTIONS = ["sit_down", "wave", "walk"]
OPTIONS = {"actions": ACTIONS, "actors": 3, "held_out": 1, "takes": 1, "width": 80, "height": 60, "fps": 5.0}
RECIPE = {
    "model": "c3d_flow_at1",
    "options": {"width": 4, "size": 32, "fc": 32, "bodies": 1, "dropout": 0.0, "scale": 1 / 64},
    "dataset": "rendered",
    "split": "cross_actor",
    "unknown_dataset": "",
    "window_s": 3.0,
    "epochs": 30,
    "batch": 9,
    "learning_rate": 4e-3,
    "weight_decay": 0.01,
    "ema_decay": 0.8,
}
STEPS, KILLED_AT = 60, 33


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Prepared clips, and the recipe."""
    made = tmp_path_factory.mktemp("rendered")
    (made / "rendered").mkdir()
    (made / "rendered/rendered.yaml").write_text(yaml.safe_dump(OPTIONS))
    (made / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    store = str(made / "data/rendered")
    command = ["prepare", "rendered", "--data", str(made), "--out", store, "--streams", "bodies,flow"]
    assert main([*command, "--workers", "0", "--quiet"]) == 0
    return made


def train(folder):
    paths = ["--data", str(folder / "data"), "--out", str(folder / "run")]
    return main(["train", str(folder / "recipe.yaml"), *paths, "--quiet", "--threads", "1"])


def train_to(step, folder):
    """Trains in a process that is killed on the way."""
    children.die_at_step(step)
    train(folder)


@pytest.mark.timeout(300)
def test_training_killed_and_resumed_recognizes_held_out_actors(folder, capsys):
    children.killed(train_to, KILLED_AT, folder)
    left = checkpoints.read(folder / "run/last.ckpt")["global_step"]
    assert 0 < left <= KILLED_AT
    assert train(folder) == 0
    assert checkpoints.read(folder / "run/last.ckpt")["global_step"] == STEPS
    data, made = str(folder / "data"), folder / "flow_of_the_simulated_camera"
    assert main(["export", str(folder / "run/last.ckpt"), "--data", data, "--out", str(made)]) == 0
    assert RenderedRgbd.caveat in (made / "README.md").read_text()
    assert "rendered by this program" in package.load(made).provenance.license
    capsys.readouterr()
    assert main(["eval", str(made), "--data", data, "--json", "--quiet"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["notes"] == [RenderedRgbd.caveat]
    assert figures["clips"] == 9
    assert figures["accuracy"] == package.load(made).provenance.accuracy >= 6 / 9, "chance is 3 of 9"
    unprepared = create("rendered", folder / "rendered", part="test")
    session, window = inference.load(made), package.load(made).window
    scores = session.logits([unprepared[k].sample(window.seconds, window.frames) for k in range(3)])
    assert np.isfinite(scores).all(), "straight from the renderer too"
