"""The figures that a training run logs: learning rate, clips per second, GPU use.

What a training run uses of a machine: devices, processes, how often it is kept.
"""

import math
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import lightning
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins.environments import LSFEnvironment, MPIEnvironment, SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from actrec.utils.config import setting
from actrec.utils.errors import ConfigError

EVERY = 10
"""Steps from one point of TensorBoard's curves to the next."""


class Monitor(lightning.Callback):
    """Logs, an epoch, learning rate, clips a second and the GPU's memory and use; every few steps to TensorBoard.

    Args:
        batch: Clips a step of all processes.
        accumulate: Parts of a batch.
    """

    def __init__(self, batch: int, accumulate: int):
        self.batch, self.accumulate = batch, accumulate
        self._epoch = self._point = self._ended = time.perf_counter()
        self._epoch_steps, self._learning_rate = 0, 0.0
        self._used: list[float] = []

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clocks."""
        self._epoch = self._point = time.perf_counter()
        self._epoch_steps, self._used = 0, []

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the rate that the step goes by: once it is made, the schedule has the next one's."""
        self._learning_rate = float(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a step; now and then gives TensorBoard a point.

        Raises:
            ConfigError: The loss is not a number any more.
        """
        if (batch_idx + 1) % self.accumulate:
            return
        self._epoch_steps += 1
        self._ended = time.perf_counter()  # norms that are renewed and clips held out come after the last step
        if self._epoch_steps % EVERY and not trainer.is_last_batch:
            return
        found = outputs.get("loss", 0.0) if isinstance(outputs, dict) else outputs  # a step may have none
        loss = float(found) * self.accumulate
        if not math.isfinite(loss):
            raise ConfigError(
                f"the loss is {loss} at step {trainer.global_step}: lower the learning_rate, or set a gradient_clip, "
                "and restart with --fresh"
            )
        if self._epoch_steps % EVERY:
            return
        now = time.perf_counter()
        figures = {"step/clips_per_s": EVERY * self.batch / (now - self._point)}
        figures |= {"step/learning_rate": self._learning_rate, "step/loss": loss}
        self._point = now
        used = gpu_utilization(pl_module.device)
        if used is not None:
            self._used.append(used)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.log_metrics(figures, step=trainer.global_step)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Log the epoch's figures."""
        rate = self._epoch_steps * self.batch / max(self._ended - self._epoch, 1e-9)
        figures = {"clips_per_s": rate, "learning_rate": self._learning_rate}
        if pl_module.device.type == "cuda":
            figures["gpu_memory_mb"] = torch.cuda.max_memory_allocated(pl_module.device) / 1e6
        if self._used:
            figures["gpu_utilization"] = sum(self._used) / len(self._used)
        pl_module.log_dict(figures, rank_zero_only=True)


class EpochCsvLogger(CSVLogger):
    """`metrics.csv` with a row per epoch: validation comes first, and its figures wait for the others."""

    def __init__(self, folder: Path, name: str):
        super().__init__(folder, name=name)
        self._waiting: dict[str, Tensor | float] = {}

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Tensor | float], step: int | None = None) -> None:
        """As the base class, but keep validation figures for the epoch's row."""
        if any(name.startswith("val_") for name in metrics):
            self._waiting = {**metrics, "step": step or 0}
            return
        super().log_metrics({**self._waiting, **metrics}, step)
        self._waiting = {}

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """As the base; an epoch that is ended before its other figures are there has a row of what there is."""
        if self._waiting:
            super().log_metrics(self._waiting, int(self._waiting["step"]))
            self._waiting = {}
        super().finalize(status)


def gpu_utilization(device: torch.device) -> float | None:
    """Percent of the last moment in which the GPU was busy; None on a CPU or without NVIDIA's management library."""
    if device.type != "cuda" or not _has_nvml():
        return None
    return float(torch.cuda.utilization(device))


@cache
def _has_nvml() -> bool:
    try:
        torch.cuda.utilization()
    except (ImportError, RuntimeError):  # nvidia-ml-py is not installed, or the driver has no such library
        return False
    return True


_CLUSTERS = (SLURMEnvironment, LSFEnvironment, MPIEnvironment)
"""What starts a command on several machines besides torchrun."""


@dataclass(frozen=True)
class Machine:
    """How a run uses a machine, and how often it keeps its state; the result is the same but for rounding."""

    accelerator: str = setting("auto", "gpu if there is one, else cpu", choices=("auto", "gpu", "cpu"))
    devices: int = setting(0, "GPUs, or processes on a CPU, of each node; 0: all GPUs, one process", range=(0, 1024))
    nodes: int = setting(1, "machines; start the command on each with torchrun", range=(1, 4096))
    workers: int | None = setting(
        None, "processes that read clips, for each device; by default none on a CPU, its cores shared out on GPUs",
        range=(0, 256),
    )  # fmt: skip
    checkpoint_minutes: float = setting(10.0, "between checkpoints within an epoch; 0: none", range=(0.0, 1e6))
    checkpoint_steps: int = setting(0, "likewise, in steps", range=(0, 10**9))

    def trainer_options(self) -> dict[str, Any]:
        """Return arguments for `lightning.Trainer`. Under torchrun, it uses torchrun's processes and nodes.

        Raises:
            ConfigError: A GPU is asked for where there is none, torchrun made other processes than are asked for, or
                nothing starts the other nodes.
        """
        gpus = torch.cuda.device_count() if self.accelerator != "cpu" else 0
        if self.accelerator == "gpu" and not gpus:
            raise ConfigError("--accelerator gpu, but PyTorch finds none: install its CUDA build, or leave the option")
        devices, nodes = self.devices or max(gpus, 1), self.nodes
        if "TORCHELASTIC_RUN_ID" in os.environ:
            local = int(os.environ["LOCAL_WORLD_SIZE"])
            if self.devices not in (0, local):
                raise ConfigError(f"torchrun made {local} processes, but --devices asks for {self.devices}")
            devices, nodes = local, int(os.environ["WORLD_SIZE"]) // local
        elif nodes > 1 and "MASTER_ADDR" not in os.environ and not any(kind.detect() for kind in _CLUSTERS):
            raise ConfigError(f"--nodes {nodes} would wait for machines that nothing starts: start the same command on "
                              "each with torchrun")  # fmt: skip
        if gpus and devices > gpus:
            raise ConfigError(f"{devices} processes for {gpus} GPUs: choose as many, or --accelerator cpu")
        strategy = "ddp" if devices * nodes > 1 else "auto"
        return {
            "accelerator": "gpu" if gpus else "cpu", "devices": devices, "num_nodes": nodes, "strategy": strategy,
        }  # fmt: skip

    def loader_workers(self, devices: int, gpu: bool) -> int:
        """Worker processes of one device."""
        if self.workers is not None:
            return self.workers
        return min(max((os.cpu_count() or 1) // devices - 1, 1), 16) if gpu else 0


def fast_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 itself; a CPU that imitates it takes several times as long as in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # older PyTorch does not tell
    return any(value is True for name, value in capabilities.items() if "bf16" in name)


def loader_options(workers: int, gpu: bool, seed: int) -> dict[str, Any]:
    """Return the arguments of a `DataLoader`, without samples and sampler."""
    own = torch.Generator()
    own.manual_seed(seed)  # so that making a loader draws nothing of the network's random numbers
    more = {"persistent_workers": True, "prefetch_factor": 4, "worker_init_fn": _begin_worker} if workers else {}
    return {"num_workers": workers, "pin_memory": gpu, "generator": own, **more}


def _begin_worker(_: int) -> None:
    """Set up a loader's process: only the trainer handles signals, and one thread is enough."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(0)
