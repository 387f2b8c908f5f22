"""Lightning callbacks of a training: checkpoints, logged figures, EMA of the weights, batch norm recalibration."""

import math
import signal
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Checkpoint, WeightAveraging
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.optim.swa_utils import get_ema_multi_avg_fn

from actrec.utils.errors import ActrecError, ConfigError
from actrec_models.training.checkpoints import BEST, LAST
from actrec_models.training.module import RecognitionModule
from actrec_models.training.recipe import Recipe

Batches = Iterable[dict[str, Tensor]]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_LOG_EVERY = 10  # steps between two points of TensorBoard's curves
_AGREE_EVERY = 8
"""Steps between two agreements of several processes on whether to save or stop: each costs a synchronization."""


class TrainingInterrupted(ActrecError):  # noqa: N818  (no error, as StopIteration)
    """A signal ended the training, whose last step is saved; `signal` is its number."""

    def __init__(self, number: int, saved: Path, step: int):
        super().__init__(
            f"stopped by {signal.Signals(number).name}; step {step} is saved in {saved}: the same command resumes it"
        )
        self.signal = number


def finite_loss(trainer: lightning.Trainer, outputs: Any, accumulate: int) -> float:
    """Return the loss of a step, of which `outputs` has one of `accumulate` parts; raise ConfigError if not finite."""
    found = outputs.get("loss", 0.0) if isinstance(outputs, dict) else outputs  # a step may have none
    loss = float(found) * accumulate
    if not math.isfinite(loss):
        raise ConfigError(
            f"the loss is {loss} at step {trainer.global_step}: lower the learning_rate, or set a gradient_clip, "
            "and restart with --fresh"
        )
    return loss


class Checkpoints(Checkpoint):
    """Save `last.ckpt` after each epoch, within it, and at a signal; `best.ckpt` if clips are held out.

    Lightning's `ModelCheckpoint(save_on_exception=True)` and signal handling also save a part of an accumulated batch
    (resumed weights then differ by up to 0.3) and weights that are NaN, and a moved folder loses its best value.

    Args:
        epochs_before: Epochs that earlier stages took.
        accumulate: Parts of a batch; a step ends with the last one.
        minutes: Time between two checkpoints within an epoch; 0 for none.
        steps: Steps between two checkpoints within an epoch; 0 for none.
        metric: "accuracy" or "loss" on the held-out clips, which selects the best; empty for none.
        seconds: Duration of the run so far.
        followed: Whether another stage follows, which a signal must prevent.
        part: Part of the network that is trained; empty for all of it.
    """

    def __init__(
        self, folder: Path, provenance: dict[str, Any], epochs_before: int, accumulate: int, minutes: float, steps: int,
        metric: str, seconds: float, followed: bool, part: str,
    ):  # fmt: skip
        self.folder, self.provenance = folder, provenance
        self.epochs_before, self.accumulate = epochs_before, accumulate
        self.minutes, self.steps, self.metric, self.seconds, self.followed = minutes, steps, metric, seconds, followed
        self.best: float | None = None
        self._unfinished = {"part": part} if part and followed else {}  # the rest of the network is not trained yet
        self._position: dict[str, Any] = {"epoch": 0, "steps": 0, "epochs": epochs_before, "finished": False}
        self._start = self._saved = time.monotonic()
        self._saved_step = self._signal = 0
        self._handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock, and handle signals instead of Lightning, which would end the run without saving it."""
        self._start = self._saved = time.monotonic()
        self._saved_step = trainer.global_step
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._note_signal) for number in _SIGNALS}

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save a step if it is due; `on_train_epoch_end` saves an epoch's last one."""
        if trainer.is_last_batch or (batch_idx + 1) % self.accumulate:
            return
        number, due = self._agree(trainer)
        if number or due:
            finite_loss(trainer, outputs, self.accumulate)
            self._save(trainer, LAST, trainer.current_epoch, (batch_idx + 1) // self.accumulate)
        if number:
            raise TrainingInterrupted(number, self.folder / LAST, trainer.global_step)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save the best epoch."""
        value = float(trainer.callback_metrics[f"val_{self.metric}"])
        if not math.isfinite(value):
            raise ConfigError(f"val_{self.metric} is {value}: lower the learning_rate, and restart with --fresh")
        if self.best is None or (value > self.best if self.metric == "accuracy" else value < self.best):
            self.best = value
            self._save(trainer, BEST, trainer.current_epoch + 1)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save the epoch."""
        done = trainer.current_epoch + 1
        finished = trainer.should_stop or done >= (trainer.max_epochs or done)
        number, _ = self._agree(trainer, every=1)
        self._save(trainer, LAST, done, finished=finished)
        if number and not finished:
            raise TrainingInterrupted(number, self.folder / LAST, trainer.global_step)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """End the run between two stages if a signal came since the last step."""
        number, _ = self._agree(trainer, every=1) if self.followed else (0, False)
        if number:
            raise TrainingInterrupted(number, self.folder / LAST, trainer.global_step)

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the position and the provenance of the run."""
        seconds = self.seconds + time.monotonic() - self._start
        checkpoint["actrec"] = {**self._position, "seconds": seconds, "provenance": self.provenance}

    def state_dict(self) -> dict[str, Any]:
        """Return the best value of the metric."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best value of the metric."""
        self.best = state_dict.get("best")

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Restore the signal handlers."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _note_signal(self, number: int, _: Any) -> None:
        if self._signal == signal.SIGINT == number:  # the second Ctrl-C does not wait for the step
            raise KeyboardInterrupt
        self._signal = number

    def _agree(self, trainer: lightning.Trainer, every: int = _AGREE_EVERY) -> tuple[int, bool]:
        """Return the received signal and whether to save, equal in all processes."""
        step = trainer.global_step
        due = bool(self.steps) and step - self._saved_step >= self.steps
        late = bool(self.minutes) and time.monotonic() - self._saved >= 60 * self.minutes
        if trainer.world_size == 1:
            return self._signal, due or late
        if step % every:
            return 0, due
        flags = torch.tensor([float(self._signal), float(late)], device=trainer.strategy.root_device)
        torch.distributed.all_reduce(flags, op=torch.distributed.ReduceOp.MAX)
        return int(flags[0]), due or bool(flags[1])

    def _save(self, trainer: lightning.Trainer, name: str, epoch: int, steps: int = 0, finished: bool = False) -> None:
        if not all(bool(value.isfinite().all()) for value in trainer.lightning_module.parameters()):
            raise ConfigError(
                f"the weights are not finite after step {trainer.global_step}: lower the learning_rate, or set a "
                "gradient_clip, and restart with --fresh"
            )
        self._position = {
            "epoch": epoch, "steps": steps, "epochs": self.epochs_before + epoch, "finished": finished,
            **self._unfinished,
        }  # fmt: skip
        trainer.save_checkpoint(self.folder / name)
        if name == LAST:
            self._saved, self._saved_step = time.monotonic(), trainer.global_step


class Monitor(lightning.Callback):
    """Log learning rate, clips per second, GPU memory: each epoch, and every few steps to TensorBoard.

    A step has `batch` clips in all processes together, in `accumulate` parts.
    """

    def __init__(self, batch: int, accumulate: int):
        self.batch, self.accumulate = batch, accumulate
        self._epoch_start = self._last_point = self._last_step = time.perf_counter()
        self._epoch_steps, self._learning_rate = 0, 0.0

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clocks."""
        self._epoch_start = self._last_point = time.perf_counter()
        self._epoch_steps = 0

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the learning rate of the step; after it, the schedule has the next one's."""
        self._learning_rate = float(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a step and log it every few steps; raise ConfigError if its loss is not finite."""
        if (batch_idx + 1) % self.accumulate:
            return
        self._epoch_steps += 1
        self._last_step = time.perf_counter()  # recalibration and validation come after an epoch's last step
        point = self._epoch_steps % _LOG_EVERY == 0
        if not (point or trainer.is_last_batch):
            return
        loss = finite_loss(trainer, outputs, self.accumulate)
        if not point:
            return
        now = time.perf_counter()
        figures = {
            "step/clips_per_s": _LOG_EVERY * self.batch / (now - self._last_point),
            "step/learning_rate": self._learning_rate,
            "step/loss": loss,
        }
        self._last_point = now
        for each in trainer.loggers:
            if isinstance(each, TensorBoardLogger):
                each.log_metrics(figures, step=trainer.global_step)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Log the epoch's figures."""
        rate = self._epoch_steps * self.batch / max(self._last_step - self._epoch_start, 1e-9)
        figures = {"clips_per_s": rate, "learning_rate": self._learning_rate}
        if pl_module.device.type == "cuda":
            figures["gpu_memory_mb"] = torch.cuda.max_memory_allocated(pl_module.device) / 1e6
        pl_module.log_dict(figures, rank_zero_only=True)


class EpochCsvLogger(CSVLogger):
    """`metrics.csv` with one row per epoch: validation figures, which come first, are kept for the others."""

    def __init__(self, folder: Path, name: str):
        super().__init__(folder, name=name)
        self._validation: dict[str, Tensor | float] = {}

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Tensor | float], step: int | None = None) -> None:
        """Log as the base class, but keep validation figures for the epoch's row."""
        if any(name.startswith("val_") for name in metrics):
            self._validation = {**metrics, "step": step or 0}
            return
        super().log_metrics({**self._validation, **metrics}, step)
        self._validation = {}

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Finalize as the base class, with a row of the validation figures if the epoch was ended before its others."""
        if self._validation:
            super().log_metrics(self._validation, int(self._validation["step"]))
            self._validation = {}
        super().finalize(status)


class Averaging(WeightAveraging):
    """Lightning's exponential moving average (EMA) of the weights, with a warm-up.

    After n steps of a stage the decay is at most (1 + n)/(10 + n), as in TensorFlow's ExponentialMovingAverage: the
    average is of the last tenth of the steps. With a decay of 0.99 alone, the weights of the first step, which may be
    random, are a third of it after a hundred steps.
    """

    def __init__(self, decay: float, warm_up: bool = True):
        super().__init__(multi_avg_fn=self._update)
        self.decay, self.warm_up = decay, warm_up

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Create the average on the device that trains, to which Lightning moves the module only later."""
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)

    def decay_after(self, steps: int) -> float:
        """Return the decay of the step after `steps` steps of a stage."""
        return min(self.decay, (1 + steps) / (10 + steps)) if self.warm_up else self.decay

    def _update(self, averaged: list[Tensor], current: list[Tensor], steps: Tensor) -> None:
        get_ema_multi_avg_fn(self.decay_after(int(steps)))(averaged, current, steps)

    @contextmanager
    def applied(self, module: lightning.LightningModule) -> Iterator[None]:
        """Swap the average into `module`; changes of the module then change the average."""
        self._swap_models(module)
        try:
            yield
        finally:
            self._swap_models(module)

    @property
    def state_key(self) -> str:
        """Key of the base class, under which earlier checkpoints have it."""
        return "WeightAveraging"


def default_recalibration_batches(recipe: Recipe, clips: int, held: int) -> int:
    """Return the recalibration batches if a recipe sets none: a quarter of an epoch, 4 to 20; 0 without validation.

    Averaged weights that are evaluated during training need them: at a high learning rate, running statistics are so
    far from the average's that a network may be at chance on held-out clips. `clips` and `held` count the training and
    the held-out clips.
    """
    return min(max(clips // recipe.batch // 4, 4), 20) if held and recipe.ema_decay else 0


class BatchNormRecalibration(lightning.Callback):
    """Recalibrate batch norm statistics for the weights that are evaluated and saved.

    Running statistics lag behind the weights, and an average of weights has none of its own. They are estimated after
    the last step, and with held-out clips after each epoch, because the best epoch is saved. Norms in evaluation mode
    keep theirs.

    Args:
        batches: Number of batches of each process.
        draw: Return the batches of an epoch, counted from the stage's first.
        each_epoch: Whether clips are held out.
    """

    def __init__(
        self, batches: int, draw: Callable[[lightning.Trainer, int], Batches], averaging: Averaging | None,
        each_epoch: bool,
    ):  # fmt: skip
        self.batches, self.draw, self.averaging, self.each_epoch = batches, draw, averaging, each_epoch
        self._done = -1

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Recalibrate after an epoch's last step, before validation."""
        if trainer.is_last_batch:
            self._recalibrate(trainer, pl_module)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Recalibrate if the run was resumed after the epoch's last step."""
        if self._done != trainer.current_epoch:
            self._recalibrate(trainer, pl_module)

    def _recalibrate(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        epoch = trainer.current_epoch
        if not self.each_epoch and epoch + 1 < (trainer.max_epochs or 0):
            return
        self._done = epoch
        assert isinstance(module, RecognitionModule)
        strategy, network = trainer.strategy, module.network
        torch.manual_seed(zlib.crc32(f"{module.recipe.seed} norms {epoch} {trainer.global_rank}".encode()))
        batches = (strategy.batch_to_device(batch) for batch in islice(self.draw(trainer, epoch + 1), self.batches))
        with nullcontext() if self.averaging is None else self.averaging.applied(module):
            with strategy.precision_plugin.forward_context():
                norms = estimate_norms(network, network.losses, batches)
            for norm in norms:  # equal in all processes, each of which had its own batches
                for statistic in (norm.running_mean, norm.running_var):
                    assert statistic is not None
                    statistic.copy_(strategy.reduce(statistic.clone(), reduce_op="mean"))


def estimate_norms(
    network: nn.Module, forward: Callable[[dict[str, Tensor]], Any], batches: Batches
) -> list[_BatchNorm]:
    """Set the statistics of batch norms in training mode to the mean over batches.

    Unlike `torch.optim.swa_utils.update_bn`, this turns dropout and stochastic depth off, keeps the statistics of norms
    in evaluation mode or that no batch reaches, and restores modes after an error. With `update_bn`,
    `deepacts_graph_nucla` has 421 of 464 test clips right, not 425. `forward` runs a batch through the network, which
    is in training mode except its frozen parts. Return the norms with new statistics, in the network's order.
    """
    training = [part for part in network.modules() if part.training]
    dropouts = [part for part in training if isinstance(part, _DropoutNd)]
    norms = [part for part in training if isinstance(part, _BatchNorm) and part.track_running_stats]
    before = [{name: value.clone() for name, value in norm.named_buffers()} for norm in norms]
    momenta = [norm.momentum for norm in norms]
    try:
        for part in dropouts:
            part.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches
        with torch.no_grad():
            for batch in batches:
                forward(batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for part in dropouts:
            part.train()
    updated = [norm for norm in norms if int(norm.num_batches_tracked or 0)]
    for norm, buffers in zip(norms, before, strict=True):
        kept = {"num_batches_tracked": buffers["num_batches_tracked"]} if norm in updated else buffers
        norm.load_state_dict(kept, strict=False)
    return updated
