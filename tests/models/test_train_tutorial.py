"""The commands of docs/tutorials/train.md, from a public dataset to an engine, on a share of UTD-MHAD."""

import argparse
import dataclasses
import importlib.util
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from actrec import datasets, inference
from actrec.cli import main
from actrec.cli import run as run_command
from actrec.types import UNKNOWN
from tests.documents import commands, tutorial

ARCHIVE = "utd_mhad_skeletons.npz"
FEWER = {
    "prepare": ["--workers", "0", "--quiet"],
    "train": [
        "--set",
        "epochs=1",
        "--set",
        "batch=16",
        "--accelerator",
        "cpu",
        "--workers",
        "0",
        "--threads",
        "1",
        "--quiet",
    ],
    "eval": ["--threads", "1", "--quiet"],
}
SMALL = [
    word for option in ("width=320", "height=240", "fps=8", "realtime=false") for word in ("--driver-option", option)
]


def write_share(data: Path, home: Path) -> None:
    """Write the first take of each action by two people to ~/datasets, as the dataset's archive."""
    with np.load(data / "utd_mhad" / ARCHIVE) as whole:
        chosen = (whole["subject"] <= 2) & (whole["trial"] == 1)
        share = {name: whole[name][chosen] for name in ("length", "action", "subject", "trial")}
        share["xyz"] = whole["xyz"][np.repeat(chosen, whole["length"])]
    (home / "datasets/utd_mhad").mkdir(parents=True)
    np.savez(home / "datasets/utd_mhad" / ARCHIVE, **share)


def labels_of_graph(arguments: list[str]) -> list[str]:
    """Run the graph of `actrec run`, with smaller images, until a label of the model comes; return its labels."""
    from actrec_nodes.bringup import run

    parser, found = argparse.ArgumentParser(), []
    run_command.add_arguments(parser)
    chosen = run_command.plan(parser.parse_args([*arguments, *SMALL]))

    def wait_for_label(running, monitor):
        deadline = time.monotonic() + 120  # a loaded machine is slow
        while not set(found) - {UNKNOWN} and time.monotonic() < deadline:
            time.sleep(0.05)

    result = run.run_graph(
        dataclasses.replace(chosen, on_label=lambda change: found.append(change.label)), wait_for_label
    )
    assert result is not None and result["labels"] > 0 and set(found) - {UNKNOWN}
    return found


@pytest.mark.ros
@pytest.mark.slow
@pytest.mark.timeout(300)  # for a loaded machine
def test_train_tutorial_ends_with_a_package_that_runs(data_root, tmp_path, capsys):
    torch.set_num_threads(1)
    write_share(data_root, tmp_path)
    told = [[word.replace("~", str(tmp_path)) for word in command] for command in commands(tutorial("train"))]
    assert [command[0] for command in told] == ["prepare", "train", "eval", "export", "models", "build-engine", "run"]
    for command in told[:5]:
        assert main([*command, *FEWER.get(command[0], [])]) == 0, capsys.readouterr().err
    assert (tmp_path / "runs/utd/report/report.html").is_file()
    assert (tmp_path / "runs/utd/log/version_0/metrics.csv").is_file(), "as the page says"
    assert "joint_tcn" in capsys.readouterr().out
    if main(told[5]) != 0:
        assert "backend onnxruntime" in capsys.readouterr().err, "without TensorRT or a GPU, the error offers the other"
    session = inference.load(tmp_path / "my_model", "onnxruntime")
    if importlib.util.find_spec("rclpy") and importlib.util.find_spec("actrec_msgs"):  # `actrec run` starts nodes
        assert set(labels_of_graph(told[6][1:])) <= {UNKNOWN, *session.package.labels}
    clip = datasets.create("utd_mhad", tmp_path / "prepared/utd_mhad", part="test")[0]
    window = session.package.window
    assert session.predict(clip.sample(window.seconds, window.frames)).top(1)[0][0] in session.package.labels
