"""`actrec bench streaming-accuracy`: what running frame by frame costs in accuracy, with the same weights."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from actrec import config, package
from actrec.cli import Parser
from actrec.features import inputs
from actrec.features.running import RunningNormaliser
from actrec.features.skeleton import SkeletonPreprocessing, stack
from actrec.inference.streaming import StreamingSession
from actrec_models import data, export, streaming_graph
from actrec_models.data import Clip, ClipDataset, augment
from actrec_models.networks.base import Network
from actrec_models.registry import create

BATCH = 64
Frames = Callable[[Clip], dict[str, np.ndarray]]


def measure(arguments: list[str]) -> dict[str, Any]:
    """Top-1 on N-UCLA's test part of one network: by windows, and frame by frame."""
    parser = Parser(prog="actrec bench streaming-accuracy", description=__doc__)
    parser.add_argument("model", help="a checkpoint of actrec train, or a model package of a skeleton network")
    parser.add_argument("--data", default="../shared/data", help="folder that holds nucla (default: ../shared/data)")
    options = parser.parse_args(arguments)
    network, seconds = _load(Path(options.model))
    clips = data.create("nucla", f"{options.data}/nucla", split="view", part="test")
    labels = np.array([clips[i].label for i in range(len(clips))])
    forms = _Forms(network, seconds, clips)
    predicted = {
        "window": forms.windows(forms.window_frames),
        "step, the window's frames": forms.stream(forms.window_frames),
        "step, the window's frames, normalised as they come": forms.stream(forms.running_frames),
        "window, another action before": forms.windows(forms.continued_window),
        "step, another action before, normalised as they come": forms.stream(forms.continued_frames),
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
    """A network in evaluation mode, and the seconds of its window."""
    if path.is_file():
        recipe, _, network = export.load_checkpoint(path)
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
        self.session = StreamingSession(streaming_graph.to_onnx(network), batch=BATCH)

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
        """The window's own inputs."""
        return inputs({"bodies": clip.window(self.seconds, self.frames)[: self.bodies]}, self.specs)

    def running_frames(self, clip: Clip) -> dict[str, np.ndarray]:
        """The window's frames, each normalised by those up to it."""
        return self._running(clip.window(self.seconds, self.frames)[: self.bodies])

    def continued_frames(self, clip: Clip) -> dict[str, np.ndarray]:
        """Two windows' time that ends with the clip, led up to by another clip; each frame normalised as it comes."""
        return self._running(self._continued(clip))

    def continued_window(self, clip: Clip) -> dict[str, np.ndarray]:
        """The last window of that time."""
        return inputs({"bodies": self._continued(clip)[:, -self.frames :]}, self.specs)

    def _continued(self, clip: Clip) -> np.ndarray:
        before = self.clips[(self._index[clip.name] + len(self.clips) // 2) % len(self.clips)]
        joined = augment.follow(before, clip, np.random.default_rng(1))
        return joined.window(2 * self.seconds, 2 * self.frames)[: self.bodies]

    def _stacked(self, made: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return {spec.name: np.stack([m[spec.name] for m in made]) for spec in self.specs}

    def _running(self, bodies: np.ndarray) -> dict[str, np.ndarray]:
        normaliser = RunningNormaliser(self.frames, self.options)
        joints = np.stack([normaliser.step(bodies[:, t]) for t in range(bodies.shape[1])], axis=1)
        return {spec.name: stack(joints, spec.modality) for spec in self.specs}

    def _batches(self) -> Iterator[list[Clip]]:
        for start in range(0, len(self.clips), BATCH):
            yield [self.clips[i] for i in range(start, min(start + BATCH, len(self.clips)))]
