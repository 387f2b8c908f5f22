"""Campaigns in which processes die or stop: SIGKILL of a node and of the whole graph, SIGSTOP of a node."""

import contextlib
import math
import random
import signal
import time
from collections.abc import Sequence

from actrec.types import NANOSECONDS
from actrec_nodes.bringup.supervisor import HEALTHY_S
from benchmarks.faults.live_graph import LiveGraph, camera_arguments, run_command, running
from benchmarks.faults.outcome import Outcome, chosen
from benchmarks.faults.service import Emulation, Service, Systemd

NODES = ("camera_node", "skeleton_node", "hand_node", "face_node", "scene_flow_node", "recognizer_node")
LOST_S = 60.0  # labels that are not back by then are lost
WARM_S = 15.0  # until the memory of the nodes no longer grows
BETWEEN_S = 2.0  # shortest time that a graph works between two faults

KILL_MAX_S, KILL_P95_S, GRAPH_MAX_S, STOP_MAX_S = 5.0, 3.0, 15.0, 5.0
STOPPED_S = 10.0
GROWTH_MB = 50.0  # from the second stop on: at the first, nodes subscribe in another participant
QUEUE = 1000  # messages: the recognizer's subscription of skeletons, which holds half a minute


def kill(times: int, only: Sequence[str] = ()) -> list[Outcome]:
    """Kill each node `times` times with SIGKILL, at random moments, while all run in processes of their own.

    The nodes take turns, and each has run for `HEALTHY_S` before it is killed again: a supervisor waits longer and
    longer before it starts a process that dies sooner.
    """
    names, moments = chosen(only, NODES), random.Random(0)
    outcomes, killed = {name: Outcome("kill", name) for name in names}, dict.fromkeys(names, -math.inf)
    with running(NODES, *camera_arguments()) as graph:
        for name in names * times:
            healthy_s = killed[name] + HEALTHY_S - time.monotonic()
            _strike(graph, outcomes[name], 0.0, max(BETWEEN_S, healthy_s) + moments.random())
            killed[name] = time.monotonic()
        tracebacks = graph.tracebacks()
    for outcome in outcomes.values():
        outcome.check(KILL_MAX_S, KILL_P95_S)
        outcome.require(not tracebacks, f"{tracebacks} tracebacks")
    return list(outcomes.values())


def stop(times: int, only: Sequence[str] = ()) -> list[Outcome]:
    """Stop each node with SIGSTOP for `STOPPED_S`, `times` times, and continue it."""
    outcomes, moments = [], random.Random(0)
    with running(NODES, *camera_arguments()) as graph:
        graph.settle(WARM_S)
        for name in chosen(only, NODES):
            outcome, before = Outcome("stop", name), graph.memory_mb()
            queue = 0
            for number in range(times):
                before = graph.memory_mb() if number == 2 else before
                _strike(graph, outcome, STOPPED_S, BETWEEN_S + moments.random())
                queue = max(queue, *(int(graph.monitor.statistics(each).get("queue", 0)) for each in NODES))
            outcome.growth_mb, outcome.figures["queue"] = graph.memory_mb() - before, queue
            outcome.check(STOP_MAX_S, growth_mb=GROWTH_MB if times > 2 else math.inf)
            outcome.require(queue <= QUEUE, f"queue of {queue}")
            outcomes.append(outcome)
    return outcomes


def _strike(graph: LiveGraph, outcome: Outcome, stopped_s: float, after_s: float) -> None:
    """After a time, kill a node, or stop it for a time; wait for its output and labels of later frames."""
    name = outcome.subject
    graph.settle(after_s)
    count = len(graph.monitor.labels)
    graph.signal(name, signal.SIGSTOP if stopped_s else signal.SIGKILL)
    if stopped_s:
        time.sleep(stopped_s)
        with contextlib.suppress(ProcessLookupError):  # a watchdog may have killed it
            graph.signal(name, signal.SIGCONT)
    since_ns = time.time_ns()
    outcome.add(graph.wait_for_output(name, since_ns, LOST_S))
    outcome.add_labels(graph.monitor.labels_since(count))


def kill_graph(times: int, only: Sequence[str] = ()) -> list[Outcome]:
    """Kill all processes of the graph at once, `times` times, under systemd, or under a stand-in if it cannot run."""
    problem = Systemd.problem()
    outcome = Outcome("kill_graph", "all nodes", note=f"without systemd: {problem}" if problem else "under systemd")
    kind = Emulation if problem else Service
    with running(NODES, command=run_command(NODES, *camera_arguments()), kind=kind) as graph:
        for _ in range(times):
            graph.settle(BETWEEN_S)
            count = len(graph.monitor.labels)
            graph.kill()
            since_ns = time.time_ns()
            came = graph.monitor.wait_for(lambda: graph.monitor.newest_ns("recognizer_node") > since_ns, LOST_S)  # noqa: B023
            outcome.add((time.time_ns() - since_ns) / NANOSECONDS if came else None)
            outcome.add_labels(graph.monitor.labels_since(count))
    outcome.check(GRAPH_MAX_S)
    return [outcome]
