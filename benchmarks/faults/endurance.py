"""Campaigns that last: a soak with people who come and go, and other work on the processors."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from actrec import inference
from actrec.inference import zoo
from actrec.recognition import ActionRecognizer
from actrec.simulation.scene import performed_scene
from actrec.types import NANOSECONDS, Body
from actrec.utils.calibration_files import from_hfov
from benchmarks.faults.deaths import NODES
from benchmarks.faults.live_graph import Label, LiveGraph, camera_arguments, percentile, private_mb, running
from benchmarks.faults.outcome import Outcome, chosen

SAMPLE_S = 5.0
WARM_MINUTES = 5.0  # memory may grow until then; a third of a shorter soak
GROWTH_MB, LATENCY_S = 10.0, 0.5
BUSY = 4  # processes that load the machine
PEOPLE, SCRIPT_S, SCRIPT_FPS = 3, 60, 15
SIMULATED_HOURS = 0.2  # of the recognizer alone, for each minute of the soak: 24 h for 2 h
PRESENT_S, ABSENT_S = (4.0, 20.0), (1.0, 6.0)


class Sample(NamedTuple):
    """Resources of a node's process at one moment."""

    memory_mb: float
    threads: int
    descriptors: int


def presence(frames: int, fps: float, random: np.random.Generator) -> np.ndarray:
    """Return [frames] bool: whether a person is in view, who comes and goes."""
    present: list[bool] = []
    while len(present) < frames:
        for state, (least, most) in ((True, PRESENT_S), (False, ABSENT_S)):
            present += [state] * round(random.uniform(least, most) * fps)
    return np.array(present[:frames])


def performances(seconds: float) -> np.ndarray:
    """Return joints [PEOPLE, T, 25, 3] m at `SCRIPT_FPS` of people who perform all actions, NaN while they are out."""
    scene = performed_scene(from_hfov(64, 48, 62.7), ["all"], PEOPLE)
    frames, random = round(seconds * SCRIPT_FPS), np.random.default_rng(0)
    joints = np.full((PEOPLE, frames, 25, 3), np.nan, np.float32)
    for t in range(frames):
        for m, body in enumerate(scene.at(t / SCRIPT_FPS).bodies):
            joints[m, t] = body.positions
    for m in range(PEOPLE):
        joints[m, ~presence(frames, SCRIPT_FPS, random)] = np.nan
    return joints


@contextlib.contextmanager
def script() -> Iterator[str]:
    """Write a skeleton file of people who come and go, for the simulated camera."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "people.npz"
        np.savez(path, positions=performances(SCRIPT_S), layout="kinect_v2_25", fps=float(SCRIPT_FPS))
        yield str(path)


def soak(minutes: int, only: Sequence[str] = ()) -> list[Outcome]:
    """Run all nodes for minutes while people come and go, and the recognizer alone through hours of simulated time."""
    parts = chosen(only, ("graph", "recognizer"))
    found = _soak_graph(minutes) if "graph" in parts else []
    return [*found, *([_soak_recognizer(minutes * SIMULATED_HOURS)] if "recognizer" in parts else [])]


def _soak_graph(minutes: float) -> list[Outcome]:
    samples: dict[str, list[Sample]] = {name: [] for name in NODES}
    times: list[float] = []
    with script() as path, running(NODES, *camera_arguments(people=PEOPLE, script=path, loop=True)) as graph:
        began, pids, ended = time.monotonic(), {name: graph.pid(name) for name in NODES}, dict.fromkeys(NODES, 0)
        earlier = graph.monitor.frames
        while (elapsed := time.monotonic() - began) < 60 * minutes:
            graph.settle(min(SAMPLE_S, 60 * minutes - elapsed))
            times.append(time.monotonic() - began)
            for name in NODES:
                with contextlib.suppress(psutil.Error):  # it has just ended
                    before, pids[name] = pids[name], graph.pid(name) or pids[name]
                    ended[name] += pids[name] != before
                    samples[name].append(_sample(pids[name]))
        labels, tracebacks, frames = list(graph.monitor.labels), graph.tracebacks(), graph.monitor.frames - earlier
    warm = next(k for k, at in enumerate(times) if at >= 60 * min(WARM_MINUTES, minutes / 3))
    outcomes = [_flat(name, samples[name][warm:], minutes) for name in NODES]
    for outcome in outcomes:
        outcome.require(not ended[outcome.subject], f"its process ended {ended[outcome.subject]} times")
    total = Outcome("soak", "labels", len(labels))
    total.growth_mb = sum(outcome.growth_mb or 0.0 for outcome in outcomes)
    total.add_labels(labels)
    halves = _halves(labels, times[warm])
    total.figures = {
        "minutes": minutes,
        "bodies": len({label.body_id for label in labels}),
        "camera, frames a second": round(frames / (60 * minutes), 1),
        "labels a second": round(len(labels) / (60 * minutes), 1),
        "latency p95, s": round(_p95(labels), 2),
        "latency p95 of the first half, s": round(_p95(halves[0]), 2),
        "latency p95 of the last half, s": round(_p95(halves[1]), 2),
    }
    total.check(growth_mb=GROWTH_MB)
    total.require(_p95(halves[1]) < 1.5 * _p95(halves[0]), "latency grew")
    total.require(not tracebacks, f"{tracebacks} tracebacks")
    return [*outcomes, total]


def _halves(labels: Sequence[Label], warm_s: float) -> tuple[list[Label], list[Label]]:
    """Return the labels of the first and of the second half of the time from `warm_s` after the first label on."""
    begin_ns, end_ns = labels[0].received_ns + round(warm_s * NANOSECONDS), labels[-1].received_ns
    middle_ns = (begin_ns + end_ns) // 2
    first = [label for label in labels if begin_ns <= label.received_ns < middle_ns]
    return first, [label for label in labels if label.received_ns >= middle_ns]


def _sample(pid: int | None) -> Sample:
    process = psutil.Process(pid)
    return Sample(private_mb(process.pid), process.num_threads(), process.num_fds())


def _flat(name: str, samples: list[Sample], minutes: float) -> Outcome:
    """Compare the first and the last tenth of the samples."""
    tenth = max(1, len(samples) // 10)
    first, last = (np.median(np.array(part), axis=0) for part in (samples[:tenth], samples[-tenth:]))
    outcome = Outcome("soak", name, len(samples), growth_mb=float(last[0] - first[0]))
    outcome.figures = {
        "minutes": minutes, "memory, MB": round(float(last[0]), 1),
        "threads more": int(last[1] - first[1]), "descriptors more": int(last[2] - first[2]),
    }  # fmt: skip
    outcome.check(growth_mb=GROWTH_MB)
    for what in ("threads more", "descriptors more"):
        outcome.require(outcome.figures[what] <= 0, f"{outcome.figures[what]} {what}")
    return outcome


def _p95(labels: Sequence[Label]) -> float:
    return percentile([label.age_s for label in labels], 0.95)


def _soak_recognizer(hours: float) -> Outcome:
    """Let a recognizer label people who come and go, as fast as it can; each has a new id when they come again."""
    joints = performances(SCRIPT_S).astype(np.float32)
    recognizer = ActionRecognizer(inference.load(zoo.DEFAULT), interval_s=1.0)
    pixels, scores = np.zeros((25, 2), np.float32), np.ones(25, np.float32)
    present = np.asarray(np.isfinite(joints).any(axis=(2, 3)))
    frames, people, labels, memory = round(hours * 3600 * SCRIPT_FPS), 0, 0, [0.0]
    ids, began, warm = [""] * PEOPLE, time.monotonic(), frames // 10
    for k in range(frames):
        t, bodies = k % joints.shape[1], []
        for m in range(PEOPLE):
            if not present[m, t]:
                ids[m] = ""
                continue
            if not ids[m]:
                people, ids[m] = people + 1, f"body_{people + 1}"
            bodies.append(Body(ids[m], "kinect_v2_25", joints[m, t], pixels, scores))
        recognizer.add_skeletons(10**18 + k * NANOSECONDS // SCRIPT_FPS, bodies)
        labels += len(recognizer.predict())
        recognizer.events()
        if k >= warm and k % (60 * SCRIPT_FPS) == 0:
            memory.append(private_mb(os.getpid()))
    outcome = Outcome("soak", f"recognizer alone, {hours:g} h of simulated time", frames)
    outcome.growth_mb = memory[-1] - memory[min(1, len(memory) - 1)]
    speed = hours * 3600 / (time.monotonic() - began)
    outcome.figures = {"people": people, "labels": labels, "times real time": round(speed)}
    outcome.check(growth_mb=GROWTH_MB)
    return outcome


def load(minutes: int, only: Sequence[str] = ()) -> list[Outcome]:
    """Run all nodes alone, then beside `BUSY` processes that each want a whole core, each for minutes."""
    outcomes = []
    with running(NODES, *camera_arguments()) as graph:
        graph.settle(10.0)
        for name in chosen(only, ("alone", f"{BUSY} busy processes")):
            with contextlib.ExitStack() as stack:
                for _ in range(BUSY if name != "alone" else 0):
                    command = [sys.executable, "-c", "while True: pass"]
                    busy = stack.enter_context(subprocess.Popen(command))
                    stack.callback(busy.kill)
                outcomes.append(_under_load(graph, name, 60.0 * minutes))
    return outcomes


def _under_load(graph: LiveGraph, name: str, seconds: float) -> Outcome:
    outcome, count = Outcome("load", name, 1), len(graph.monitor.labels)
    graph.settle(seconds)
    labels = graph.monitor.labels_since(count)
    outcome.add_labels(labels)
    frames = len({label.stamp_ns for label in labels})
    outcome.figures = {"labeled frames a second": round(frames / seconds, 1), "latency p95, s": round(_p95(labels), 2)}
    outcome.check()
    outcome.require(bool(labels), "no labels")
    outcome.require(not labels or _p95(labels) < LATENCY_S, f"latency p95 {_p95(labels):.2f} s")
    return outcome
