"""The figures of `benchmarks/results`: each has one row, and the packages' agree with their cards."""

import csv
from collections import Counter
from pathlib import Path

import pytest

from actrec.inference import zoo

RESULTS = Path(__file__).parents[2] / "benchmarks/results"
SHOWN = {
    "confidence, mean": ("test_confidence", 1),
    "calibration error, 15 bins": ("test_ece", 1),
    "right and accepted": ("test_right_and_accepted", 100),
    "other actions rejected": ("unknown_rejected", 100),
}
"""By row: its figure in a card, and the factor to its unit."""


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as text:
        return list(csv.DictReader(text))


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.csv")), ids=lambda file: file.stem)
def test_each_figure_has_one_row(file: Path) -> None:
    counted = Counter((row["figure"], row["unit"]) for row in rows(file))
    assert [name for name, count in counted.items() if count > 1] == []


def test_figures_of_rejections_are_the_cards() -> None:
    compared, wrong = 0, []
    for row in rows(RESULTS / "accuracy.csv"):
        subject, _, figure = row["figure"].rpartition(": ")
        kind, _, name = subject.partition(", ")
        if kind == "rejection" and "," not in name:
            key, factor = SHOWN[figure]
            card, digits = zoo.find(name).provenance.figures[key] * factor, len(row["value"].partition(".")[2])
            compared += 1
            if row["value"] != f"{card:.{digits}f}":
                wrong.append(f"{row['figure']}: {row['value']}, in the card {card}")
    assert not wrong and compared >= 28


def test_faults_of_other_cameras_have_figures_before_and_after() -> None:
    figures = {row["figure"]: row["value"] for row in rows(RESULTS / "strangers.csv")}
    faults = [name.split(", ")[0] for name in figures if name.endswith(": after") and f"{name[:-5]}before" in figures]
    assert list(dict.fromkeys(faults)) == [f"fault {number}" for number in range(1, 12)]
    others = {row["figure"]: row["value"] for file in ("cameras", "streams") for row in rows(RESULTS / f"{file}.csv")}
    turned = "turned camera, from joints of N-UCLA, deepacts_graph_nucla, roll 90°: right, direction"
    late = "depth 0.45 s late, 1920×1080 at 30 Hz between processes"
    for fault, before, after in (
        ("fault 1", f"{turned} ignored", f"{turned} known"),
        ("fault 6", f"{late}, before: of them with depth", f"{late}, of them with depth"),
    ):
        found = [value for name, value in figures.items() if name.startswith(f"{fault}, ")]
        assert found[-2:] == [others[before], others[after]], fault


def test_joints_are_within_a_pixel_of_the_flow_in_all_networks() -> None:
    places = [row for row in rows(RESULTS / "strangers.csv") if row["figure"].startswith("place of joints")]
    distances = [row for row in places if row["unit"] == "px of 112"]
    assert len(distances) * 3 == len(places) * 2 and max(float(row["value"]) for row in distances) < 1
