"""Campaigns in which processes die or stop: SIGKILL of a node and of the whole graph, SIGSTOP of a node."""

import contextlib
import math
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator, Sequence

from actrec.utils.errors import DeviceError
from actrec_nodes.bringup.supervisor import HEALTHY_S
from benchmarks.faults.live_graph import (
    LiveGraph,
    camera_arguments,
    launch_command,
    private_mb,
    run_command,
    running,
)
from benchmarks.faults.outcome import Outcome, chosen
from benchmarks.faults.service import Emulation, Service, Systemd

NODES = ("camera_node", "skeleton_node", "hand_node", "face_node", "scene_flow_node", "recognizer_node")
LOST_S = 60.0  # labels that are not back by then are lost
WARM_S = 15.0  # until the memory of the nodes no longer grows
AFTER_S = 2.0  # time that a graph works between two faults; its labels are checked too
ACTION_S = 6.0  # time in which a person performs an action, and it is labeled

KILL_MAX_S, KILL_P95_S, GRAPH_MAX_S, STOP_MAX_S = 5.0, 3.0, 15.0, 5.0
STOPPED_S = 10.0
GROWTH_MB = 50.0  # of the second half: in the first stops, nodes subscribe in another participant once each
STATISTICS_S = 1.5  # time for the statistics of each second to arrive
QUEUE = 1000  # messages: the recognizer's subscription of skeletons, which holds half a minute


def kill(times: int, only: Sequence[str] = ()) -> list[Outcome]:
    """Kill each node `times` times with SIGKILL, at random moments, while all run in processes of their own.

    The nodes take turns, and the new process of each has run for `HEALTHY_S` before it is killed again: a supervisor
    waits longer and longer before it starts a process that dies sooner.
    """
    return _kill("kill", times, only, run_command(NODES, *camera_arguments()))


def kill_launched(times: int, only: Sequence[str] = ()) -> list[Outcome]:
    """Do the same with `ros2 launch actrec recognize.launch.py`, which must be there: see CONTRIBUTING.md."""
    if shutil.which("ros2") is None:
        raise DeviceError("the campaign kill_launched needs ros2 launch: source a distribution and a built workspace")
    return _kill("kill_launched", times, only, launch_command(NODES))


def _kill(campaign: str, times: int, only: Sequence[str], command: list[str]) -> list[Outcome]:
    outcomes = {name: Outcome(campaign, name) for name in chosen(only, NODES)}
    with running(NODES, command=command) as graph:
        for name in _turns(graph, list(outcomes), times):
            _strike(graph, outcomes[name])
        tracebacks = graph.tracebacks()
    for outcome in outcomes.values():
        outcome.check(KILL_MAX_S, KILL_P95_S)
        outcome.require(not tracebacks, f"{tracebacks} tracebacks")
    return list(outcomes.values())


def _turns(graph: LiveGraph, names: list[str], times: int) -> Iterator[str]:
    """Yield each name `times` times, in turns, at random moments and once the node is back for `HEALTHY_S`."""
    moments, back = random.Random(0), dict.fromkeys(names, -math.inf)
    for name in names * times:
        healthy_s = back[name] + HEALTHY_S - time.monotonic()
        graph.settle(max(AFTER_S, healthy_s) + moments.random())
        yield name
        back[name] = time.monotonic()


def stop(times: int, only: Sequence[str] = ()) -> list[Outcome]:
    """Stop each node with SIGSTOP for `STOPPED_S`, `times` times, and continue it, while all run as users run them.

    The nodes take turns as in `kill`. `actrec run` replaces a node that answers no more: labels of later frames
    than SIGCONT are waited for, and all are checked. After each stop the longest queue of all nodes is read.
    """
    figures = {"longest queue": 0, "processes replaced": 0}
    outcomes = {name: Outcome("stop", name, figures=dict(figures)) for name in chosen(only, NODES)}
    with running(NODES, *camera_arguments()) as graph:
        for name in _turns(graph, list(outcomes), times):
            pids, before = {each: graph.pid(each) for each in NODES}, _queues(graph)
            _strike(graph, outcomes[name], STOPPED_S)
            figures = outcomes[name].figures
            graph.settle(STATISTICS_S)
            ended = [each for each in NODES if pids[each] != graph.pid(each)]
            # A node's longest queue is since its start.
            queues = [most for each, most in _queues(graph).items() if each in ended or most > before[each]]
            figures["longest queue"] = max([figures["longest queue"], *queues])
            figures["processes replaced"] += len(ended)
        tracebacks = graph.tracebacks()
    for outcome in outcomes.values():
        outcome.check(STOP_MAX_S)
        outcome.require(outcome.figures["longest queue"] <= QUEUE, f"queue of {outcome.figures['longest queue']}")
        outcome.require(not tracebacks, f"{tracebacks} tracebacks")
    return list(outcomes.values())


def stop_unwatched(times: int, only: Sequence[str] = ()) -> list[Outcome]:
    """Do the same, each node in a graph of its own that leaves nodes which answer no more: SIGCONT is measured.

    A process that is replaced nevertheless is counted: one that waits for a lock in shared memory, which the stopped
    one holds, ends itself. The memory of the processes that lived through the second half of the stops must not grow in
    it.
    """
    return [_stop(name, times) for name in chosen(only, NODES)]


def _stop(name: str, times: int) -> Outcome:
    outcome, moments, queue = Outcome("stop_unwatched", name), random.Random(0), 0
    with running(NODES, command=run_command(NODES, *camera_arguments(), watched=False)) as graph:
        graph.settle(WARM_S)
        warm, pids, replaced = _memory(graph), {each: graph.pid(each) for each in NODES}, 0
        half = warm
        for number in range(times):
            half = _memory(graph) if number == times // 2 else half
            graph.settle(moments.random())
            _strike(graph, outcome, STOPPED_S)
            pids, earlier = {each: graph.pid(each) for each in NODES}, pids
            replaced += sum(pids[each] != earlier[each] for each in NODES)
            graph.settle(STATISTICS_S)
            queue = max([queue, *_queues(graph).values()])
        last = _memory(graph)
        outcome.growth_mb = sum(last[pid] - half[pid] for pid in last.keys() & half.keys())
        tracebacks = graph.tracebacks()
    outcome.figures |= {"longest queue": queue, "processes replaced": replaced}
    outcome.figures |= {
        f"memory at {when}, MB": round(sum(memory.values()), 1) for when, memory in (("first", warm), ("last", last))
    }
    outcome.check(STOP_MAX_S, growth_mb=GROWTH_MB if times > 2 else math.inf)
    outcome.require(queue <= QUEUE, f"queue of {queue}")
    outcome.require(not tracebacks, f"{tracebacks} tracebacks")
    return outcome


def _queues(graph: LiveGraph) -> dict[str, int]:
    """Return the most inputs that were in the queue of each node at once, by its last statistics."""
    return {each: int(graph.monitor.statistics(each).get("queue_max", 0)) for each in NODES}


def _memory(graph: LiveGraph) -> dict[int, float]:
    """Return the memory of the process of each node, MB by process id."""
    return {pid: private_mb(pid) for name in NODES if (pid := graph.pid(name)) is not None}


def _strike(graph: LiveGraph, outcome: Outcome, stopped_s: float = 0.0) -> None:
    """Kill a node, or stop it for a time; wait for its output and labels of later frames; check all labels."""
    name, count = outcome.subject, len(graph.monitor.labels)
    pid = graph.signal(name, signal.SIGSTOP if stopped_s else signal.SIGKILL)
    if stopped_s:
        time.sleep(stopped_s)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    outcome.add(graph.wait_for_output(name, time.time_ns(), LOST_S))
    graph.settle(AFTER_S)
    outcome.add_labels(graph.monitor.labels_since(count))


def kill_graph(times: int, only: Sequence[str] = ()) -> list[Outcome]:
    """Kill all processes of the graph at once, `times` times, under systemd, or under a stand-in if it cannot run."""
    problem = Systemd.problem()
    where = f"without systemd: {problem}" if problem else "under systemd"
    outcome = Outcome("kill_graph", "all nodes", note=f"{where}, by actrec run --processes instead of ros2 launch")
    kind = Emulation if problem else Service
    with running(NODES, command=run_command(NODES, *camera_arguments()), kind=kind) as graph:
        for _ in range(times):
            graph.settle(AFTER_S)
            count = len(graph.monitor.labels)
            graph.kill()
            since_ns = time.time_ns()
            outcome.add(graph.wait_for_output("recognizer_node", since_ns, LOST_S))
            graph.settle(ACTION_S)
            outcome.add_labels(graph.monitor.labels_since(count))
    outcome.check(GRAPH_MAX_S)
    return [outcome]
