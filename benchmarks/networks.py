"""`actrec bench networks`, `streaming` and `streaming-accuracy`: networks as windows and frame by frame."""

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from actrec import datasets
from actrec.cli import Parser, count
from actrec.datasets.base import Clip, ClipDataset
from actrec.features import inputs as features
from actrec.features.skeleton import Normalizer, SkeletonPreprocessing, stack
from actrec.inference import package
from actrec.inference.onnxruntime_backend import StreamingSession
from actrec.skeleton import layouts
from actrec.utils import config, usable_cores
from actrec.utils.errors import InputError, PackageError
from actrec_models.data import augmentation
from actrec_models.export import onnx_graph
from actrec_models.networks import NETWORKS, create, list_models
from actrec_models.networks.base import Network
from actrec_models.networks.streaming import Step
from actrec_models.training import checkpoints


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
        prepared = _child("benchmarks.networks", entry, scratch)
        graph, examples = Path(scratch, "model.onnx"), Path(scratch, "inputs.npz")
        options = ["--runs", str(runs), "--threads", str(threads)]
        timed = _child("benchmarks.run_time", str(graph), str(examples), *options)
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
    network = create(name, num_classes=CLASSES, **options)
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
"""Name in the table, network, and its options."""


def streaming(arguments: list[str]) -> dict[str, Any]:
    """Compare a step with its window for each of `FORMS`: multiply-adds, milliseconds and logits."""
    parser = Parser(prog="actrec bench streaming", description="Networks frame by frame against their window forms.")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of ONNX Runtime (default: 2)")
    parser.add_argument("--runs", type=count, default=30, help="runs of each median (default: 30)")
    parser.add_argument(
        "--cpu-time", action="store_true", help="CPU time instead of elapsed: on a machine that is busy"
    )
    options = parser.parse_args(arguments)
    clock = time.process_time if options.cpu_time else time.perf_counter
    rows = [_form(name, create(network, num_classes=60, **o), options, clock) for name, network, o in FORMS]
    return {"threads": options.threads, "cores": usable_cores(), "streaming": rows}


def _form(name: str, network: Network, options: argparse.Namespace, clock: Callable[[], float]) -> dict[str, Any]:
    _settle(network)
    step = Step(network)
    window_adds = complexity(network).multiply_adds
    step_adds = complexity(step, step.example_inputs).multiply_adds
    session = StreamingSession(onnx_graph.step_to_onnx(network), threads=options.threads)
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
    """Give the normalization layers statistics, without which activations grow from layer to layer."""
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


BATCH = 64

Frames = Callable[[Clip], dict[str, np.ndarray]]


def streaming_accuracy(arguments: list[str]) -> dict[str, Any]:
    """Measure top-1 of one network on N-UCLA's test part, by windows and frame by frame."""
    parser = Parser(
        prog="actrec bench streaming-accuracy", description="Accuracy of one network by windows and frame by frame."
    )
    parser.add_argument("model", help="a checkpoint of actrec train, or a model package of a skeleton network")
    parser.add_argument("--data", default="data", help="folder that holds nucla (default: data)")
    options = parser.parse_args(arguments)
    network, seconds = _load(Path(options.model))
    clips = datasets.create("nucla", f"{options.data}/nucla", split="view", part="test")
    labels = np.array([clips[i].label for i in range(len(clips))])
    forms = _Forms(network, seconds, clips)
    predicted = {
        "window": forms.windows(forms.window_frames),
        "step, the window's frames": forms.stream(forms.window_frames),
        "step, the window's frames, normalized as they come": forms.stream(forms.running_frames),
        "window, another action before": forms.windows(forms.continued_window),
        "step, another action before, normalized as they come": forms.stream(forms.continued_frames),
    }
    rows = [
        {
            "form": name,
            "top-1, %": 100 * float((p == labels).mean()),
            "as the window, %": 100 * float((p == predicted["window"]).mean()),
        }
        for name, p in predicted.items()
    ]
    return {"model": options.model, "test clips": len(labels), "accuracy": rows}


def _load(path: Path) -> tuple[Network, float]:
    """Return a network in evaluation mode, and the seconds of its window."""
    if path.is_file():
        recipe, _, network = checkpoints.load_checkpoint(path)
        return network, recipe.window(network).seconds
    found = package.load(path)
    options: dict[str, Any] = {"modalities": [spec.modality for spec in found.inputs]}
    weights = safetensors.torch.load_file(found.path / package.WEIGHTS)
    width = next(value for name, value in weights.items() if name.endswith("blocks.0.spatial.weight.bias")).numel() // 3
    network = create(found.family, num_classes=len(found.labels), frames=found.window.frames, width=width, **options)
    network.load_state_dict(weights)
    return network.eval(), found.window.seconds


class _Forms:
    """The predictions of a network on the test clips, by windows and frame by frame."""

    def __init__(self, network: Network, seconds: float, clips: ClipDataset):
        self.network, self.seconds, self.clips = network, seconds, clips
        self.specs = network.input_specs
        self.frames, self.bodies = self.specs[0].shape[2], self.specs[0].shape[0]
        self.options = config.build(SkeletonPreprocessing, self.specs[0].preprocessing)
        self._index = {clips[i].name: i for i in range(len(clips))}
        self.session = StreamingSession(onnx_graph.step_to_onnx(network), batch=BATCH)

    def windows(self, frames: Frames) -> np.ndarray:
        """Return the classes of the window form."""
        found: list[int] = []
        for batch in self._batches():
            clip = self._stacked([frames(clip) for clip in batch])
            with torch.no_grad():
                logits = self.network(**{name: torch.from_numpy(value) for name, value in clip.items()})
            found += logits.argmax(dim=1).tolist()
        return np.array(found)

    def stream(self, frames: Frames) -> np.ndarray:
        """Return the classes after the last frame of `frames(clip)`: input name to (M, 3, T, V)."""
        found: list[int] = []
        for batch in self._batches():
            made = [frames(clip) for clip in batch]
            made += made[-1:] * (BATCH - len(made))
            clip = self._stacked(made)
            self.session.reset()
            for t in range(clip[self.specs[0].name].shape[3]):
                logits = self.session.step({name: value[:, :, :, t : t + 1] for name, value in clip.items()})
            found += logits.argmax(axis=1)[: len(batch)].tolist()
        return np.array(found)

    def window_frames(self, clip: Clip) -> dict[str, np.ndarray]:
        """Return the inputs of the clip's window."""
        return features({"bodies": clip.window(self.seconds, self.frames)[: self.bodies]}, self.specs)

    def running_frames(self, clip: Clip) -> dict[str, np.ndarray]:
        """Return the window's frames, each normalized by the frames up to it."""
        return self._running(clip.window(self.seconds, self.frames)[: self.bodies])

    def continued_frames(self, clip: Clip) -> dict[str, np.ndarray]:
        """Return the time of two windows that ends with the clip, after another clip, normalized frame by frame."""
        return self._running(self._continued(clip))

    def continued_window(self, clip: Clip) -> dict[str, np.ndarray]:
        """Return the last window of that time, normalized as a whole."""
        return features({"bodies": self._continued(clip)[:, -self.frames :]}, self.specs)

    def _continued(self, clip: Clip) -> np.ndarray:
        before = self.clips[(self._index[clip.name] + len(self.clips) // 2) % len(self.clips)]
        joined = augmentation.follow(before, clip, np.random.default_rng(1))
        return joined.window(2 * self.seconds, 2 * self.frames)[: self.bodies]

    def _stacked(self, made: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return {spec.name: np.stack([m[spec.name] for m in made]) for spec in self.specs}

    def _running(self, bodies: np.ndarray) -> dict[str, np.ndarray]:
        normalizer = RunningNormalizer(self.frames, self.options)
        joints = np.stack([normalizer.step(bodies[:, t]) for t in range(bodies.shape[1])], axis=1)
        return {spec.name: stack(joints, spec.modality) for spec in self.specs}

    def _batches(self) -> Iterator[list[Clip]]:
        for start in range(0, len(self.clips), BATCH):
            yield [self.clips[i] for i in range(start, min(start + BATCH, len(self.clips)))]


class RunningNormalizer:
    """Streaming counterpart of `normalize` with `placing` "running": one frame at a time.

    A window is normalized by all of its frames; a stream cannot change earlier frames. Each frame keeps the placement
    estimated from the last `frames` frames, itself included.

    Args:
        frames: T of the network's window.
        options: As for `normalize`.
        layout: Joint layout.
    """

    def __init__(self, frames: int, options: SkeletonPreprocessing, layout: str = "kinect_v2_25"):
        self.options, self.layout = options, layout
        self._history: deque[np.ndarray] = deque(maxlen=frames)

    def step(self, bodies: np.ndarray) -> np.ndarray:
        """Normalize one frame's joints.

        Args:
            bodies: [M, V, 3] m in the optical frame, NaN for missing; body 0 defines the placement.

        Returns:
            [M, V, 3] float32 without NaN.

        Raises:
            InputError: Wrong shape.
        """
        bodies = np.asarray(bodies, dtype=np.float32)
        joints = len(layouts.get(self.layout))
        if bodies.ndim != 3 or bodies.shape[1:] != (joints, 3):
            raise InputError(f"a frame's bodies are {list(bodies.shape)}, expected [M, {joints}, 3] ({self.layout})")
        self._history.append(bodies[0].copy())  # the caller may reuse its buffer
        return Normalizer.fit(np.stack(self._history), self.options, self.layout).apply(bodies, self.layout)


if __name__ == "__main__":
    print(json.dumps(prepare(sys.argv[1], Path(sys.argv[2]))))
