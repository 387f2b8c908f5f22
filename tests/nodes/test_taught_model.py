"""A label that is added to a taught model while the recognizer runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="teaching needs PyTorch: make venv")

from actrec import datasets
from actrec.datasets.base import Clip, ClipDataset
from actrec.recordings.labels import LABELS_FILE, LabeledClip, read_labels, write_labels
from actrec.types import Body
from actrec.utils import config
from actrec_models.finetune import fine_tuning
from actrec_models.finetune.transfer import TeachConfig
from benchmarks.short_trainings import write_bag, write_folder
from tests.nodes.recognizer_graph import START_NS, Make

pytestmark = [pytest.mark.ros, pytest.mark.timeout(300)]  # for a busy machine
QUICK = {"steps": 0, "draws": 2, "folds": 2, "rehearsals": 1}


def clips_of(utd: ClipDataset, action: str) -> list[Clip]:
    return [utd[int(i)] for i in np.flatnonzero(utd.labels == utd.classes.index(action))]


@pytest.mark.slow
def test_load_model_taught_again_publishes_the_added_label(make: Make, tmp_path: Path, data_root: Path) -> None:
    utd, held_out = (datasets.create("utd_mhad", str(data_root / "utd_mhad"), part=part) for part in datasets.PARTS)
    mine, out = tmp_path / "mine", tmp_path / "mine_model"
    write_folder(mine, utd, {"squat": 3, "clap": 3})

    def teach() -> None:
        result = fine_tuning.teach(mine, config.build(TeachConfig, QUICK), progress=False, threads=1)
        fine_tuning.write(result, out, "actrec teach mine", seed=1, overwrite=True)

    teach()
    graph = make(model=str(out), min_seconds=0.0)
    assert graph.start()
    begin_ns = START_NS

    def perform(action: str) -> Any:
        """Publish another person's action at 10 Hz; return the label of its last frame."""
        nonlocal begin_ns
        clip = clips_of(held_out, action)[0]
        begin_ns += 10_000_000_000  # a new window
        pixels, scores = np.full((25, 2), np.nan, np.float32), np.ones(25, np.float32)
        for k in range(0, len(clip.stamps_ns), 3):
            shown = Body("body_1", "kinect_v2_25", clip.bodies[0, k], pixels, scores)
            (label,) = graph.step(begin_ns + int(clip.stamps_ns[k] - clip.stamps_ns[0]), shown)
        return label

    assert perform("squat").top_labels[0] == "squat"
    lines = read_labels(mine / LABELS_FILE)
    for clip in clips_of(utd, "draw x")[:3]:
        write_bag(mine / clip.name, clip)
        lines.append(LabeledClip(clip.name, "draw x"))
    write_labels(mine / LABELS_FILE, lines)
    teach()
    assert set(perform("draw x").top_labels) <= {"squat", "clap"}, "the loaded model is kept"
    assert graph.load_model(out).success
    assert perform("draw x").top_labels[0] == "draw x"
    assert perform("squat").top_labels[0] == "squat"
