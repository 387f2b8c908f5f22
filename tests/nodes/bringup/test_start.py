"""The log of a whole graph that starts and stops, and interrupts at any time of it."""

import contextlib
import re
import signal
import subprocess
import sys
import textwrap
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import pytest

from actrec.visualization.contact_sheet import TILE_PX
from actrec_nodes import executables
from actrec_nodes.bringup import processes, run
from actrec_nodes.bringup.supervisor import RESPAWNS

pytestmark = [pytest.mark.ros, pytest.mark.timeout(300)]

ALARM = re.compile(r"\[(WARN|ERROR|FATAL)\]|Traceback|Exception")


@pytest.mark.parametrize(("is_again", "is_active"), [(False, True), (True, True), (True, False)])
def test_node_whose_process_was_started_again_logs_that_it_is_active(
    monkeypatch: pytest.MonkeyPatch, is_again: bool, is_active: bool
) -> None:
    """As launch alone does not."""
    lines: list[str] = []
    logger = SimpleNamespace(warning=lines.append)
    node: Any = SimpleNamespace(
        autostart=True, is_active=is_active, exit_status=0, start_after=[], get_logger=lambda: logger
    )
    host: Any = SimpleNamespace(start=lambda wait: None, wait=lambda: None)
    monkeypatch.setattr(processes.parameter_files, "ineffective", lambda *_: [])
    for name in ("ending_if_lost", "ending_if_stuck"):
        monkeypatch.setattr(processes, name, lambda *_: contextlib.nullcontext())
    assert processes._run(node, [], host, is_again) == 0
    assert [line.startswith("active again") for line in lines] == [True] * (is_again and is_active)


def start(root: Path, *arguments: str, params: Path | None = None) -> "subprocess.Popen[str]":
    """Start `actrec run` with the default model and the simulated camera, which waits for a slow machine."""
    params = params or root / "config/demo.yaml"
    command = [sys.executable, "-m", "actrec", "run", "--params", str(params), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [[], ["--processes", "--with", "hand,face,scene_flow"]],
    ids=["one", "each"],
)
def test_run_normal_start_and_stop_log_no_warning(root: Path, tmp_path: Path, options: list[str]) -> None:
    """The run ends with the person's program, however long the machine takes to start."""
    image, short = tmp_path / "sheet.png", tmp_path / "short.yaml"
    demo = (root / "config/demo.yaml").read_text()
    short.write_text(demo.replace("duration: 51.0", "duration: 8.0"))
    assert short.read_text() != demo
    with start(root, *options, "--image", str(image), params=short) as process:
        output, _ = process.communicate()
    assert process.returncode == 0, output
    assert [line for line in output.splitlines() if ALARM.search(line)] == []
    assert "| wave | " in output and output.splitlines()[-1] == f"image: {image}"
    assert cv2.imread(str(image)).shape[1] % TILE_PX == 0


@pytest.mark.slow
@pytest.mark.parametrize("processes", [[], ["--processes"]], ids=["one", "each"])
@pytest.mark.parametrize("after", ["starting camera", "[recognizer_node]: model "])
def test_run_interrupted_while_it_starts_ends_without_an_error(root: Path, processes: list[str], after: str) -> None:
    """The recognizer, whose model is then loaded, starts first, and the camera, which waits for the others, last."""
    with start(root, *processes) as process:
        assert process.stdout is not None and any(after in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate()
    assert [line for line in output.splitlines() if ALARM.search(line)] == []
    assert process.returncode == 130, output


def test_own_arguments_of_a_process_outrank_parameter_files(monkeypatch, tmp_path: Path) -> None:
    given = {}
    monkeypatch.setattr(processes, "spin", lambda choose, args: given.update(choose=choose, args=args) or 0)
    monkeypatch.setattr(processes, "end_after", lambda seconds: None)
    file = tmp_path / "mine.yaml"
    file.write_text(
        "/**: {ros__parameters: {statistics_period_s: 7.0}}\n/**/camera_node: {ros__parameters: {driver: realsense}}\n"
    )
    own = ["-p", 'driver:="simulated"']
    assert processes.main(["camera_node", "--ros-args", "--params-file", str(file), processes.OWN, *own]) == 0
    kind, arguments = given["choose"]()
    with processes.ros(given["args"]) as context:
        node = kind(context=context, cli_args=arguments)
        assert [node.get_parameter(name).value for name in ("driver", "statistics_period_s")] == ["simulated", 7.0]
        node.destroy_node()
    assert processes.main(["camera_node", "--ros-args"]) == 0 and given["choose"]()[1] == []


@pytest.mark.parametrize(("is_launched", "autostart"), [(True, False), (True, True), (False, False)])
def test_composed_graph_is_left_to_a_lifecycle_manager_if_launch_says_so(
    is_launched: bool, autostart: bool, monkeypatch
) -> None:
    monkeypatch.delenv(RESPAWNS, raising=False)
    if is_launched:
        monkeypatch.setenv(RESPAWNS, "")
    planned = run.plan(nodes=["camera"], driver="simulated", ros_args=["-p", f"autostart:={str(autostart).lower()}"])
    states: list[bool] = []
    run.run_graph(planned, lambda running, monitor: states.append(running._host.nodes[0].is_active))
    assert states == [autostart or not is_launched]


@pytest.mark.parametrize(("name", "run"), [("skeleton_node", "node"), ("record_node", "record"), ("graph", "graph")])
def test_executable_interrupted_while_it_imports_ends_without_a_word(name: str, run: str) -> None:
    slow = """
        import sys, time

        class Slow:
            def find_spec(self, name, path=None, target=None):
                if name in ("cv2", "rclpy"):
                    print("importing", flush=True)
                    time.sleep(60)

        sys.meta_path.insert(0, Slow())
    """
    program = f"{textwrap.dedent(slow)}\nfrom actrec_nodes import executables\nsys.exit(executables.{run}())"
    process = subprocess.Popen([sys.executable, "-c", program, name], stdout=-1, stderr=-1, text=True)
    assert process.stdout is not None and process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == ("", "") and process.returncode == 0


def test_executables_are_there() -> None:
    entries = metadata.distribution("actrec").entry_points
    assert {"skeleton_node", "record_node", "graph"} <= {entry.name for entry in entries}
    assert [entry.name for entry in entries if not callable(entry.load())] == []
    targets = {f"actrec_nodes.executables:{name}" for name in ("node", "record", "graph")}
    assert {entry.value for entry in entries if entry.name != "actrec"} == targets


def test_executable_handles_interrupts_itself_after_its_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    handlers: list[Any] = []
    before = signal.getsignal(signal.SIGINT)

    def run() -> int:
        handlers.append(signal.getsignal(signal.SIGINT))
        return 7

    monkeypatch.setattr(processes, "main", run)
    assert executables.node() == 7 and handlers == [before]
