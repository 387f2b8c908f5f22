"""`actrec bench networks`: size, time and memory of every network as published."""

import argparse
import copy
import os
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

from actrec.cli import Parser, count
from actrec.utils import config
from actrec_models.export import onnx_graph
from actrec_models.networks import NETWORKS, create, list_models
from benchmarks import in_process


@dataclass(frozen=True)
class Complexity:
    """Trainable parameters of a network, and multiply-adds of one forward pass."""

    parameters: int
    multiply_adds: int


def complexity(network: nn.Module, inputs: dict[str, Tensor] | None = None) -> Complexity:
    """Count the parameters and multiply-adds of a network for batch 1, on the `meta` device, without computing.

    Convolutions, linear layers, matrix products and those inside recurrent layers count; biases, normalization,
    activation, softmax and pooling do not, as in the papers' figures.

    Args:
        network: Is not changed.
        inputs: By name, of which only shapes count; None for one clip by the network's `input_specs`.
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
    """Adds up the multiply-adds of the executed operators."""

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
        # Each output value (input value, if transposed) takes one kernel: channels of its group × positions.
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

_FURTHER = ("sem_net:frames=64",)
"""Measured in addition to every network at its published size."""


def networks(arguments: list[str]) -> dict[str, Any]:
    """Measure size, time and memory of each network in processes of its own, and compare ONNX Runtime with PyTorch."""
    parser = Parser(
        prog="actrec bench networks",
        description="Every network at its published size, with random weights, in processes of its own.",
        epilog="Example:\n  actrec bench networks --models sem_net,spa_net_4d --runs 10",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", help="names separated by commas, with options as name:key=value;key=value")
    parser.add_argument("--runs", type=count, default=30, help="measured runs, after three others (default: 30)")
    parser.add_argument("--threads", type=int, default=2, help="of ONNX Runtime (default: 2)")
    args = parser.parse_args(arguments)
    wanted = args.models.split(",") if args.models else [*list_models(), *_FURTHER]
    for entry in wanted:
        _read(entry)  # report a wrong name before hours of work
    rows = []
    for number, entry in enumerate(wanted, start=1):
        print(f"[{number}/{len(wanted)}] {entry}", file=sys.stderr, flush=True)
        rows.append(_row(entry, args.runs, args.threads))
    return {"runs": args.runs, "threads": args.threads, "cores": os.cpu_count(), "networks": rows}


def _read(entry: str) -> tuple[str, dict[str, Any]]:
    name, _, options = entry.partition(":")
    NETWORKS.get(name)
    return name, config.parse_pairs(filter(None, options.split(";")), "network option")


def _row(entry: str, runs: int, threads: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        prepared = in_process("benchmarks.networks:prepare", entry, scratch)
        files = f"{scratch}/model.onnx", f"{scratch}/inputs.npz"
        timed = in_process("benchmarks:time_graph", *files, runs, threads)
    clips = prepared["clips"]
    return {
        "network": entry,
        "parameters_m": prepared["parameters"] / 1e6,
        "multiply_adds_g": prepared["multiply_adds"] / 1e9,
        "frames": prepared["frames"],
        "clips": clips,
        "ms_a_clip": timed["ms"],
        "ms_a_window": timed["ms"] * clips,
        "peak_mb": timed["peak_mb"],
        "parity": prepared["parity"],
    }


def prepare(entry: str, folder: str) -> dict[str, Any]:
    """Write `model.onnx` and `inputs.npz` of one clip, and return the figures known before the network runs.

    Raises:
        PackageError: TensorRT would not parse the graph.
    """
    name, options = _read(entry)
    torch.manual_seed(1)
    network = create(name, num_classes=CLASSES, **options)
    size = complexity(network)
    content = onnx_graph.trace(network)
    onnx_graph.check_operators(network, content)
    (parity,) = onnx_graph.parity_errors(network, content, [1])
    Path(folder, "model.onnx").write_bytes(content)
    inputs = onnx_graph.example_inputs(network, 1)
    arrays: dict[str, Any] = {name: value.numpy() for name, value in inputs.items()}
    np.savez(Path(folder, "inputs.npz"), **arrays)
    return {
        "parameters": size.parameters,
        "multiply_adds": size.multiply_adds,
        "frames": network.window.clip_frames,
        "clips": len(network.window.starts),
        "parity": parity,
    }
