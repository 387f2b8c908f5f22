"""`actrec bench NAME`: run a benchmark of the checkout's folder `benchmarks`.

A benchmark is a function that takes its arguments as a list and returns a dictionary of figures; a list of dictionaries
in it is printed as a table. It prints progress to stderr only.
"""

import argparse
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import actrec
from actrec.utils.errors import ActrecError, ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("name", nargs="?", help="name of the benchmark; without it all are listed")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="the benchmark's own arguments (try --help)")
    parser.epilog = "Example:\n  actrec bench\n  actrec bench transport --json"


def run(args: argparse.Namespace) -> int:
    """Run one benchmark and print its figures."""
    benchmarks = _import_benchmarks()
    known = benchmarks.BENCHMARKS
    if args.name is None and args.json:
        print(json.dumps({name: what for name, (_, what) in known.items()}, indent=2))
        return 0
    if args.name is None:
        print("Benchmarks (actrec bench NAME --help explains one):")
        for name, (_, what) in known.items():
            print(f"  {name:<{max(map(len, known))}}  {what}")
        return 0
    if args.name not in known:
        raise ConfigError(f"unknown benchmark '{args.name}'; known: {', '.join(sorted(known))}")
    module, function = known[args.name][0].split(":")
    own = [argument for argument in args.arguments if argument != "--json"]
    figures = getattr(importlib.import_module(module), function)(own)
    as_json = args.json or "--json" in args.arguments
    print(json.dumps(figures, indent=2) if as_json else benchmarks.markdown(args.name, figures))
    return 0


def _import_benchmarks() -> Any:
    """Import the checkout's benchmarks, for child processes too; raise ActrecError if they are not installed."""
    root = Path(actrec.__file__).resolve().parents[1]
    if not (root / "benchmarks").is_dir():
        raise ActrecError("benchmarks are not installed with actrec: run them in a checkout of its repository")
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")]))
    return importlib.import_module("benchmarks")
