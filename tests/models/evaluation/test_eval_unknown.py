"""`actrec eval` of the user's own recordings with unreadable ones labeled `unknown`."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from actrec.cli import main
from actrec.datasets.base import Clip, ClipDataset
from actrec.utils.errors import ConfigError
from actrec_models.evaluation import evaluator, protocol
from tests.models.own_recordings import walker, write_bag
from tests.tiny_model import tiny_description, write_tiny

HEADER_ALONE = "30\n1\n72057594037931101 0 1 1 0 0 0 0.1 0.2 2\n25\n"


@pytest.fixture
def command(tmp_path):
    """Return the command for two models on two recordings, and a third labeled `unknown` that is truncated."""
    for name in ("left/a", "right/b"):
        write_bag(tmp_path / "mine" / name, walker)
    (tmp_path / "mine/unknown").mkdir()
    (tmp_path / "mine/unknown/broken.skeleton").write_text(HEADER_ALONE)
    models = [str(write_tiny(tmp_path / name).path) for name in ("one", "two")]
    options = ["--dataset", "folder", "--split", "all", "--root", str(tmp_path / "mine"), "--quiet", "--threads", "1"]
    return ["eval", *models, *options]


def evaluate(capsys, command):
    assert main([*command, "--skip-unreadable", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_eval_all_unknown_recordings_unreadable_keeps_other_results(command, capsys):
    assert main(command) == 1
    assert "broken.skeleton" in capsys.readouterr().err
    figures = evaluate(capsys, command)
    assert [(model["clips"], "unknown_clips" in model) for model in figures["models"]] == [(2, False)] * 2
    notes = [note for note in figures["notes"] if "broken.skeleton" in note]
    assert [note.split(":")[0] for note in notes] == ["one", "two"]
    assert "rejection of recordings labeled unknown is not measured" in notes[0]
    assert main([*command, "--skip-unreadable"]) == 0
    assert notes[0] in capsys.readouterr().out


def test_eval_unreadable_unknown_recording_reported_once(command, tmp_path, capsys):
    write_bag(tmp_path / "mine/unknown/whole", walker)
    figures = evaluate(capsys, command)
    assert [model["unknown_clips"] for model in figures["models"]] == [1, 1]
    assert [note for note in figures["notes"] if "broken.skeleton" in note] == [figures["notes"][-1]]
    assert figures["notes"][-1].startswith("Skipped, labeled unknown: ")


def test_unknown_recordings_without_a_stream_keep_the_other_results():
    clips = ClipDataset([Clip("x", -1, np.arange(2), np.zeros((1, 2, 25, 3), np.float32))], ("a", "b"))
    model = protocol.Model("tiny", SimpleNamespace(package=tiny_description()))

    def score(*_):
        raise ConfigError("tiny takes color")

    target = SimpleNamespace(unknown_recordings=lambda fold: clips)
    found, notes = evaluator._score_unknown([model], ["live"], target, [], score, False)
    assert found == (None,) and "is not measured: tiny takes color" in notes[0]
