"""`actrec bench faults`: deaths, cables, wrong input, load and broken surroundings, each many times, in figures.

Each campaign runs the graph as a user does, breaks something, and measures the time until labels of new frames come
again, and the age of the labels meanwhile. It uses a ROS domain of its own and ends only processes that it started.
"""

import argparse
import csv
import importlib
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from actrec.cli import Parser, amount, count, names
from actrec.utils.errors import ActrecError, ConfigError

CAMPAIGNS: dict[str, tuple[str, int, str]] = {
    "kill": ("deaths:kill", 50, "SIGKILL of each node"),
    "kill_launched": ("deaths:kill_launched", 10, "the same under ros2 launch"),
    "kill_graph": ("deaths:kill_graph", 20, "SIGKILL of all processes, under systemd"),
    "replug": (
        "replug:replug",
        100,
        "a software RealSense and a simulated Azure Kinect unplugged and plugged in again",
    ),
    "stop": ("deaths:stop", 20, "SIGSTOP of each node for 10 s"),
    "stop_unwatched": ("deaths:stop_unwatched", 20, "the same without the supervisor that replaces silent nodes"),
    "messages": ("messages:storm", 10_000, "malformed messages on each subscribed topic"),
    "files": ("files:read_mutated", 2000, "mutated files for each reader"),
    "soak": ("endurance:soak", 120, "all nodes for minutes, with people who come and go"),
    "environment": ("environment:break_all", 3, "full and read-only disks, clock set, network down, model removed"),
    "load": ("endurance:load", 2, "the graph alone and beside four busy processes, for minutes each"),
}
"""Function in this package, its number of times (messages, files, minutes), and a description, by name."""

GROUPS = {"malformed": ("messages", "files")}

EPILOG = """\
Examples:
  actrec bench faults --campaigns kill,stop --times 2
  actrec bench faults --campaigns malformed --scale 0.1
  actrec bench faults --csv faults.csv
"""


def measure(arguments: list[str]) -> dict[str, Any]:
    """Run the campaigns; return a table with a line for each node, topic, reader or fault."""
    parser = Parser("actrec bench faults", description=__doc__, epilog=EPILOG)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    listed = ", ".join(f"{name} ({times}: {what})" for name, (_, times, what) in CAMPAIGNS.items())
    add = parser.add_argument
    default = ",".join(name for name in CAMPAIGNS if name != "kill_launched" or shutil.which("ros2"))
    add("--campaigns", metavar="NAMES", default=default, help=f"comma-separated, of {listed}; malformed")
    add("--times", type=count, help="of each fault, instead of the campaign's number in parentheses")
    add("--scale", type=amount, default=1.0, help="factor on these numbers (default: %(default)s)")
    add("--only", metavar="NAMES", default="", help="nodes, topics, readers or faults, comma-separated (default: all)")
    add("--domain", type=int, help="ROS domain (default: a random one)")
    add("--csv", type=Path, metavar="FILE", help="also write the figures as benchmarks/results has them")
    options = parser.parse_args(arguments)
    chosen = [each for name in names(options.campaigns) for each in GROUPS.get(name, (name,))]
    if unknown := [name for name in chosen if name not in CAMPAIGNS]:
        raise ConfigError(f"unknown campaign '{unknown[0]}'; known: {', '.join([*CAMPAIGNS, *GROUPS])}")
    # Modules of ROS nodes are imported after the domain is chosen, and only the ones of the chosen campaigns.
    importlib.import_module("benchmarks.faults.live_graph").choose_domain(options.domain)
    outcomes, rows = [], []
    failed: dict[str, str] = {}
    for name in chosen:
        target, times, _ = CAMPAIGNS[name]
        began, number = time.monotonic(), options.times or max(1, round(times * options.scale))
        print(f"{name}: {number} times …", file=sys.stderr, flush=True)
        module, function = target.split(":")
        try:
            run: Callable[..., Any] = getattr(importlib.import_module(f"benchmarks.faults.{module}"), function)
            done = run(number, names(options.only))
        except (ActrecError, ImportError) as error:  # the other campaigns' hours are not lost
            failed[f"{name}_error"] = str(error)
            print(f"{name}: {error}", file=sys.stderr, flush=True)
            continue
        outcomes += done
        rows += [outcome.row() for outcome in done]
        for row in rows[-len(done) :]:
            print(f"  {row['subject']}: {row['result']}", file=sys.stderr, flush=True)
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        if options.csv is not None:
            _write_csv(options.csv, outcomes, shlex.join(["actrec", "bench", "faults", *arguments]))
    if failed and not rows:
        raise ConfigError("; ".join(failed.values()))
    return {"faults": rows, "missed": sum(bool(outcome.faults) for outcome in outcomes), **failed}


def _write_csv(path: Path, outcomes: list[Any], command: str) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["figure", "value", "unit", "command", "commit", "machine", "note"])
        for outcome in outcomes:
            for name, value, unit, note in outcome.measurements():
                writer.writerow([f"{outcome.campaign}, {outcome.subject}: {name}", value, unit, command, "", "", note])
