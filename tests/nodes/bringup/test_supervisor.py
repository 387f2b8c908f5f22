"""Dead processes and failed nodes are started again; no process outlives a killed graph."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from actrec_nodes.bringup import processes, supervisor, transport
from actrec_nodes.bringup.endings import ending_if_stuck
from actrec_nodes.bringup.supervisor import Backoff, Supervisor
from tests.nodes.common.test_lifecycle import Config, Probe
from tests.nodes.conftest import Peer

pytestmark = pytest.mark.ros


@pytest.fixture
def supervise(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], tuple[Supervisor, list[str]]]]:
    """Return a function that supervises a Python program, and another one from its second start on."""
    monkeypatch.setattr(Backoff.__init__, "__defaults__", (0.01, 0.04, 60.0))
    made: list[Supervisor] = []

    def start(first: str, again: str, **kind: bool) -> tuple[Supervisor, list[str]]:
        lines: list[str] = []
        made.append(
            Supervisor(
                lambda name, is_again: [sys.executable, "-c", again if is_again else first],
                {},
                lambda line, is_error: lines.append(line),
            )
        )
        made[-1].start("node", **kind)
        return made[-1], lines

    yield start
    for each in made:
        each.stop()


SLEEP, KILLED = "import time; time.sleep(60)", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


def test_backoff_doubles_and_is_reset_after_a_success() -> None:
    backoff = Backoff(0.5, 3.0, healthy_s=60.0)
    assert [backoff.next(1.0) for _ in range(4)] == [0.5, 1.0, 2.0, 3.0]
    assert [backoff.next(lived) for lived in (59.0, 61.0, 1.0)] == [3.0, 0.5, 1.0]


def test_supervisor_killed_process_is_started_again_until_its_work_is_done(supervise: Any) -> None:
    running, lines = supervise(KILLED, "")
    assert running.wait(60)
    assert lines == ["node was ended by SIGKILL: starting it again in 0.01 s"]
    assert running.children["node"].returncode == 0 and "node" in running.restarted


def test_supervisor_crashing_process_waits_longer_each_time(supervise: Any) -> None:
    running, lines = supervise("import os; os._exit(7)", "import os; os._exit(7)")
    deadline = time.monotonic() + 60
    while len(lines) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert [line.rpartition(" in ")[2] for line in lines[:4]] == ["0.01 s", "0.02 s", "0.04 s", "0.04 s"]
    assert lines[0].startswith("node ended with status 7:")
    running.stop()
    number = len(lines)
    time.sleep(0.1)
    assert len(lines) == number and running.children["node"].poll() is not None


@pytest.mark.parametrize(("first", "starts"), [("exit(2)", 1), (KILLED, 1 + supervisor.ATTEMPTS)])
def test_supervisor_wrong_settings_fail_the_work(supervise: Any, first: str, starts: int) -> None:
    running, lines = supervise(first, "exit(1)")
    assert not running.wait(60)
    assert len(lines) == starts - 1


def test_supervisor_process_that_fails_after_it_worked_is_started_again(
    supervise: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So do processes that are stuck: their exit status is 1."""
    monkeypatch.setattr(supervisor, "HEALTHY_S", 0.5)
    running, lines = supervise("import time; time.sleep(0.6); exit(1)", "")
    assert running.wait(60)
    assert lines == ["node ended with status 1: starting it again in 0.01 s"]


def test_supervisor_process_that_joins_later_and_fails_does_not_end_the_others(supervise: Any) -> None:
    running, lines = supervise("exit(1)", SLEEP, required=False)
    running.children["node"].wait()
    assert running.wait(0.1) and not lines


def test_supervisor_process_that_is_no_source_and_ends_is_started_again(supervise: Any) -> None:
    """Such as one that gets SIGTERM: the others go on."""
    running, lines = supervise("", SLEEP, is_source=False)
    deadline = time.monotonic() + 60
    while not lines:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert lines[0].startswith("node ended with status 0: starting it again")
    assert running.wait(0.1)
    running.stop()


def test_wait_before_start_grows_while_a_process_of_launch_dies_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    now, again = [1000.0], []
    monkeypatch.setattr(supervisor.time, "time", lambda: now[0])
    monkeypatch.setattr(supervisor.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))

    def pause(lived_s: float, name: str = "hand_node") -> float:
        began = now[0] = now[0] + lived_s
        again.append(supervisor.wait_before_start(name))
        return round(now[0] - began, 1)

    assert pause(0.0) == 0.0, "not started by launch"
    for name, value in supervisor.respawn_environment().items():
        monkeypatch.setenv(name, value)
    assert [pause(lived_s) for lived_s in (0, 1, 1, 1, 70, 1)] == [0.0, 0.2, 0.4, 0.8, 0.0, 0.2]
    assert again == [False, False, True, True, True, True, True]
    assert pause(0, "face_node") == 0.0 and not again[-1]
    assert [pause(1) for _ in range(12)][-1] == supervisor.LONGEST_PAUSE_S
    (Path(value) / "hand_node").write_text("[half")
    assert pause(1) == 0.0
    shutil.rmtree(value)
    assert pause(1) == 0.0


def test_node_failed_start_is_repeated_with_its_cause_in_the_diagnostics(
    context: Any, host: Any, peer: Peer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(processes, "FIRST_RETRY_S", 0.05)
    monkeypatch.setattr(processes, "_REPORT_S", 0.02)
    node = Probe("activate", context=context, cli_args=["--ros-args", "-p", "start_retry_s:=0.1"])
    host.add(node)
    reported: list[str] = []
    monkeypatch.setattr(node, "report", lambda: reported.append(node.statistics.snapshot().last_error))
    assert host.start() is None and not node.is_active
    peer.wait_until(lambda: node.calls.count("activate") >= 3)
    assert node.calls.count("configure") == 1, "only the failed transition is repeated"
    line = "cannot activate: no camera is connected: plug one in (next attempt in {} s)"
    assert {line.format(0.05), line.format(0.1)} <= set(reported)
    node._fail_in = ""
    peer.wait_until(lambda: node.is_active)
    peer.wait_until(lambda: "attempts" in capfd.readouterr().err)
    assert node.config == Config() and not node.last_error


def test_node_failed_start_does_not_delay_the_end(context: Any) -> None:
    with processes.Host(context) as host:
        node = Probe("configure", context=context, cli_args=["--ros-args", "-p", "start_retry_s:=60.0"])
        host.add(node)
        assert host.start() is None
        host.stop()
    assert node.calls == ["configure", "cleanup"]


@pytest.mark.slow
def test_run_replaces_hung_and_killed_nodes_and_killed_leaves_no_process(peer: Peer) -> None:
    command = [sys.executable, "-m", "actrec", "run", "--nodes", "scene_flow", "--processes"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as run:
        below = psutil.Process(run.pid).children
        # The node and the process that waits have the threads of DDS, the standby server has not.
        peer.wait_until(lambda: sum(each.num_threads() > 6 for each in below(recursive=True)) == 2)
        assert run.stderr is not None
        (child,) = [each for each in below() if each.name() == "scene_flow_node"]
        child.suspend()  # as one that waits for a lock that no process will release
        assert any("scene_flow_node does not answer: killing its process" in line for line in run.stderr)
        assert any("is active again" in line for line in run.stderr)
        peer.wait_until(lambda: sum(each.num_threads() > 6 for each in below(recursive=True)) == 2)
        (child,) = [each for each in below(recursive=True) if each.name() == "scene_flow_node"]
        child.kill()
        assert any("is active again" in line for line in run.stderr)
        (child,) = [each for each in below(recursive=True) if each.name() == "scene_flow_node"]
        assert child.parent().name() == "actrec_standby"
        left = below(recursive=True)
        run.kill()
    left = psutil.wait_procs(left, timeout=60)[1]
    assert all(each.status() == psutil.STATUS_ZOMBIE for each in left)


def test_process_that_hangs_at_its_end_is_ended_with_its_stack() -> None:
    program = "import time\nfrom actrec_nodes.bringup.endings import ending_within\n"
    program += "with ending_within(0.2) as begin_end:\n    begin_end()\n    time.sleep(100)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=90)
    assert result.returncode == 1
    assert 'File "<string>", line 5 in <module>' in result.stderr


STUCK = """
import ctypes, time
from actrec_nodes.bringup.endings import ending_if_stuck, patiently
lock, library = ctypes.create_string_buffer(64), ctypes.PyDLL(None)
with ending_if_stuck(3.0):
    time.sleep(0.5)
    library.usleep(200_000)
    with patiently():
        library.usleep(5_000_000)
    time.sleep(0.5)
    print("works", flush=True)
    time.sleep(8)
    library.pthread_mutex_lock(lock)
    print("still works", flush=True)
    if {stuck}:
        library.pthread_mutex_lock(lock)
"""
"""`ctypes.PyDLL` keeps Python's lock during the call, as rclpy does while a message is published."""


@pytest.mark.slow
@pytest.mark.parametrize(("stuck", "status"), [(False, 0), (True, -signal.SIGALRM)])
def test_process_whose_threads_cannot_run_is_ended_with_its_stack(stuck: bool, status: int) -> None:
    """Not one that is stopped for longer, and goes on."""
    command = [sys.executable, "-c", STUCK.format(stuck=stuck)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "works\n"
        for number in (signal.SIGSTOP, signal.SIGCONT) if not stuck else ():
            process.send_signal(number)
            time.sleep(4.0)
        output, error = process.communicate(timeout=90)
    assert (process.returncode, output) == (status, "still works\n")
    assert ('File "<string>", line 16 in <module>' in error) == stuck


def test_ending_if_stuck_restores_the_alarm_of_others() -> None:
    handler, left_s = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)[0]
    assert left_s > 0 and callable(handler), "of pytest-timeout"
    with ending_if_stuck(60.0):
        pass
    assert signal.getsignal(signal.SIGALRM) is handler and 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= left_s


def test_process_whose_port_is_replaced_ends_with_the_cause_to_be_started_again(peer: Peer) -> None:
    """Fast DDS does so after a process was killed while it wrote to that port; the messages of others are then lost."""
    command = [sys.executable, "-m", "actrec_nodes.bringup.processes", "skeleton_node"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        folder = Path(f"/proc/{process.pid}")

        def locks() -> list[Path]:
            found = []
            for link in (folder / "fd").iterdir():
                with contextlib.suppress(OSError):  # closed meanwhile
                    found.append(Path(os.readlink(link)))
            return [path for path in found if "_port" in path.name and path.name.endswith("_el")]

        try:
            peer.wait_until(lambda: bool(locks()))
            lock = locks()[0]
            port = lock.with_name(lock.name.removesuffix("_el"))
            assert transport.lost_port(folder) is None
            lock.unlink()  # it may go with the port
            port.unlink()
            assert transport.lost_port(folder) == port.name
            assert process.wait(60) == processes.LOST_STATUS
            assert process.stderr is not None and f"has replaced its {port.name}" in process.stderr.read()
        finally:
            process.kill()


@pytest.mark.parametrize("own", [True, False])
def test_lost_port_is_a_replaced_one_whose_lock_the_process_holds(tmp_path: Path, own: bool) -> None:
    """Not a port of another process, to which it has written; a process may have any folder open, even the root."""
    port = f"{transport.MAPPED}7411"
    (tmp_path / "maps").write_text(f"7f00-7f01 rw-s 00000000 00:1a 5 {port} (deleted)\n")
    (tmp_path / "fd").mkdir()
    for number, target in enumerate(["/", "socket:[1]", f"{port}_el (deleted)"][: 3 if own else 2]):
        (tmp_path / "fd" / str(number)).symlink_to(target)
    assert transport.lost_port(tmp_path) == (Path(port).name if own else None)
