"""The process `graph` that launch starts: it runs on where `actrec run` on a command line ends with an error."""

from pathlib import Path
from typing import Any

import pytest

from actrec.cli import main
from actrec.utils.errors import ConfigError
from actrec_nodes.bringup import run, supervisor

RESPAWNS = supervisor.RESPAWNS


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[run.Plan]:
    """Return the plans of graphs that would have run, as children of launch."""
    plans: list[run.Plan] = []
    monkeypatch.setenv(RESPAWNS, "")
    monkeypatch.setattr(run, "run_graph", lambda chosen, stopped: plans.append(chosen))
    return plans


def test_launched_graph_leaves_a_missing_model_to_the_recognizer(started: list[run.Plan]) -> None:
    assert main(["run", "--processes", "--model", "/nowhere/model"]) == 1  # as `run_graph` returned None
    assert [spec.switch for spec in started[0].specs][:2] == ["recognizer", "skeleton"]


def test_launched_graph_names_arguments_of_launch(started: list[run.Plan], capsys: Any) -> None:
    main(["run", "--processes", "--driver", "simulated"])
    output = capsys.readouterr().out
    assert "hand:=true face:=true" in output and "--with" not in output


def test_launched_graph_runs_beside_a_parameter_file_for_other_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """`SetParametersFromFile` of a robot's launch file gives a file to every node."""
    (tmp_path / "nav2.yaml").write_text("controller_server: {ros__parameters: {frequency: 20.0}}")
    given = ["--ros-args", "--params-file", f"{tmp_path}/nav2.yaml"]
    monkeypatch.delenv(RESPAWNS, raising=False)
    with pytest.raises(ConfigError, match="has no effect"):
        run.plan("simulated", ros_args=given)
    monkeypatch.setenv(RESPAWNS, "")
    assert run.plan("simulated", ros_args=given).specs and "has no effect" in caplog.text


def test_launched_graph_parameters_outrank_entries_of_a_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.yaml").write_text(
        "/**: {ros__parameters: {autostart: true}}\n/**/camera_node: {ros__parameters: {use_sim_time: false}}\n"
    )
    (tmp_path / "launch.yaml").write_text("/**: {ros__parameters: {use_sim_time: true}}\n")
    files = [word for name in ("a", "launch") for word in ("--params-file", f"{tmp_path}/{name}.yaml")]
    monkeypatch.setenv(RESPAWNS, "")
    planned = run.plan("simulated", ros_args=["--ros-args", *files], processes=True)
    assert planned.overrides["camera_node"]["use_sim_time"] is True


def test_launched_graph_that_is_interrupted_ends_with_status_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RESPAWNS, raising=False)
    monkeypatch.setattr(run.cli, "main", lambda argv: 130)
    assert run.main([]) == 0
