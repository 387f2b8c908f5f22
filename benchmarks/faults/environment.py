"""Campaign of surroundings that break: full and read-only disks, a clock that is set, no network, a model removed.

It mounts small file systems and takes down the loopback interface of its own network namespace, so it needs root.
"""

import contextlib
import ctypes
import fcntl
import multiprocessing
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from actrec_msgs.srv import LoadModel

from actrec.inference import zoo
from actrec.types import NANOSECONDS
from actrec.utils.errors import ConfigError, DeviceError
from benchmarks.faults.deaths import LOST_S, STOP_MAX_S
from benchmarks.faults.live_graph import LiveGraph, camera_arguments, run_command, running
from benchmarks.faults.outcome import Outcome, chosen

NODES = ("camera_node", "skeleton_node", "recognizer_node")
BROKEN_S = 8.0  # time for which a fault lasts
START_MAX_S = 60.0
OTHER_MODEL = "joint_tcn_open"  # of another name than the default
CLOCK = Path(__file__).with_name("shifted_clock.c")
NEW_NETWORK = 0x40000000  # CLONE_NEWNET
SIOCGIFFLAGS, SIOCSIFFLAGS, UP = 0x8913, 0x8914, 0x1


@contextlib.contextmanager
def small_disk(state: str) -> Iterator[Path]:
    """Mount a file system in memory that is "full" or "read-only"."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
        try:
            if state == "full":
                with contextlib.suppress(OSError), (Path(folder) / "filler").open("wb", buffering=0) as file:
                    while True:
                        file.write(bytes(4096))
            else:
                subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


def caches(state: str) -> Callable[[Outcome], None]:
    """Return the fault of caches, logs and settings on a disk in this state."""

    def run(outcome: Outcome) -> None:
        with small_disk(state) as disk:
            names = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "ROS_LOG_DIR", "NUMBA_CACHE_DIR")
            environment = {name: str(disk / "folder") for name in names}
            command = run_command(NODES, *camera_arguments(fps=15.0))
            began = time.time_ns()
            with running(NODES, command=command, environment=environment) as graph:
                outcome.add((time.time_ns() - began) / NANOSECONDS)
                _work(graph, outcome)
                outcome.require("ROS_LOG_DIR" in graph.text(), "no line about logs that cannot be written")
        outcome.check(START_MAX_S)

    return run


def full_bag(outcome: Outcome) -> None:
    """Record a bag on a disk that becomes full, beside the graph, which must go on."""
    with small_disk("full") as disk, running(NODES, *camera_arguments(fps=15.0)) as graph:
        (disk / "filler").unlink()  # room for a second or less
        command = [*run_command(())[:3], "record", "--out", str(disk / "bag"), "--duration", "20"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=START_MAX_S, check=False)
        said = (done.stdout + done.stderr).strip()
        outcome.require(done.returncode != 0 and "space" in said.lower(), f"record ended with {done.returncode}")
        outcome.require("Traceback" not in said, "traceback of record")
        since_ns = time.time_ns()
        outcome.add(graph.wait_for_output("skeleton_node", since_ns, LOST_S))
        _work(graph, outcome)
    outcome.check(STOP_MAX_S)


def clock(hours: float) -> Callable[[Outcome], None]:
    """Return the fault of a system clock that is set by hours while the graph runs."""

    def run(outcome: Outcome) -> None:
        with tempfile.TemporaryDirectory() as folder:
            library, state = Path(folder) / "shifted_clock.so", Path(folder) / "shift"
            subprocess.run(["cc", "-O2", "-fPIC", "-shared", "-o", str(library), str(CLOCK), "-ldl"], check=True)
            state.write_bytes(struct.pack("d", 0.0))
            environment = {"LD_PRELOAD": str(library), "SHIFTED_CLOCK": str(state)}
            command = run_command(NODES, *camera_arguments(fps=15.0))
            with running(NODES, command=command, environment=environment) as graph:
                graph.settle(BROKEN_S / 2)
                count, since_ns = len(graph.monitor.labels), time.time_ns()
                with state.open("r+b") as file:
                    file.write(struct.pack("d", 3600.0 * hours))

                def is_back() -> bool:
                    return any(label.is_answer and label.frame_ns > since_ns for label in graph.monitor.labels[count:])

                came = graph.monitor.wait_for(is_back, LOST_S)
                outcome.add((time.time_ns() - since_ns) / NANOSECONDS if came else None)
                graph.settle(BROKEN_S)
                labels = [label.timed_here() for label in graph.monitor.labels_since(count) if label.frame_ns]
                outcome.add_labels(labels)
                outcome.figures["labels"] = len(labels)
                outcome.require(bool(labels), "no labels afterwards")
                said = "the clock of this machine was set by" in graph.text()
                outcome.require(said, "no line about the clock that was set")
                outcome.require(not graph.tracebacks(), f"{graph.tracebacks()} tracebacks")
        outcome.check(STOP_MAX_S)

    return run


def _set_loopback(up: bool) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sh", b"lo", 0)
        flags = struct.unpack("16sh", fcntl.ioctl(sock, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh", b"lo", flags | UP if up else flags & ~UP))


def network(outcome: Outcome) -> None:
    """Take down the only network interface while the graph runs; a process has a network of its own for it."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=_without_network, args=(outcome, there))
    child.start()
    if not here.poll(START_MAX_S + 2 * LOST_S + 60.0):
        child.kill()
        raise DeviceError("the graph in a network of its own did not end")
    measured = here.recv()
    child.join()
    outcome.__dict__.update(measured.__dict__)
    outcome.check(STOP_MAX_S)


def _without_network(outcome: Outcome, connection: Connection) -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(NEW_NETWORK):
        outcome.require(False, f"no network namespace: {os.strerror(ctypes.get_errno())}")
        connection.send(outcome)
        return
    _set_loopback(up=True)
    with running(NODES, *camera_arguments(fps=15.0), images=True) as graph:  # by shared memory
        graph.settle(BROKEN_S / 2)
        count = len(graph.monitor.labels)
        _set_loopback(up=False)
        graph.settle(BROKEN_S)
        outcome.figures["labels while it is down"] = down = len(graph.monitor.labels) - count
        outcome.require(down > 0, "labels stopped with the network")
        _set_loopback(up=True)
        outcome.add(graph.wait_for_output("skeleton_node", time.time_ns(), LOST_S))
        outcome.add_labels(graph.monitor.labels_since(count))
        outcome.require(not graph.tracebacks(), f"{graph.tracebacks()} tracebacks")
    connection.send(outcome)


def model_removed(outcome: Outcome) -> None:
    """Remove the model's files, which labels must outlive; kill the recognizer; put the files back."""
    with tempfile.TemporaryDirectory() as folder:
        model, away = Path(folder) / "model", Path(folder) / "away"
        shutil.copytree(zoo.find(zoo.DEFAULT).path, model)
        arguments = ["--model", str(model), *camera_arguments(fps=15.0)]
        with running(NODES, *arguments) as graph:
            model.rename(away)
            count = len(graph.monitor.labels)
            graph.settle(BROKEN_S / 2)
            outcome.require(len(graph.monitor.labels) > count, "labels stopped with the files")
            log = len(graph.text())
            graph.signal("recognizer_node", signal.SIGKILL)
            graph.settle(BROKEN_S)
            said = str(model) in graph.text()[log:]
            outcome.require(said, "the missing model is not named")
            away.rename(model)
            outcome.add(graph.wait_for_output("recognizer_node", time.time_ns(), LOST_S))
            _work(graph, outcome)
    outcome.check(LOST_S)


def half_copied(outcome: Outcome) -> None:
    """Load models of which files were copied by half, or not at all: refused in one line, and the old one goes on."""
    with tempfile.TemporaryDirectory() as folder, running(NODES, *camera_arguments(fps=15.0)) as graph:
        client = graph.monitor.create_client(LoadModel, "recognizer_node/load_model")
        outcome.require(client.wait_for_service(LOST_S), "no service load_model")
        whole = zoo.find(OTHER_MODEL).path
        for damaged in ("model.onnx", "model.yaml"):
            for share in (0.0, 0.5, None):
                model, began, count = Path(folder) / f"{damaged} {share}", time.time_ns(), len(graph.monitor.labels)
                shutil.copytree(whole, model)
                content = (model / damaged).read_bytes()
                (model / damaged).unlink()
                if share is not None:
                    (model / damaged).write_bytes(content[: int(share * len(content))])
                answer = client.call_async(LoadModel.Request(package=str(model)))
                outcome.require(graph.monitor.wait_for(answer.done, LOST_S), f"{model.name}: no answer")
                said = answer.result() or LoadModel.Response(success=True)
                refused = not said.success and str(model) in said.message and "\n" not in said.message
                outcome.require(refused, f"{model.name}: answered '{said.message}'")
                outcome.require(said.model_name == zoo.DEFAULT, f"{model.name}: {said.model_name} is loaded")
                outcome.add(graph.wait_for_output("recognizer_node", began, LOST_S))
                outcome.add_labels(graph.monitor.labels_since(count))
        _work(graph, outcome)
        graph.monitor.destroy_client(client)
    outcome.check(STOP_MAX_S)


def _work(graph: LiveGraph, outcome: Outcome) -> None:
    """Let the graph work for a while, and require labels and no traceback."""
    count = len(graph.monitor.labels)
    graph.settle(BROKEN_S / 2)
    labels = graph.monitor.labels_since(count)
    outcome.add_labels(labels)
    outcome.require(bool(labels), "no labels")
    outcome.require(not graph.tracebacks(), f"{graph.tracebacks()} tracebacks")


FAULTS: dict[str, Callable[[Outcome], None]] = {
    "caches on a full disk": caches("full"),
    "caches on a read-only disk": caches("read-only"),
    "bag on a full disk": full_bag,
    "clock set forward by 1 h": clock(1.0),
    "clock set back by 1 h": clock(-1.0),
    "network down": network,
    "model removed": model_removed,
    "model half copied": half_copied,
}


def break_all(times: int, only: Sequence[str] = ()) -> list[Outcome]:
    """Let each fault happen `times` times; raise ConfigError without root."""
    if os.geteuid():
        raise ConfigError("the campaign environment mounts file systems: run it as root, in a container")
    outcomes = []
    for name in chosen(only, FAULTS):
        outcome = Outcome("environment", name)
        for _ in range(times):
            FAULTS[name](outcome)
        outcome.faults = list(dict.fromkeys(outcome.faults))
        outcomes.append(outcome)
    return outcomes
