"""What a training run logs beside its loss: learning rate, clips a second, what the GPU does."""

import math
import time
from functools import cache
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from actrec.errors import ConfigError

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
        """Starts the clocks."""
        self._epoch = self._point = time.perf_counter()
        self._epoch_steps, self._used = 0, []

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Notes the rate that the step goes by: once it is made, the schedule has the next one's."""
        self._learning_rate = float(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts a step; now and then gives TensorBoard a point.

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
                "and begin anew with --fresh"
            )
        if self._epoch_steps % EVERY:
            return
        now = time.perf_counter()
        figures = {"step/clips_per_s": EVERY * self.batch / (now - self._point)}
        figures |= {"step/learning_rate": self._learning_rate, "step/loss": loss}
        self._point = now
        used = gpu_utilisation(pl_module.device)
        if used is not None:
            self._used.append(used)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.log_metrics(figures, step=trainer.global_step)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Logs the epoch's figures."""
        rate = self._epoch_steps * self.batch / max(self._ended - self._epoch, 1e-9)
        figures = {"clips_per_s": rate, "learning_rate": self._learning_rate}
        if pl_module.device.type == "cuda":
            figures["gpu_memory_mb"] = torch.cuda.max_memory_allocated(pl_module.device) / 1e6
        if self._used:
            figures["gpu_utilisation"] = sum(self._used) / len(self._used)
        pl_module.log_dict(figures, rank_zero_only=True)


class EpochRows(CSVLogger):
    """`metrics.csv` with a row an epoch: what is held out is looked at first, and its figures wait for the others."""

    def __init__(self, folder: Path, name: str):
        super().__init__(folder, name=name)
        self._waiting: dict[str, float] = {}

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """As the base, but for what is held out."""
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


def gpu_utilisation(device: torch.device) -> float | None:
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
