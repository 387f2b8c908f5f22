"""`actrec eval` of one's own recordings, some of which, labeled `unknown`, cannot be read."""

import json

import pytest

from actrec.cli import main
from tests.models.own_recordings import walker, write_bag
from tests.tiny_model import write_tiny

HEADER_ALONE = "30\n1\n72057594037931101 0 1 1 0 0 0 0.1 0.2 2\n25\n"


@pytest.fixture
def command(tmp_path):
    """A folder of two takes, and a third labeled `unknown` whose file ends after its head; how two models see it."""
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


def test_unknown_takes_none_of_which_can_be_read_cost_nothing_else(command, capsys):
    assert main(command) == 1
    assert "broken.skeleton" in capsys.readouterr().err
    told = evaluate(capsys, command)
    assert [(model["clips"], "unknown_clips" in model) for model in told["models"]] == [(2, False)] * 2
    notes = [note for note in told["notes"] if "broken.skeleton" in note]
    assert [note.split(":")[0] for note in notes] == ["one", "two"]
    assert "what it rejects of recordings labeled unknown is not known" in notes[0]
    assert main([*command, "--skip-unreadable"]) == 0
    assert notes[0] in capsys.readouterr().out


def test_unknown_takes_that_cannot_be_read_are_named_once(command, tmp_path, capsys):
    write_bag(tmp_path / "mine/unknown/whole", walker)
    told = evaluate(capsys, command)
    assert [model["unknown_clips"] for model in told["models"]] == [1, 1]
    assert [note for note in told["notes"] if "broken.skeleton" in note] == [told["notes"][-1]]
    assert told["notes"][-1].startswith("Left out, labeled unknown: ")
