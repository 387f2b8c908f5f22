"""The layouts of RViz and Foxglove name topics that the graph publishes."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("rclpy", reason="needs ROS 2: make venv build && . scripts/env.sh")

from actrec_nodes.common import topics

NAMES = {value for value in vars(topics).values() if isinstance(value, str)}


def strings(value: Any) -> list[str]:
    """Return all strings, and keys, of nested mappings and lists."""
    if isinstance(value, dict):
        return [text for item in value.items() for part in item for text in strings(part)]
    if isinstance(value, list):
        return [text for part in value for text in strings(part)]
    return [value] if isinstance(value, str) else []


def named_topics(layout: Any) -> set[str]:
    """Return the topics, without the message's field of Foxglove's paths."""
    return {re.sub(r"\.\w+$", "", text)[1:] for text in strings(layout) if text.startswith("/")}


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("actrec.rviz", {topics.MARKERS, topics.ANNOTATED_IMAGE}),
        (
            "actrec_foxglove.json",
            {topics.MARKERS, topics.ANNOTATED_COMPRESSED, topics.ACTION_LABEL, topics.ACTION_EVENTS},
        ),
    ],
)
def test_layout_topics_are_published_by_the_graph(root: Path, name: str, wanted: set[str]) -> None:
    text = (root / "config" / name).read_text()
    found = named_topics(json.loads(text) if name.endswith(".json") else yaml.safe_load(text))
    assert wanted <= found <= NAMES


def test_rviz_displays_have_plugins_of_rviz_and_fitting_topics(root: Path) -> None:
    layout = yaml.safe_load((root / "config/actrec.rviz").read_text())
    shown = {d["Class"]: d for d in layout["Visualization Manager"]["Displays"]}
    assert all(name.startswith("rviz_default_plugins/") for name in shown)
    assert shown["rviz_default_plugins/MarkerArray"]["Topic"]["Value"] == f"/{topics.MARKERS}"
    assert shown["rviz_default_plugins/Image"]["Topic"]["Value"] == f"/{topics.ANNOTATED_IMAGE}"


def test_foxglove_layout_places_each_configured_panel(root: Path) -> None:
    layout = json.loads((root / "config/actrec_foxglove.json").read_text())
    placed = [text for text in strings(layout["layout"]) if "!" in text]
    assert sorted(placed) == sorted(layout["configById"])
