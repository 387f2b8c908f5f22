"""`actrec bench training`: the clips a second that each network is trained on.

It is measured with and without the reading of clips, and with augmentation in batches (`--features device`) and clip by
clip. It imports no library that a machine with a GPU may lack (`actrec bench gpu --pack`).
"""

import argparse
import dataclasses
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from actrec.cli import Parser, amount, count
from actrec.datasets.base import Clip, ClipDataset
from actrec.features.clips import example_clip
from actrec.types import NANOSECONDS
from actrec.utils import config
from actrec.utils.errors import ConfigError, DeviceError
from actrec_models import networks
from actrec_models.data.batches import BatchFeatures, BatchSamples, collate, has_voxels, uncovered
from actrec_models.data.samplers import EpochBatchSampler, Sampling
from actrec_models.data.samples import Samples
from actrec_models.training import provenance, recipe
from actrec_models.training.module import RecognitionModule, may_be_fused
from actrec_models.training.recipe import Recipe
from actrec_models.training.trainer import Machine
from benchmarks import in_process
from benchmarks.gpu import Step

CLASSES = 60

LIKE = {"deepacts_cnn": "deepacts", "deepacts_graph": "deepacts", "deepacts_multi": "deepacts",
        "spa_net_3p1d": "spa_net_4d", "vpn_resnext101": "vpn_i3d"}  # fmt: skip
"""Networks that are trained by the recipe of another one."""

ON_GPU = ("deepacts_graph_nucla", "joint_tcn_everyday", "deepacts_graph", "sem_net", "spa_net_4d", "res_tcn_bjcn")
"""Recipes and networks of joints that `actrec bench gpu` trains."""

_DIFFERENT = 8
"""Number of different clips; the learned weights do not matter here."""


def measure(arguments: list[str]) -> dict[str, Any]:
    """Measure training steps of each network at its paper's size, in processes of their own."""
    parser = Parser(
        prog="actrec bench training",
        description="Training steps as `actrec train` makes them, of each network at its paper's size, or by a recipe.",
        epilog="Example:\n  actrec bench training --networks sem_net,spa_net_4d,deepacts_graph_nucla --seconds 5",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--networks", help="networks or recipes, separated by commas; options as name:key=value;key=value"
    )
    parser.add_argument("--device", choices=("auto", "gpu", "cpu"), default="auto", help="(default: a GPU if present)")
    parser.add_argument("--threads", type=int, default=2, help="on a CPU (default: 2)")
    parser.add_argument("--workers", type=int, help="processes that read clips (default: as `actrec train`)")
    parser.add_argument(
        "--batch", type=count, help="clips a step (default: the recipe's, on a CPU as many as --seconds allow)"
    )
    parser.add_argument("--compile", action="store_true", help="compile the steps, as `actrec train --compile`")
    parser.add_argument("--seconds", type=amount, default=8.0, help="of each of two measurements (default: 8)")
    args = parser.parse_args(arguments)
    wanted = args.networks.split(",") if args.networks else networks.list_models()
    for entry in wanted:
        recipe_of(entry)  # report a wrong name before minutes of work
    device = torch.device("cuda" if Machine(args.device).trainer_options()["accelerator"] == "gpu" else "cpu")
    rows = []
    for number, entry in enumerate(wanted, start=1):
        print(f"[{number}/{len(wanted)}] {entry}", file=sys.stderr, flush=True)
        options = args.threads, args.workers, args.batch, args.seconds, args.compile
        rows.append(in_process("benchmarks.training:row", entry, device.type, *options))
    name = provenance.device_name(device) if device.type == "cuda" else f"cpu ({args.threads} threads)"
    return {"device": name, "cores": os.cpu_count(), "torch": torch.__version__, "networks": rows}


def measure_on_gpu(seconds: float) -> Iterator[Step]:
    """Yield the speed of training networks of joints on a GPU, the first one compiled too.

    Raises:
        DeviceError: PyTorch finds no GPU.
    """
    if not torch.cuda.is_available():
        raise DeviceError("PyTorch finds no GPU: install its build with CUDA")

    def measured(entry: str, compiled: bool = False) -> dict[str, Any]:
        try:
            return row(entry, "cuda", 1, None, None, seconds, compiled=compiled)
        except torch.OutOfMemoryError as error:  # the others may fit
            return {"network": entry, "error": str(error).splitlines()[0]}
        finally:
            torch.cuda.empty_cache()

    for entry in ON_GPU:
        yield Step("training", entry, partial(measured, entry))
    yield Step("training_compiled", ON_GPU[0], partial(measured, ON_GPU[0], compiled=True))


def recipe_of(entry: str) -> Recipe:
    """Return the paper's recipe of a network, or a shipped recipe; of stages the last.

    `entry` is `name` or `name:key=value;key=value`.

    Raises:
        ConfigError: There is no such network, option or recipe.
    """
    name, _, options = entry.partition(":")
    if name in recipe.shipped():
        found = recipe.read(name)
        name = found.model
    else:
        networks.NETWORKS.get(name)
        known = _recipes().get(LIKE.get(name, name))
        if known is None:
            raise ConfigError(f"no recipe of {name} among the papers'")
        found = known
    changed = config.parse_pairs(filter(None, options.split(";")), "network option")
    last = found.plan()[-1]
    return dataclasses.replace(found.for_stage(last), model=name, options={**found.options, **changed}, stages=[])


@cache
def _recipes() -> dict[str, Recipe]:
    """Return the papers' recipes by network, NTU RGB+D 60 first, and the one of `joint_tcn`."""
    papers = [name for name in recipe.shipped() if name.startswith("papers/")]
    found: dict[str, Recipe] = {}
    for name in [*sorted(papers, key=lambda name: (not name.endswith("_ntu60"), name)), "joint_tcn_everyday"]:
        read = recipe.read(name)
        found.setdefault(read.model, read)
    return found


def row(
    entry: str, on: str, threads: int, workers: int | None, batch: int | None, seconds: float, compiled: bool = False
) -> dict[str, Any]:
    """Return the figures of one network.

    Args:
        entry: As for `recipe_of`.
        on: Type of the device that trains the network.
        threads: On a CPU.
        workers: Processes that read clips; None as `actrec train`.
        batch: Clips a step; None for the recipe's, on a CPU as many as a third of `seconds` allows.
        seconds: Shortest duration of each measurement.
        compiled: Whether to compile the steps, as `actrec train --compile`.
    """
    device = torch.device(on)
    if device.type == "cpu":
        torch.set_num_threads(threads)
    torch.manual_seed(1)
    chosen = recipe_of(entry)
    learner = _Learner(chosen, device)
    if compiled:
        learner.module.compile_losses(device.type == "cuda")
    size = batch or (chosen.batch if device.type == "cuda" else learner.affordable(chosen.batch, seconds / 3))
    stopped = _Utilization(device)
    fixed = learner.batch(size)
    warm = device.type == "cpu" and not batch and size == 2  # `affordable` has just made two such steps
    alone = size * _paced(lambda: learner.step(fixed), seconds, device, warm)
    used = stopped.mean()
    found = {"network": entry, "batch": size, "recipe_batch": chosen.batch, "precision": chosen.precision,
             "clips_per_s": alone}  # fmt: skip
    used_reading = {}
    for way, suffix in learner.ways.items():
        loader, found["workers"] = way.loader(size, workers)
        step = partial(_read_and_step, learner, way, _endless(loader))
        stopped = _Utilization(device)
        found[f"clips_per_s_with_reading{suffix}"] = size * _paced(step, seconds, device)
        used_reading[f"gpu_used_percent_with_reading{suffix}"] = stopped.mean()
        found[f"read_by_a_core{suffix}"] = way.reading(size, seconds)
        if device.type == "cuda" and way.compute is not None and not has_voxels(way.compute.specs):
            found["largest_difference_to_cpu"] = way.difference()
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(device) / 1e9
        found |= {"gpu_memory_gb": memory, "gpu_used_percent": used, **used_reading}
    return found


def _read_and_step(learner: "_Learner", reader: "_Reader", batches: Iterator[dict[str, Any]]) -> None:
    learner.step(reader.inputs(next(batches)))


class _Learner:
    """Training steps of a network on example clips."""

    def __init__(self, chosen: Recipe, device: torch.device):
        self.recipe, self.device = chosen, device
        self.module = RecognitionModule(chosen.as_dict(), [f"class {n}" for n in range(CLASSES)])
        network = self.module.network
        stages = getattr(network, "stages", ())
        if stages:
            network.stage(stages[-1])
        self.module.to(device).train()
        optimizer, *_ = chosen.components()
        fused = device.type == "cuda" and may_be_fused(chosen)
        self.optimizer = optimizer.make(network.parameters(), chosen.learning_rate, chosen.weight_decay, fused)
        self.scaler = torch.amp.GradScaler(device.type, enabled=chosen.precision == "16-mixed")
        clips, network = self._clips(), self.module.network
        arguments = clips, network.input_specs, self.recipe.window(network), self.recipe
        augmentation = self.recipe.check() if self.recipe.augment else None
        one_by_one = _Reader(Samples(*arguments, augmentation, any_clip=True), None, device)
        self.ways = {one_by_one: ""}  # readers of clips to the ends of their figures' names
        if not uncovered(*arguments[1:3], self.recipe.clips, clips.layout):
            compute = BatchFeatures(network.input_specs)
            batched = _Reader(BatchSamples(*arguments, augmentation, any_clip=True), compute, device)
            self.ways = {batched: "", one_by_one: "_clip_by_clip"}

    def _clips(self) -> ClipDataset:
        network = self.module.network
        window = self.recipe.window(network)
        layouts = {spec.layout for spec in network.input_specs}
        clips = []
        for number in range(_DIFFERENT):
            made = example_clip(network.input_specs, window.frames, getattr(network.config, "bodies", 1), number)
            stamps = (np.arange(window.frames) * window.seconds / window.frames * NANOSECONDS).astype(np.int64)
            clips.append(Clip(f"example {number}", number % CLASSES, stamps, made.pop("bodies"), made))
        layout = "hand_22" if "hand_22" in layouts else "kinect_v2_25"
        return ClipDataset(clips * 512, [f"class {n}" for n in range(CLASSES)], layout)

    def batch(self, size: int) -> dict[str, torch.Tensor]:
        """Return a batch on the device."""
        reader = next(iter(self.ways))
        return reader.inputs(reader.join([reader.samples[number % _DIFFERENT] for number in range(size)]))

    def step(self, batch: dict[str, torch.Tensor]) -> None:
        """Run loss, gradients and optimizer as Lightning does."""
        half = torch.float16 if self.recipe.precision == "16-mixed" else torch.bfloat16
        with torch.autocast(self.device.type, half, enabled=self.recipe.precision != "32-true"):
            loss = self.module.losses(batch)["loss"]
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        if self.recipe.gradient_clip:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.module.network.parameters(), self.recipe.gradient_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def affordable(self, most: int, seconds: float) -> int:
        """Estimate the batch whose step takes this long from a batch of two clips, the minimum of batch norm."""
        pair = self.batch(2)
        self.step(pair)
        begun = time.perf_counter()
        self.step(pair)
        return int(min(max(2, 2 * seconds / (time.perf_counter() - begun)), most))


class _Reader:
    """Clips as inputs on the device, made clip by clip or in batches by `compute`."""

    def __init__(self, samples: Samples, compute: BatchFeatures | None, device: torch.device):
        self.samples, self.compute, self.device = samples, compute, device
        self.join = torch.utils.data.default_collate if compute is None else collate

    def inputs(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Return the inputs of a batch of the loader."""
        moved = {
            name: value.to(self.device, non_blocking=True) if isinstance(value, torch.Tensor) else value
            for name, value in batch.items()
        }
        return moved if self.compute is None else self.compute(moved)

    def difference(self) -> float:
        """Return the largest difference of a batch's inputs to the CPU's."""
        assert self.compute is not None
        batch = self.join([self.samples[(0, number, 0)] for number in range(_DIFFERENT)])
        found, expected = self.inputs(batch), self.compute(batch)
        return max(float((found[name].cpu() - expected[name]).abs().max()) for name in expected)

    def loader(self, size: int, workers: int | None) -> tuple[DataLoader, int]:
        """Return the loader of `actrec train` and its number of workers."""
        options = Machine(workers=workers).loader_options(1, self.device.type == "cuda", 1)
        draws = EpochBatchSampler(self.samples.clips.labels, Sampling(), 1, size)
        return DataLoader(self.samples, batch_sampler=draws, collate_fn=self.join, **options), options["num_workers"]

    def reading(self, size: int, seconds: float) -> float:
        """Return the clips a second that one process reads, without the computation on the device."""
        draws = iter(_endless(EpochBatchSampler(self.samples.clips.labels, Sampling(), 1, size)))

        def read() -> None:
            self.join([self.samples[draw] for draw in next(draws)])

        return size * _paced(read, min(seconds, 3.0), torch.device("cpu"))


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
    """Utilization of a GPU, sampled five times a second."""

    def __init__(self, device: torch.device):
        self.device, self.found, self.done = device, list[float](), threading.Event()
        self.thread = threading.Thread(target=self._sample, daemon=True)
        self.thread.start()

    def _sample(self) -> None:
        while not self.done.wait(0.2):
            used = _gpu_utilization(self.device)
            if used is None:
                return
            self.found.append(used)

    def mean(self) -> float | None:
        """Stop sampling; return None without samples."""
        self.done.set()
        self.thread.join()
        return sum(self.found) / len(self.found) if self.found else None


def _paced(step: Callable[[], None], seconds: float, device: torch.device, warm: bool = False) -> float:
    """Return the steps a second, after some that are not measured unless `warm`; on a GPU the second records graphs."""
    if not warm:
        for _ in range(3 if device.type == "cuda" else 1):
            step()
        _synchronize(device)
    begun, steps = time.perf_counter(), 0
    while steps == 0 or time.perf_counter() - begun < seconds:
        step()
        steps += 1
        if steps % 10 == 0:
            _synchronize(device)  # GPU steps are asynchronous
    _synchronize(device)
    return steps / (time.perf_counter() - begun)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _endless(batches: Any) -> Iterator[Any]:
    while True:
        yield from batches
