"""`actrec bench training`: clips a second that each network learns from, with and without the reading of clips."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from actrec.cli import Parser
from actrec.cli.arguments import amount, count
from actrec.utils.errors import PackageError
from actrec_models import registry
from actrec_models.training import provenance
from actrec_models.training.trainer import Machine
from benchmarks import pages
from benchmarks.training_steps import recipe_of

PAGE = Path("docs/benchmarks.md")


def measure(arguments: list[str]) -> dict[str, Any]:
    """Step as `actrec train` makes them, of each network at its paper's size, in processes of their own."""
    args = _parser().parse_args(arguments)
    wanted = args.networks.split(",") if args.networks else registry.list_models()
    for entry in wanted:
        recipe_of(entry)  # report a wrong name before minutes of work
    if args.write is not None:
        pages.around(args.write, "training")
    device = torch.device("cuda" if Machine(args.device).trainer_options()["accelerator"] == "gpu" else "cpu")
    rows = []
    for number, entry in enumerate(wanted, start=1):
        print(f"[{number}/{len(wanted)}] {entry}", file=sys.stderr, flush=True)
        rows.append(_child(entry, device, args))
    figures = {"device": provenance.device_name(device) if device.type == "cuda" else f"cpu ({args.threads} threads)",
               "cores": os.cpu_count(), "torch": torch.__version__, "networks": rows}  # fmt: skip
    if args.write is not None:
        pages.write(args.write, "training", table(figures))
    return figures


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="actrec bench training", description=measure.__doc__)
    parser.add_argument("--networks", help="names separated by commas, with options as name:key=value;key=value")
    parser.add_argument("--device", choices=("auto", "gpu", "cpu"), default="auto", help="(default: a GPU if present)")
    parser.add_argument("--threads", type=int, default=2, help="on a CPU (default: 2)")
    parser.add_argument("--workers", type=int, help="processes that read clips (default: as `actrec train`)")
    parser.add_argument(
        "--batch", type=count, help="clips a step (default: the recipe's, on a CPU what --seconds allow)"
    )
    parser.add_argument("--seconds", type=amount, default=8.0, help="of each of two measurements (default: 8)")
    parser.add_argument(
        "--write", type=Path, nargs="?", const=PAGE, help=f"put the table between the marks of this page ({PAGE})"
    )
    parser.epilog = "Example:\n  actrec bench training --networks sem_net,spa_net_4d --seconds 5"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    return parser


def _child(entry: str, device: torch.device, args: argparse.Namespace) -> dict[str, Any]:
    """One network in a process of its own, so that its memory is its own."""
    asked = {"threads": args.threads, "workers": args.workers, "batch": args.batch, "seconds": args.seconds}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "benchmarks.training_steps", entry, device.type, json.dumps(asked)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
    if done.returncode:
        raise PackageError(f"measuring {entry} failed (exit status {done.returncode}); see above")
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


# -- the page ----------------------------------------------------------------------------------------------------------


def table(figures: dict[str, Any]) -> str:
    """Format the figures as a markdown table; missing figures are empty."""
    head = ["network", "precision", "batch (recipe's)", "clips/s", "clips/s with reading", "workers",
            "clips/s read by a core"]  # fmt: skip
    gpu = any("gpu_memory_gb" in r for r in figures["networks"])
    head += ["GPU memory", "GPU used", "GPU used with reading"] if gpu else []
    lines = [head, ["---"] * len(head)]
    for r in figures["networks"]:
        line = [f"`{r['network']}`", r["precision"], f"{r['batch']} ({r['recipe_batch']})", f"{r['clips_per_s']:.3g}",
                f"{r['clips_per_s_with_reading']:.3g}", r["workers"], f"{r['read_by_a_core']:.3g}"]  # fmt: skip
        if gpu:
            shares = [r["gpu_used_percent"], r["gpu_used_percent_with_reading"]]
            line += [f"{r['gpu_memory_gb']:.1f} GB", *("" if s is None else f"{s:.0f} %" for s in shares)]
        lines.append(line)
    text = "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)
    return f"{figures['device']}, PyTorch {figures['torch']}\n\n{text}"
