"""What `actrec run` prints about actions that simulated people performed."""

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from actrec.cli import main, run
from actrec.cli.run import Lines, performed_table
from actrec.visualization import contact_sheet
from actrec.visualization.overlay import Caption


def figures(found: int, performed: int = 1, known: bool = True, **others: int) -> dict[str, Any]:
    median = {"median_delay_s": 1.94, "median_confidence": 0.95} if found else dict.fromkeys(
        ("median_delay_s", "median_confidence")
    )  # fmt: skip
    return {"performed": performed, "found": found, "known": known, "other_labels": others, **median}


@pytest.mark.parametrize(
    ("action", "row"),
    [
        (figures(1), "| wave | wave | 0.95 | 1.9 | right |"),
        (figures(0), "| wave | – | – | – | not found |"),
        (figures(0, known=False), "| wave | – | – | – | not in the model |"),
        (figures(0, clap=1), "| wave | clap | – | – | wrong |"),
        (figures(1, clap=2), "| wave | wave, clap 2× | 0.95 | 1.9 | right, not alone |"),
        (figures(2, performed=3), "| wave 3× | wave | 0.95 | 1.9 | 2 of 3 right |"),
    ],
)
def test_performed_table_row_has_label_confidence_delay_and_outcome(action: dict[str, Any], row: str) -> None:
    table = performed_table({"actions": {"wave": action}, "labels_while_waiting": {}, "waited_s": 3.0})
    assert row in table.splitlines()
    assert "no label in 3 s of waiting" in table


@pytest.mark.parametrize("path", ["sheet.txt", "no_folder/sheet.png"])
def test_run_impossible_image_is_refused_before_the_start(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rclpy", reason="needs ROS 2: make venv build && . scripts/env.sh")
    assert main(["run", "--image", path]) == 2
    assert "is no .jpg or .png file in an existing folder" in capsys.readouterr().err


def test_lines_without_a_reader_end_the_graph_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in `actrec run | head`."""
    lines, signals = Lines(), list[int]()
    monkeypatch.setattr("os.kill", lambda pid, number: signals.append(number))
    monkeypatch.setattr(lines, "_show", lambda change: exec("raise BrokenPipeError"))
    for _ in range(3):
        lines.show(None)
    assert signals == [signal.SIGINT]


def test_image_of_two_people_keeps_their_own_labels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    written: list[Any] = []
    monkeypatch.setattr(contact_sheet, "write", lambda path, tiles: written.extend(tiles))
    people = [SimpleNamespace(body_id=f"body_{number}") for number in (1, 2)]
    shown: Any = SimpleNamespace(bodies=people, captions={"body_2": Caption("throw", 0.9)})
    run._write_image(tmp_path / "a.png", {"wave": shown}, {"actions": {"wave": figures(1, clap=2)}})
    assert written[0].snapshot.captions == {"body_2": Caption("throw", 0.9)}
    assert written[0].lines[1] == "recognized: wave, clap 2x 0.95, after 1.9 s"
