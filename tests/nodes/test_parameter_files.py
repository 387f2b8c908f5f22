"""Parameter files without effect raise an error, while ROS ignores them silently."""

from pathlib import Path

import pytest

from actrec.utils.errors import ConfigError
from actrec_nodes.bringup import graph

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_parameter_files_set_parameters(path: Path) -> None:
    graph.check(str(path))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing yet\n",
        "/**:\n  ros__parameters: {depth_wait_s: 2.0}\n",
        "/robot/camera_node:\n  ros__parameters: {driver: replay}\n",
        "robot:\n  camera_node:\n    ros__parameters: {driver: replay}\n",
        "/*:\n  ros__parameters: {use_sim_time: true}\n",
        "amcl: {ros__parameters: {alpha1: 0.2}}\nface_node: {ros__parameters: {silence_s: 1.0}}\n",
    ],
)
def test_parameter_file_of_a_graph_node_is_accepted(
    text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "robot.yaml").write_text(text)
    graph.check(str(tmp_path / "robot.yaml"))
    assert not caplog.records


def test_parameter_file_with_a_similar_node_name_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    nodes = "camera_node: {ros__parameters: {driver: replay}}", "/robot/recognizr_node: {ros__parameters: {model: x}}"
    (tmp_path / "robot.yaml").write_text("\n".join(nodes))
    graph.check(str(tmp_path / "robot.yaml"))
    assert "robot.yaml is for recognizr_node too, which is no node here: recognizer_node is" in caplog.text


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("hello there\n", "sets no parameters, expected 'NODE: {ros__parameters: {NAME: VALUE}}'"),
        ("camera_node: {driver: replay}\n", "sets no parameters"),
        ("- camera_node\n", "sets no parameters"),
        ("camera_node: {ros__parameters: {driver: [}}\n", "is not YAML"),
        ("\x00\n", "is not YAML"),
        (
            "/**/recognizr_node: {ros__parameters: {model: x}}\n",
            "is for recognizr_node; the nodes here are recognizer_",
        ),
    ],
)
def test_parameter_file_without_effect_is_refused(text: str, line: str, tmp_path: Path) -> None:
    (tmp_path / "robot.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"robot\.yaml ") as raised:
        graph.check(str(tmp_path / "robot.yaml"))
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)
