"""When and how a training run is kept: whole files, at the last step, on a signal too."""

import contextlib
import errno
import math
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from actrec.errors import ActrecError, ConfigError, DeviceError
from actrec_models.checkpoint import BEST, LAST, PREVIOUS

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_AGREE_EVERY = 8
"""Steps from one agreement of several processes on whether to save or stop to the next: each costs a wait."""


_LEAST_FREE = 1 << 20
"""Bytes. Where fewer are left, a write failed for want of room."""


class Stopped(ActrecError):  # noqa: N818  (named as StopIteration is: it is no fault)
    """A signal ended the training, which is kept.

    Attributes:
        signal: Its number.
    """

    def __init__(self, number: int, kept: Path, step: int):
        super().__init__(
            f"stopped by {signal.Signals(number).name}; step {step} is kept in {kept}: the same command goes on"
        )
        self.signal = number


class AtomicIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, then renames it; what was called `last.ckpt` becomes `previous.ckpt`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """As the base; what is on the disk under the name is always whole.

        Raises:
            DeviceError: The disk is full or cannot be written; earlier checkpoints are untouched.
        """
        target = Path(path)
        written = target.with_name(f".{target.name}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(written, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            if target.name == LAST and target.is_file():
                os.replace(target, target.with_name(PREVIOUS))
            os.replace(written, target)
        except (OSError, RuntimeError) as error:  # torch's writer turns a failed write into a RuntimeError
            why = _failed(target, error)  # before room is made
            _remove(written)
            raise DeviceError(why) from error


class Checkpoints(Checkpoint):
    """Keeps `last.ckpt` after each epoch and in between, the one before it, and `best.ckpt` where clips are held out.

    Args:
        folder: Of the stage.
        provenance: Of the run, for the checkpoint.
        epochs_before: That earlier stages really took, which early stopping ends.
        accumulate: Parts of a batch, after the last of which a step is made.
        minutes: Between two checkpoints within an epoch; 0 for none.
        steps: Likewise.
        metric: "accuracy" or "loss" of what is held out, by which the best is chosen; empty for none.
        seconds: That the stage was trained for before.
        followed: Whether another stage comes after it, which a signal keeps from starting.
    """

    def __init__(
        self,
        folder: Path,
        provenance: dict[str, Any],
        epochs_before: int,
        accumulate: int,
        minutes: float,
        steps: int,
        metric: str = "",
        seconds: float = 0.0,
        followed: bool = False,
    ):
        self.followed = followed
        self.folder, self.provenance, self.epochs_before, self.accumulate = (
            folder,
            provenance,
            epochs_before,
            accumulate,
        )
        self.minutes, self.steps, self.metric, self.seconds = minutes, steps, metric, seconds
        self.best: float | None = None
        self._begun = self._saved = time.monotonic()
        self._saved_step = 0
        self._position: dict[str, Any] = {"epoch": 0, "steps": 0, "epochs": epochs_before, "finished": False}
        self._signal = 0
        self._handlers: dict[int, Any] = {}

    # -- Lightning's hooks ---------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Starts the clock, and takes signals over from Lightning, which would end the run without keeping it."""
        self._begun = self._saved = time.monotonic()
        self._saved_step = trainer.global_step
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._note) for number in _SIGNALS}

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keeps a step where it is time to. After an epoch's last step the end of the epoch comes, and is kept."""
        if trainer.is_last_batch or (batch_idx + 1) % self.accumulate:
            return
        number, due = self._agreed(trainer)
        if number or due:
            steps = (batch_idx + 1) // self.accumulate
            epoch = trainer.current_epoch
            self._position = {"epoch": epoch, "steps": steps, "epochs": self.epochs_before + epoch, "finished": False}
            self._save(trainer)
        if number:
            raise Stopped(number, self.folder / LAST, trainer.global_step)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Keeps the best."""
        value = float(trainer.callback_metrics[f"val_{self.metric}"])
        if not math.isfinite(value):
            raise ConfigError(f"val_{self.metric} is {value}: lower the learning_rate, and begin anew with --fresh")
        better = self.best is None or (value > self.best if self.metric == "accuracy" else value < self.best)
        if better:
            self.best = value
            done = trainer.current_epoch + 1
            self._position = {"epoch": done, "steps": 0, "epochs": self.epochs_before + done, "finished": False}
            trainer.save_checkpoint(self.folder / BEST)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Keeps the epoch."""
        done = trainer.current_epoch + 1
        finished = trainer.should_stop or done >= (trainer.max_epochs or done)
        self._position = {"epoch": done, "steps": 0, "epochs": self.epochs_before + done, "finished": finished}
        number, _ = self._agreed(trainer, every=1)
        self._save(trainer)
        if number and not finished:
            raise Stopped(number, self.folder / LAST, trainer.global_step)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Ends the run between two stages where a signal came since the last step; the next would not know of it."""
        number, _ = self._agreed(trainer, every=1) if self.followed else (0, False)
        if number:
            raise Stopped(number, self.folder / LAST, trainer.global_step)

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds where the run is and what it is made of."""
        seconds = self.seconds + time.monotonic() - self._begun
        checkpoint["actrec"] = {**self._position, "seconds": seconds, "provenance": self.provenance}

    def state_dict(self) -> dict[str, Any]:
        """The best figure so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes it up again."""
        self.best = state_dict.get("best")

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Gives the signals back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    # -- how -----------------------------------------------------------------------------------------------------------

    def _note(self, number: int, _: Any) -> None:
        """Notes a signal; the second Ctrl-C does not wait for the step."""
        if self._signal == signal.SIGINT == number:
            raise KeyboardInterrupt
        self._signal = number

    def _agreed(self, trainer: lightning.Trainer, every: int = _AGREE_EVERY) -> tuple[int, bool]:
        """The signal that came and whether it is time to save, alike in all processes."""
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

    def _save(self, trainer: lightning.Trainer) -> None:
        trainer.save_checkpoint(self.folder / LAST)
        self._saved, self._saved_step = time.monotonic(), trainer.global_step


def _remove(path: Path) -> None:
    """Frees the space of what was half written, where that is possible."""
    if path.exists() and os.access(path.parent, os.W_OK):
        path.unlink(missing_ok=True)


def _failed(target: Path, error: Exception) -> str:
    """Why a checkpoint was not written. Of a full disk PyTorch says that lengths differ; the cause lies beneath."""
    reasons: list[BaseException] = [error]
    while (beneath := reasons[-1].__cause__ or reasons[-1].__context__) is not None:
        reasons.append(beneath)
    full = any(getattr(one, "errno", None) in (errno.ENOSPC, errno.EDQUOT) for one in reasons)
    with contextlib.suppress(OSError):  # the folder may be gone
        full = full or "No space left" in str(error) or shutil.disk_usage(target.parent).free < _LEAST_FREE
    reason = "the disk is full" if full else getattr(error, "strerror", None) or str(error).splitlines()[0]
    before = any(target.with_name(name).is_file() for name in (LAST, PREVIOUS))
    then = "it goes on from the checkpoint before" if before else "there is no earlier one, it begins anew"
    return f"cannot write checkpoint {target}: {reason}; make room and give the same command again: {then}"
