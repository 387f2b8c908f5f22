"""`actrec bench networks`: size, time and memory of every network, and that ONNX Runtime agrees with PyTorch.

Size of a network: its parameters, and the multiply-adds of one forward pass.

Counted on the `meta` device, where shapes flow but nothing is computed: the largest network takes a second and no
memory. What is counted: convolutions, linear layers, matrix products (attention, graph convolution) and the matrix
products inside recurrent layers. What is not: additions of biases, normalization, activation, softmax and pooling, as
in the papers' figures, which give a multiply-add as one operation.
"""

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from actrec.cli import Parser
from actrec.cli.arguments import count
from actrec.utils import config
from actrec.utils.errors import PackageError
from actrec_models import registry
from actrec_models.export import onnx_graph
from benchmarks import pages


@dataclass(frozen=True)
class Complexity:
    """Size of a network.

    Attributes:
        parameters: Trainable numbers.
        multiply_adds: Of one forward pass.
    """

    parameters: int
    multiply_adds: int


def complexity(network: nn.Module, inputs: dict[str, Tensor] | None = None) -> Complexity:
    """Parameters and multiply-adds of `network` for batch 1.

    Args:
        network: Stays as it is.
        inputs: What to call it with, by name; only shapes count. None for one clip by the network's `input_specs`.
    """
    if inputs is None:
        specs: Any = network.input_specs
        inputs = {spec.name: torch.empty(1, *spec.shape, device="meta") for spec in specs}
    shapes_only = _on_meta(network).eval()
    counter = _Counter()
    with torch.no_grad(), torch.device("meta"), counter:
        shapes_only(**{name: value.to("meta") for name, value in inputs.items()})
    return Complexity(sum(p.numel() for p in network.parameters()), counter.multiply_adds)


def _on_meta(network: nn.Module) -> nn.Module:
    """Return a copy whose parameters and buffers have shapes but no values."""
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in network.parameters()}
    memo.update({id(b): b.to("meta") for b in network.buffers()})
    return copy.deepcopy(network, memo)


class _Counter(TorchDispatchMode):
    """Adds up the multiply-adds of the operators that pass."""

    def __init__(self) -> None:
        super().__init__()
        self.multiply_adds = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self.multiply_adds += _multiply_adds(function.overloadpacket, args, result)
        return result


def _multiply_adds(operator: Any, args: Any, result: Any) -> int:
    aten = torch.ops.aten
    if operator is aten.convolution:
        # Each output value (each input value, where transposed) meets one kernel: channels of its group × positions.
        transposed = args[6]
        return (args[0] if transposed else result).numel() * prod(args[1].shape[1:])
    if operator in (aten.mm, aten.bmm, aten.mv):
        return result.numel() * args[0].shape[-1]
    if operator in (aten.addmm, aten.baddbmm, aten.addmv):
        return result.numel() * args[1].shape[-1]
    if operator is aten.dot:
        return args[0].numel()
    return 0


CLASSES = 60

PAGE = Path("docs/networks.md")

_FURTHER = ("sem_net:frames=64",)
"""What is measured beside every network as published."""

STATED = {"sem_net": "4.8 M, 7.4 G (Table 2)"}
"""Parameters and multiply-adds that a network's own paper gives."""

PUBLISHED = (
    {"network": "ST-GCN", "parameters_m": 3.10, "multiply_adds_g": 17.1, "frames": 300, "bodies": 2},
    {"network": "ST-GCN", "parameters_m": 3.10, "multiply_adds_g": 3.65, "frames": 64, "bodies": 2},
    {"network": "CTR-GCN", "parameters_m": 1.45, "multiply_adds_g": 1.94, "frames": 64, "bodies": 2},
)
"""One stream, 60 classes, counted with PyTorch's FLOP counter on the code that the authors published (yysijie/st-gcn,
Uason-Chen/CTR-GCN); papers round them to 3.1 M and 16.3 G, 1.46 M and 1.97 G."""

REFERENCE = (
    {"network": "CTR-GCN", "frames": 64, "bodies": 2, "pytorch_ms": 59.0},
    {"network": "ST-GCN", "frames": 64, "bodies": 2, "pytorch_ms": 28.0},
    {"network": "ST-GCN", "frames": 300, "bodies": 2, "pytorch_ms": 139.0},
)
"""Measured for issue 3, in PyTorch, on two cores."""


def networks(arguments: list[str]) -> dict[str, Any]:
    """Every network at its published size, each in processes of its own."""
    args = _parser().parse_args(arguments)
    wanted = args.models.split(",") if args.models else [*registry.list_models(), *_FURTHER]
    for entry in wanted:
        _read(entry)  # report a wrong name or page before hours of work
    if args.write is not None:
        pages.around(args.write, "networks")
    rows = []
    for number, entry in enumerate(wanted, start=1):
        print(f"[{number}/{len(wanted)}] {entry}", file=sys.stderr, flush=True)
        rows.append(_row(entry, args.runs, args.threads))
    figures = {
        "runs": args.runs,
        "threads": args.threads,
        "cores": os.cpu_count(),
        "networks": rows,
        "published": list(PUBLISHED),
        "reference": list(REFERENCE),
    }
    if args.write is not None:
        pages.write(args.write, "networks", table(figures))
    return figures


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="actrec bench networks", description=networks.__doc__)
    parser.add_argument("--models", help="names separated by commas, with options as name:key=value;key=value")
    parser.add_argument("--runs", type=count, default=30, help="measured runs, after three others (default: 30)")
    parser.add_argument("--threads", type=int, default=2, help="of ONNX Runtime (default: 2)")
    parser.add_argument(
        "--write", type=Path, nargs="?", const=PAGE, help=f"put the table between the marks of this page ({PAGE})"
    )
    parser.epilog = "Example:\n  actrec bench networks --models sem_net,spa_net_4d --runs 10"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    return parser


def _read(entry: str) -> tuple[str, dict[str, Any]]:
    name, _, options = entry.partition(":")
    registry.NETWORKS.get(name)
    return name, config.parse_pairs(filter(None, options.split(";")), "network option")


def _row(entry: str, runs: int, threads: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        prepared = _child("benchmarks.networks", entry, scratch)
        graph, examples = Path(scratch, "model.onnx"), Path(scratch, "inputs.npz")
        options = ["--runs", str(runs), "--threads", str(threads)]
        timed = _child("benchmarks.run_time", str(graph), str(examples), *options)
    clips = prepared["clips"]
    return {
        "network": entry,
        "parameters_m": prepared["parameters"] / 1e6,
        "multiply_adds_g": prepared["multiply_adds"] / 1e9,
        "stated": STATED.get(entry, ""),
        "frames": prepared["frames"],
        "clips": clips,
        "ms_a_clip": timed["ms"],
        "ms_a_window": timed["ms"] * clips,
        "peak_mb": timed["peak_mb"],
        "parity": prepared["parity"],
    }


def _child(module: str, *arguments: str) -> dict[str, Any]:
    """Run a module in a process of its own and read the JSON that it prints."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, text=True, env=environment, check=False
    )
    if done.returncode:
        raise PackageError(f"measuring {arguments[0]} failed (exit status {done.returncode}); see above")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def prepare(entry: str, folder: Path) -> dict[str, Any]:
    """Write `model.onnx` and `inputs.npz` of one clip, and return the figures known before the network runs.

    Raises:
        PackageError: TensorRT would not parse the graph.
    """
    name, options = _read(entry)
    torch.manual_seed(1)
    network = registry.create(name, num_classes=CLASSES, **options)
    size = complexity(network)
    content = onnx_graph.trace(network)
    onnx_graph.check_operators(network, content)
    (parity,) = onnx_graph.parity_errors(network, content, [1])
    (folder / "model.onnx").write_bytes(content)
    inputs = onnx_graph.example_inputs(network, 1)
    np.savez(folder / "inputs.npz", **{name: value.numpy() for name, value in inputs.items()})
    return {
        "parameters": size.parameters,
        "multiply_adds": size.multiply_adds,
        "frames": network.window.clip_frames,
        "clips": len(network.window.starts),
        "parity": parity,
    }


# -- the page ----------------------------------------------------------------------------------------------------------


def table(figures: dict[str, Any]) -> str:
    """Format the figures as a markdown table; missing figures are empty."""
    head = ("network", "parameters", "multiply-adds a clip", "its paper says", "T", "clips", "ms a clip",
            "ms a window", "peak memory", "ONNX against PyTorch")  # fmt: skip
    rows = [
        (f"`{r['network']}`", f"{r['parameters_m']:.1f} M", f"{r['multiply_adds_g']:.2f} G", r["stated"], r["frames"],
         r["clips"], f"{r['ms_a_clip']:.1f}", f"{r['ms_a_window']:.1f}", f"{r['peak_mb']:.0f} MB", f"{r['parity']:.0e}")
        for r in figures["networks"]
    ]  # fmt: skip
    rows += [
        (f"{r['network']} (published)", f"{r['parameters_m']:g} M", f"{r['multiply_adds_g']:g} G", "", r["frames"],
         *[""] * 5)
        for r in figures["published"]
    ]  # fmt: skip
    rows += [
        (f"{r['network']} (PyTorch, M = {r['bodies']})", "", "", "", r["frames"], 1, f"{r['pytorch_ms']:.1f}",
         f"{r['pytorch_ms']:.1f}", "", "")
        for r in figures["reference"]
    ]  # fmt: skip
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


if __name__ == "__main__":
    print(json.dumps(prepare(sys.argv[1], Path(sys.argv[2]))))
