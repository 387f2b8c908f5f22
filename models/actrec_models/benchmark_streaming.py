"""`actrec bench streaming`: a step against the window it stands for, in multiply-adds, milliseconds and logits."""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import torch

from actrec.cli import Parser
from actrec.cli.arguments import count
from actrec.inference.streaming import StreamingSession
from actrec.threads import usable_cores
from actrec_models import onnx_graph, streaming_graph
from actrec_models.complexity import complexity
from actrec_models.networks.base import Network
from actrec_models.networks.streaming import Step
from actrec_models.registry import create

BODY_AND_BONES = ("body", "bones")
FORMS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("sem_net as published, causal", "sem_net", {"causal": True}),
    ("sem_net, causal, M 1", "sem_net", {"causal": True, "bodies": 1}),
    (
        "deepacts_graph as published, T 60 (padded, so that the step's logits are others)",
        "deepacts_graph",
        {"modalities": BODY_AND_BONES},
    ),
    (
        "deepacts_graph, no padding, T 213",
        "deepacts_graph",
        {"modalities": BODY_AND_BONES, "padding": "none", "frames": 213},
    ),
    (
        "deepacts_graph, kernel 3, no padding",
        "deepacts_graph",
        {"modalities": BODY_AND_BONES, "padding": "none", "kernel": 3},
    ),
)
"""What it is called, the network, and its options."""


def measure(arguments: list[str]) -> dict[str, Any]:
    """A table with a row a network."""
    parser = Parser(prog="actrec bench streaming", description=__doc__)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of ONNX Runtime (default: 2)")
    parser.add_argument("--runs", type=count, default=30, help="runs that the median is of (default: 30)")
    parser.add_argument(
        "--cpu-time", action="store_true", help="CPU time instead of elapsed: on a machine that is busy"
    )
    options = parser.parse_args(arguments)
    clock = time.process_time if options.cpu_time else time.perf_counter
    rows = [_row(name, create(network, num_classes=60, **o), options, clock) for name, network, o in FORMS]
    return {"threads": options.threads, "cores": usable_cores(), "streaming": rows}


def _row(name: str, network: Network, options: argparse.Namespace, clock: Callable[[], float]) -> dict[str, Any]:
    _settle(network)
    step = Step(network)
    window_adds = complexity(network).multiply_adds
    step_adds = complexity(step, step.example_inputs).multiply_adds
    session = StreamingSession(streaming_graph.to_onnx(network), threads=options.threads)
    run = _window_session(onnx_graph.to_onnx(network), options.threads)
    rng = np.random.default_rng(1)
    clip = {spec.name: rng.standard_normal((1, *spec.shape)).astype(np.float32) for spec in network.input_specs}
    expected = run(clip)
    for t in range(network.config.frames):
        frame = {key: value[:, :, :, t : t + 1] for key, value in clip.items()}
        logits = session.step(frame)
    window_ms = _median_ms(lambda: run(clip), options.runs, clock)
    step_ms = _median_ms(lambda: session.step(frame), 5 * options.runs, clock)
    return {
        "network": name,
        "T": network.config.frames,
        "window MMACs": window_adds / 1e6,
        "step MMACs": step_adds / 1e6,
        "MACs, window / step": window_adds / step_adds,
        "window ms": window_ms,
        "step ms": step_ms,
        "ms, window / step": window_ms / step_ms,
        "largest difference of logits": float(np.abs(logits - expected).max()),
        "largest logit": float(np.abs(expected).max()),
    }


def _settle(network: Network) -> None:
    """Gives the normalisation layers statistics, as training would: otherwise activations grow from layer to layer."""
    torch.manual_seed(1)
    network.train()
    with torch.no_grad():
        for _ in range(4):
            network(**{s.name: torch.randn(2, *s.shape) for s in network.input_specs})
    network.eval()


def _window_session(content: bytes, threads: int) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda clip: session.run(None, clip)[0]


def _median_ms(run: Callable[[], Any], count: int, clock: Callable[[], float]) -> float:
    for _ in range(5):
        run()
    taken = []
    for _ in range(count):
        start = clock()
        run()
        taken.append(clock() - start)
    return float(np.median(taken)) * 1e3
