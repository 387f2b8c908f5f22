"""Training steps of one network in a process that does nothing else: `python -m benchmarks.training_steps`."""

import dataclasses
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from actrec.datasets.base import Clip, ClipDataset
from actrec.features.clips import example_clip
from actrec.types import NANOSECONDS
from actrec.utils import config
from actrec.utils.errors import ConfigError
from actrec_models import registry
from actrec_models.data.samplers import EpochBatchSampler, Sampling
from actrec_models.data.samples import Samples
from actrec_models.training import recipe
from actrec_models.training.module import RecognitionModule
from actrec_models.training.recipe import Recipe
from actrec_models.training.trainer import Machine

CLASSES = 60

LIKE = {"deepacts_cnn": "deepacts", "deepacts_graph": "deepacts", "deepacts_multi": "deepacts",
        "spa_net_3p1d": "spa_net_4d", "vpn_resnext101": "vpn_i3d"}  # fmt: skip
"""Networks that another one's recipe trains as well, with the same options: bodies, poses."""

_DIFFERENT = 8
"""Clips that differ; the learned weights do not matter here."""


def recipe_of(entry: str) -> Recipe:
    """Return the paper's recipe of a network, written as `name` or `name:key=value;key=value`; of stages the last.

    Raises:
        ConfigError: There is no such network, option or recipe.
    """
    name, _, options = entry.partition(":")
    registry.NETWORKS.get(name)
    found = _recipes().get(LIKE.get(name, name))
    if found is None:
        raise ConfigError(f"no recipe of {name} among the papers'")
    changed = config.parse_pairs(filter(None, options.split(";")), "network option")
    last = found.plan()[-1]
    return dataclasses.replace(found.for_stage(last), model=name, options={**found.options, **changed}, stages=[])


@cache
def _recipes() -> dict[str, Recipe]:
    """Return the papers' recipes by network, NTU RGB+D 60 first."""
    paths = sorted(
        recipe.folder("papers").glob("*.yaml"), key=lambda path: (not path.stem.endswith("_ntu60"), path.name)
    )
    found: dict[str, Recipe] = {}
    for path in paths:
        read = recipe.read(path)
        found.setdefault(read.model, read)
    return found


def row(
    entry: str, device: torch.device, *, threads: int, workers: int | None, batch: int | None, seconds: float
) -> dict[str, Any]:
    """Return the figures of one network.

    Args:
        entry: As `recipe_of` takes it.
        device: That trains.
        threads: On a CPU.
        workers: That read clips; None as `actrec train`.
        batch: Clips a step; None for the recipe's, on a CPU as many as a third of `seconds` allows.
        seconds: Of each measurement, at least; at least one step is made.
    """
    if device.type == "cpu":
        torch.set_num_threads(threads)
    torch.manual_seed(1)
    chosen = recipe_of(entry)
    learner = _Learner(chosen, device)
    size = batch or (chosen.batch if device.type == "cuda" else learner.affordable(chosen.batch, seconds / 3))
    stopped = _Utilization(device)
    fixed = learner.batch(size)
    warm = device.type == "cpu" and size == 2  # it has just made two such steps, each of which may take half a minute
    alone = size * _paced(lambda: learner.step(fixed), seconds, device, warm)
    used = stopped.mean()
    loader, reading = learner.loader(size, workers)
    batches = _endless(loader)
    stopped = _Utilization(device)
    together = size * _paced(lambda: learner.step(next(batches)), seconds, device, warm)
    used_reading = stopped.mean()
    found = {"network": entry, "batch": size, "recipe_batch": chosen.batch, "precision": chosen.precision,
             "clips_per_s": alone, "clips_per_s_with_reading": together, "workers": reading,
             "read_by_a_core": learner.reading(size, seconds)}  # fmt: skip
    if device.type == "cuda":
        found |= {"gpu_memory_gb": torch.cuda.max_memory_allocated(device) / 1e9, "gpu_used_percent": used,
                  "gpu_used_percent_with_reading": used_reading}  # fmt: skip
    return found


class _Learner:
    """A network that makes training steps on example clips."""

    def __init__(self, chosen: Recipe, device: torch.device):
        self.recipe, self.device = chosen, device
        self.module = RecognitionModule(chosen.as_dict(), [f"class {n}" for n in range(CLASSES)])
        network = self.module.network
        stages = getattr(network, "stages", ())
        if stages:
            network.stage(stages[-1])
        self.module.to(device).train()
        optimizer, *_ = chosen.components()
        self.optimizer = optimizer.make(network.parameters(), chosen.learning_rate, chosen.weight_decay)
        self.scaler = torch.amp.GradScaler(device.type, enabled=chosen.precision == "16-mixed")
        self.samples = self._samples()

    def _samples(self) -> Samples:
        network = self.module.network
        window = self.recipe.window(network)
        layouts = {spec.layout for spec in network.input_specs}
        clips = []
        for number in range(_DIFFERENT):
            made = example_clip(network.input_specs, window.frames, getattr(network.config, "bodies", 1), number)
            stamps = (np.arange(window.frames) * window.seconds / window.frames * NANOSECONDS).astype(np.int64)
            clips.append(Clip(f"example {number}", number % CLASSES, stamps, made.pop("bodies"), made))
        layout = "hand_22" if "hand_22" in layouts else "kinect_v2_25"
        data = ClipDataset(clips * 512, [f"class {n}" for n in range(CLASSES)], layout)
        augmentation = self.recipe.check() if self.recipe.augment else None
        return Samples(data, network.input_specs, window, self.recipe, augmentation, any_clip=True)

    def batch(self, size: int) -> dict[str, torch.Tensor]:
        """One that stays on the device."""
        drawn = [self.samples[number % _DIFFERENT] for number in range(size)]
        return self._on_device(torch.utils.data.default_collate(drawn))

    def step(self, batch: dict[str, torch.Tensor]) -> None:
        """Loss, gradients, optimizer, as Lightning makes them by the recipe."""
        batch = self._on_device(batch)
        half = torch.float16 if self.recipe.precision == "16-mixed" else torch.bfloat16
        with torch.autocast(self.device.type, half, enabled=self.recipe.precision != "32-true"):
            loss = self.module.network.losses(batch)["loss"]
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def affordable(self, most: int, seconds: float) -> int:
        """Estimate the batch whose step takes this long from a batch of two clips, the minimum of batch norm."""
        pair = self.batch(2)
        self.step(pair)
        begun = time.perf_counter()
        self.step(pair)
        return int(min(max(2, 2 * seconds / (time.perf_counter() - begun)), most))

    def loader(self, size: int, workers: int | None) -> tuple[DataLoader, int]:
        """As training makes it, and its worker processes."""
        gpu = self.device.type == "cuda"
        options = Machine(workers=workers).loader_options(1, gpu, 1)
        draws = EpochBatchSampler(self.samples.clips.labels, Sampling(), 1, size)
        return DataLoader(self.samples, batch_sampler=draws, **options), options["num_workers"]

    def reading(self, size: int, seconds: float) -> float:
        """Clips a second that one process turns into inputs."""
        draws = iter(_endless(EpochBatchSampler(self.samples.clips.labels, Sampling(), 1, size)))

        def read() -> None:
            torch.utils.data.default_collate([self.samples[draw] for draw in next(draws)])

        return size * _paced(read, min(seconds, 3.0), torch.device("cpu"))

    def _on_device(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}


def _gpu_utilization(device: torch.device) -> float | None:
    """Return the GPU's utilization in percent; None on a CPU or without NVIDIA's management library."""
    return float(torch.cuda.utilization(device)) if device.type == "cuda" and _has_nvml() else None


@cache
def _has_nvml() -> bool:
    try:
        torch.cuda.utilization()
    except (ImportError, RuntimeError):  # nvidia-ml-py is not installed, or the driver has no such library
        return False
    return True


class _Utilization:
    """The GPU's use while something runs, looked at five times a second."""

    def __init__(self, device: torch.device):
        self.device, self.found, self.done = device, list[float](), threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()

    def _look(self) -> None:
        while not self.done.wait(0.2):
            used = _gpu_utilization(self.device)
            if used is None:
                return
            self.found.append(used)

    def mean(self) -> float | None:
        """Stop monitoring; None if nothing could be measured."""
        self.done.set()
        self.thread.join()
        return sum(self.found) / len(self.found) if self.found else None


def _paced(step: Callable[[], None], seconds: float, device: torch.device, warm: bool = False) -> float:
    """Step a second; unless it is warm, after one that is not counted."""
    if not warm:
        step()
        _wait(device)
    begun, steps = time.perf_counter(), 0
    while steps == 0 or time.perf_counter() - begun < seconds:
        step()
        steps += 1
        if steps % 10 == 0:
            _wait(device)  # or a GPU's queue would hide how long a step takes
    _wait(device)
    return steps / (time.perf_counter() - begun)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _endless(batches: Any) -> Iterator[Any]:
    while True:
        yield from batches


if __name__ == "__main__":
    print(json.dumps(row(sys.argv[1], torch.device(sys.argv[2]), **json.loads(sys.argv[3]))))
