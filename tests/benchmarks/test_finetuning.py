"""`actrec bench teach`: how a taught package is scored."""

import warnings

import numpy as np
import pytest

from actrec import datasets, inference
from actrec.inference import zoo
from benchmarks import finetuning

CLIPS = 4


@pytest.fixture(scope="module")
def clips(data_root):
    """Of three of N-UCLA's actions; the last two go by names that no package knows."""
    held = datasets.create("nucla", str(data_root / "nucla"), part="test")
    new = dict(zip(held.classes[1:3], ("bowling", "boxing"), strict=True))
    chosen = [int(i) for label in range(3) for i in np.flatnonzero(held.labels == label)[:CLIPS]]
    return datasets.ClipDataset([held[i] for i in chosen], [new.get(name, name) for name in held.classes], held.layout)


def test_scores_unknown_shown_actions_are_reported_separately(clips):
    session = inference.load(zoo.find("deepacts_graph_nucla").path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of the mean of nothing
        none, bowling = (finetuning.scores(session, clips, shown) for shown in ((), ["bowling"]))
    assert none["accuracy"] > 0.5 and none["test_clips"] == CLIPS
    assert "of these rejected" not in none and 0 <= bowling["of these rejected"] <= 1
    assert bowling["others shown as unknown"] == bowling["other_clips"] == CLIPS
    assert none["other_clips"] == 2 * CLIPS
