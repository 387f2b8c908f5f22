"""The examples for behaviors, each run as its command beside one real graph with the simulated camera."""

import os
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
from action_msgs.srv import CancelGoal
from geometry_msgs.msg import Twist

from tests.nodes.conftest import Peer
from tests.nodes.recognizer_graph import Make
from tests.tiny_model import write_tiny

pytestmark = [pytest.mark.ros, pytest.mark.timeout(240)]

TIMEOUT_S = 100.0
ENVIRONMENT = {**os.environ, "PYTHONUNBUFFERED": "1", "RCUTILS_COLORIZED_OUTPUT": "0"}


class Command:
    """A command in a process of its own; `lines` has its output so far."""

    def __init__(self, *arguments: str):
        self.lines: list[str] = []
        command = [sys.executable, *arguments]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip())

    def wait_for(self, *words: str) -> None:
        """Wait until a line has all of the words."""
        deadline = time.monotonic() + TIMEOUT_S
        while not any(all(word in line for word in words) for line in list(self.lines)):
            assert time.monotonic() < deadline, "\n".join(self.lines)
            time.sleep(0.05)

    def status(self) -> int:
        """Return the exit status when the process has ended."""
        return self._process.wait(TIMEOUT_S)

    def stop(self) -> int:
        """Interrupt the process as Ctrl-C does, and return its exit status."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        status = self._process.wait(30)
        self._reader.join()
        return status


Start = Callable[..., Command]


@pytest.fixture
def start() -> Iterator[Start]:
    """Return a function that starts a command, which ends with the test."""
    commands: list[Command] = []

    def start(*arguments: str) -> Command:
        commands.append(Command(*arguments))
        return commands[-1]

    yield start
    for command in reversed(commands):
        command.stop()


@pytest.mark.slow
def test_examples_of_behaviors_react_to_a_person_who_acts(root: Path, peer: Peer, start: Start) -> None:
    canceled: list[Any] = []

    def cancel(request: Any, response: Any) -> Any:
        canceled.append(request)
        return response

    peer.create_service(CancelGoal, "navigate_to_pose/_action/cancel_goal", cancel)
    driving = peer.create_publisher(Twist, "cmd_vel_in", 10)
    peer.create_timer(0.05, lambda: driving.publish(moving()))
    peer.subscribe(Twist, "cmd_vel", 10)
    examples = root / "examples"
    gate = start(str(examples / "stop_on_raised_hand.py"))
    throw = start(str(examples / "react_to_throw.py"))
    settings = ("actions=[idle, wave, raise hand, throw]", "pause=2.0", "fps=10.0", "realtime=false")
    options = [word for each in settings for word in ("--driver-option", each)]
    often = ("--ros-args", "-p", "events.begin:=0.5")  # every performance begins an event
    start("-m", "actrec", "run", "--driver", "simulated", *options, "--quiet", *often)
    peer.wait_until(lambda: peer.count_publishers("/action_events") == 1, TIMEOUT_S)
    leaf = start(str(examples / "behavior_tree_leaf.py"))
    client = start(str(examples / "wait_for_action_client.py"), "throw", "wave", "--timeout", "120")
    refused = start(str(examples / "wait_for_action_client.py"), "juggle")
    assert refused.status() == 1
    refused.wait_for("model joint_tcn_everyday has no label 'juggle'; known: bow,")
    throw.wait_for("body_1 throws", "m away: turn")
    throw.wait_for("the throw has ended, it took")
    gate.wait_for("body_1: raise hand", "the robot stops")
    gate.wait_for("all hands are down, the robot may move")
    assert client.status() == leaf.status() == 0
    client.wait_for("waiting for throw or wave by anyone")
    client.wait_for("body_1: ", "m away")
    leaf.wait_for("hello, body_1")
    speeds = [message.linear.x for message in peer.received["cmd_vel"]]
    assert canceled and 0.0 in speeds and speeds[0] == 0.3
    assert throw.stop() == gate.stop() == 0


@pytest.mark.slow
def test_own_camera_example_feeds_the_graph(root: Path, data_root: Path, tmp_path: Path, start: Start) -> None:
    assert start(str(root / "examples/own_camera.py"), str(tmp_path / "none"), "--nodes", "camera").status() == 1

    def copy(number: int) -> None:
        found, name = data_root / "rgbd/person_turning" / f"{number % 100:010d}", tmp_path / f"{number:05d}"
        shutil.copy(f"{found}_depth.png", f"{name}_depth.png")
        cv2.imwrite(f"{name}.png", cv2.imread(f"{found}.jpg"))

    copy(0)
    run = start(str(root / "examples/own_camera.py"), str(tmp_path), "--nodes", "camera,skeleton,recognizer")
    number = 1
    deadline = time.monotonic() + TIMEOUT_S
    while not any("body_1" in line for line in list(run.lines)):
        assert time.monotonic() < deadline, "\n".join(run.lines)
        copy(number)
        number += 1
        time.sleep(0.1)
    assert run.stop() == 0, "\n".join(run.lines)


def moving() -> Twist:
    velocity = Twist()
    velocity.linear.x = 0.3
    return velocity


def test_behavior_tree_leaf_fails_with_the_reason_and_cancels_when_interrupted(
    root: Path, make: Make, tmp_path: Path
) -> None:
    py_trees = pytest.importorskip("py_trees", reason="py_trees is not installed: pip install py_trees")
    leaf_class = runpy.run_path(str(root / "examples/behavior_tree_leaf.py"))["WaitForActionLeaf"]
    graph = make(model=str(write_tiny(tmp_path / "tiny").path))
    assert graph.start()
    unknown, interrupted = leaf_class("unknown", ["juggle"]), leaf_class("interrupted", ["left"])
    for leaf in (unknown, interrupted):
        leaf.setup(node=graph.peer)
    graph.wait_until(lambda: ticked(unknown) == "FAILURE")
    assert unknown.feedback_message == "model tiny has no label 'juggle'; known: far, left, right"
    graph.wait_until(lambda: ticked(interrupted) == "RUNNING" and interrupted.answer is not None)
    interrupted.stop(py_trees.common.Status.INVALID)
    graph.wait_until(interrupted.answer.done)
    assert interrupted.answer.result().result.error_msg == "canceled"
    for leaf in (unknown, interrupted):
        leaf.client.destroy()


def ticked(leaf: Any) -> str:
    leaf.tick_once()
    return str(leaf.status.name)
