"""`actrec bench streaming`: a step against the window it stands for, in multiply-adds, milliseconds and logits.

`actrec bench streaming-accuracy`: what running frame by frame costs in accuracy, with the same weights.
"""

import argparse
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import safetensors.torch
import torch

from actrec import datasets
from actrec.cli import Parser
from actrec.cli.arguments import count
from actrec.datasets.base import Clip, ClipDataset
from actrec.features import inputs
from actrec.features.skeleton import Normalizer, SkeletonPreprocessing, stack
from actrec.inference import package
from actrec.inference.onnxruntime_backend import StreamingSession
from actrec.skeleton import layouts
from actrec.utils import config, usable_cores
from actrec.utils.errors import InputError
from actrec_models.data import augmentation
from actrec_models.export import onnx_graph
from actrec_models.networks.base import Network
from actrec_models.networks.streaming import Step
from actrec_models.registry import create
from actrec_models.training import checkpoints
from benchmarks.networks import complexity

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
    """Return a table with a row a network."""
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
    """Give the normalization layers statistics, as training would: otherwise activations grow from layer to layer."""
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


def measure_accuracy(arguments: list[str]) -> dict[str, Any]:
    """Top-1 on N-UCLA's test part of one network: by windows, and frame by frame."""
    parser = Parser(prog="actrec bench streaming-accuracy", description=__doc__)
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
    """The ways to put the test clips to a network."""

    def __init__(self, network: Network, seconds: float, clips: ClipDataset):
        self.network, self.seconds, self.clips = network, seconds, clips
        self.specs = network.input_specs
        self.frames, self.bodies = self.specs[0].shape[2], self.specs[0].shape[0]
        self.options = config.build(SkeletonPreprocessing, self.specs[0].preprocessing)
        self._index = {clips[i].name: i for i in range(len(clips))}
        self.session = StreamingSession(onnx_graph.step_to_onnx(network), batch=BATCH)

    def windows(self, frames: Frames) -> np.ndarray:
        """Classes by the window form."""
        found: list[int] = []
        for batch in self._batches():
            clip = self._stacked([frames(clip) for clip in batch])
            with torch.no_grad():
                logits = self.network(**{name: torch.from_numpy(value) for name, value in clip.items()})
            found += logits.argmax(dim=1).tolist()
        return np.array(found)

    def stream(self, frames: Frames) -> np.ndarray:
        """Classes as of the last frame of what `frames` makes of a clip: input name to (M, 3, T, V)."""
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
        """Return the window's own inputs."""
        return inputs({"bodies": clip.window(self.seconds, self.frames)[: self.bodies]}, self.specs)

    def running_frames(self, clip: Clip) -> dict[str, np.ndarray]:
        """Return the window's frames, each normalized by those up to it."""
        return self._running(clip.window(self.seconds, self.frames)[: self.bodies])

    def continued_frames(self, clip: Clip) -> dict[str, np.ndarray]:
        """Two windows' time that ends with the clip, led up to by another clip; each frame normalized as it comes."""
        return self._running(self._continued(clip))

    def continued_window(self, clip: Clip) -> dict[str, np.ndarray]:
        """Return the last window of that time."""
        return inputs({"bodies": self._continued(clip)[:, -self.frames :]}, self.specs)

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
