"""One network from rendering to the evaluated package, with a killed and resumed training.

It learns three procedural actions, so its accuracy does not apply to real people.
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
    """Return a folder with prepared clips and the recipe."""
    root = tmp_path_factory.mktemp("rendered")
    (root / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    store = str(root / "data/rendered")
    options = [f"--option={name}={json.dumps(value)}" for name, value in OPTIONS.items()]
    command = ["prepare", "rendered", *options, "--out", store, "--streams", "bodies,flow"]
    assert main([*command, "--workers", "0", "--quiet"]) == 0
    return root


def train(folder):
    paths = ["--data", str(folder / "data"), "--out", str(folder / "run")]
    return main(["train", str(folder / "recipe.yaml"), *paths, "--quiet", "--threads", "1"])


def train_to(step, folder):
    """Train in a process that kills itself at `step`."""
    children.die_at_step(step)
    train(folder)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_training_killed_and_resumed_recognizes_held_out_actors(folder, capsys):
    children.run_until_killed(train_to, KILLED_AT, folder)
    step = checkpoints.read(folder / "run/last.ckpt")["global_step"]
    assert 0 < step <= KILLED_AT
    assert train(folder) == 0
    assert checkpoints.read(folder / "run/last.ckpt")["global_step"] == STEPS
    data, package_folder = str(folder / "data"), folder / "flow_of_the_simulated_camera"
    assert main(["export", str(folder / "run/last.ckpt"), "--data", data, "--out", str(package_folder)]) == 0
    assert RenderedRgbd.caveat in (package_folder / "README.md").read_text()
    assert "rendered by this program" in package.load(package_folder).provenance.license
    capsys.readouterr()
    assert main(["eval", str(package_folder), "--data", data, "--json", "--quiet"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["notes"] == [RenderedRgbd.caveat]
    assert figures["clips"] == 9
    assert figures["accuracy"] == package.load(package_folder).provenance.accuracy >= 6 / 9, "chance is 3 of 9"
    rendered = create("rendered", folder / "rendered", part="test", **OPTIONS)
    session, window = inference.load(package_folder), package.load(package_folder).window
    scores = session.logits([rendered[k].sample(window.seconds, window.frames) for k in range(3)])
    assert np.isfinite(scores).all(), "clips from the renderer work without a store"
