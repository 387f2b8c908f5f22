"""Reads training checkpoints without unpickling.

When and how a training run is kept: whole files, at the last step, on a signal too.

Resuming a training run: the check that it is the same run, its last step and its initial weights.

One training at a time writes to a folder.

What ends a training from outside, in one line with the remedy.
"""

import contextlib
import dataclasses
import errno
import fcntl
import logging
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_only

from actrec.utils import config
from actrec.utils.errors import ActrecError, ConfigError, DeviceError, PackageError
from actrec_models.training import provenance
from actrec_models.training.recipe import Recipe

logger = logging.getLogger(__name__)

_FOREIGN = "it is no plain checkpoint of `actrec train`, or is truncated"

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"


def read(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint of `actrec train`.

    Raises:
        PackageError: The file is missing, damaged, foreign, or wants to run code.
    """
    if path.is_dir():
        raise PackageError(f"{path} is a folder: name a checkpoint in it, such as {path / LAST}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        recipe, classes = content["hyper_parameters"]["recipe"], content["hyper_parameters"]["classes"]
        known = isinstance(recipe, dict) and isinstance(classes, list) and isinstance(content["state_dict"], dict)
    except Exception as error:  # torch and pickle raise a dozen types for a file that is not a plain checkpoint
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # torch seeks beyond the end of a file cut off
            raise PackageError(f"cannot read checkpoint {path}: {error.strerror or error}") from error
        raise PackageError(f"{path} is refused: {_FOREIGN}") from error
    if not known:
        raise PackageError(f"{path} is refused: {_FOREIGN}")
    fields = {field.name for field in dataclasses.fields(Recipe)}
    if unknown := sorted(set(recipe) - fields):
        raise PackageError(
            f"{path} was written by an earlier version (recipe fields {', '.join(map(str, unknown))}): "
            "train again with --fresh"
        )
    _state_modalities(recipe, content["state_dict"])
    return dict(content)


def newest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest checkpoint of a run that can be read, and its content; None where the run has not begun.

    Where the last one is damaged or was being replaced, the one before it is taken, and a warning says so.

    Raises:
        PackageError: There are checkpoints, none of which can be read.
    """
    found = [folder / name for name in (LAST, PREVIOUS) if (folder / name).is_file()]
    for number, path in enumerate(found):
        try:
            content = read(path)
        except PackageError as error:
            if number + 1 == len(found):
                raise PackageError(f"{error}; restart with --fresh, or choose another --out") from error
            logger.warning("%s: damaged; going on from %s, the checkpoint before it", path, found[number + 1].name)
            continue
        if path.name == PREVIOUS and number == 0:
            logger.warning("%s is missing: going on from %s, the checkpoint before it", folder / LAST, path.name)
        return path, content
    return None


def _state_modalities(recipe: dict[str, Any], state: dict[str, Any]) -> None:
    """Recipes of `deepacts_graph` from before its default had five modalities did not name their two."""
    options = recipe.get("options")
    if recipe.get("model") == "deepacts_graph" and isinstance(options, dict) and "modalities" not in options:
        prefix = "network.branches."
        branches = [name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)]
        options["modalities"] = list(dict.fromkeys(branches))


_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_AGREE_EVERY = 8
"""Steps from one agreement of several processes on whether to save or stop to the next: each costs a wait."""

_LEAST_FREE = 1 << 20
"""Bytes. Where fewer are left, a write failed for want of room."""


class TrainingInterrupted(ActrecError):  # noqa: N818  (named as StopIteration is: it is no fault)
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
    """Write a checkpoint under a temporary name, then rename it; the old `last.ckpt` becomes `previous.ckpt`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """As the base class; the file of that name is always whole.

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
        metric: "accuracy" or "loss" on the held-out clips, which chooses the best; empty for none.
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
        """Start the clock, and handle signals instead of Lightning, which would end the run without keeping it."""
        self._begun = self._saved = time.monotonic()
        self._saved_step = trainer.global_step
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._note) for number in _SIGNALS}

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep a step if it is due. After an epoch's last step, the end of the epoch keeps it."""
        if trainer.is_last_batch or (batch_idx + 1) % self.accumulate:
            return
        number, due = self._agreed(trainer)
        if number or due:
            steps = (batch_idx + 1) // self.accumulate
            epoch = trainer.current_epoch
            self._position = {"epoch": epoch, "steps": steps, "epochs": self.epochs_before + epoch, "finished": False}
            self._save(trainer)
        if number:
            raise TrainingInterrupted(number, self.folder / LAST, trainer.global_step)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Keep the best."""
        value = float(trainer.callback_metrics[f"val_{self.metric}"])
        if not math.isfinite(value):
            raise ConfigError(f"val_{self.metric} is {value}: lower the learning_rate, and restart with --fresh")
        better = self.best is None or (value > self.best if self.metric == "accuracy" else value < self.best)
        if better:
            self.best = value
            done = trainer.current_epoch + 1
            self._position = {"epoch": done, "steps": 0, "epochs": self.epochs_before + done, "finished": False}
            trainer.save_checkpoint(self.folder / BEST)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Keep the epoch."""
        done = trainer.current_epoch + 1
        finished = trainer.should_stop or done >= (trainer.max_epochs or done)
        self._position = {"epoch": done, "steps": 0, "epochs": self.epochs_before + done, "finished": finished}
        number, _ = self._agreed(trainer, every=1)
        self._save(trainer)
        if number and not finished:
            raise TrainingInterrupted(number, self.folder / LAST, trainer.global_step)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """End the run between two stages where a signal came since the last step; the next would not know of it."""
        number, _ = self._agreed(trainer, every=1) if self.followed else (0, False)
        if number:
            raise TrainingInterrupted(number, self.folder / LAST, trainer.global_step)

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the position of the run, and its provenance."""
        seconds = self.seconds + time.monotonic() - self._begun
        checkpoint["actrec"] = {**self._position, "seconds": seconds, "provenance": self.provenance}

    def state_dict(self) -> dict[str, Any]:
        """Return the best figure so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up again."""
        self.best = state_dict.get("best")

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Give the signals back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    # -- how -----------------------------------------------------------------------------------------------------------

    def _note(self, number: int, _: Any) -> None:
        """Note a signal; the second Ctrl-C does not wait for the step."""
        if self._signal == signal.SIGINT == number:
            raise KeyboardInterrupt
        self._signal = number

    def _agreed(self, trainer: lightning.Trainer, every: int = _AGREE_EVERY) -> tuple[int, bool]:
        """Return the signal that came and whether it is time to save, alike in all processes."""
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
    """Remove a partly written file, if that is possible."""
    if path.exists() and os.access(path.parent, os.W_OK):
        path.unlink(missing_ok=True)


def _failed(target: Path, error: Exception) -> str:
    """Why a checkpoint was not written. Of a full disk PyTorch says that lengths differ; the cause lies beneath."""
    reasons: list[BaseException] = [error]
    while (beneath := reasons[-1].__cause__ or reasons[-1].__context__) is not None:
        reasons.append(beneath)
    full = any(getattr(one, "errno", None) in (errno.ENOSPC, errno.EDQUOT) for one in reasons)
    with contextlib.suppress(OSError):  # the folder may be missing
        full = full or "No space left" in str(error) or shutil.disk_usage(target.parent).free < _LEAST_FREE
    reason = "the disk is full" if full else getattr(error, "strerror", None) or str(error).splitlines()[0]
    before = any(target.with_name(name).is_file() for name in (LAST, PREVIOUS))
    then = "it goes on from the checkpoint before" if before else "there is no earlier one, the run restarts"
    return f"cannot write checkpoint {target}: {reason}; make room and give the same command again: {then}"


def check_same_run(found: tuple[Path, dict[str, Any]], recipe: Recipe, fingerprint: str) -> None:
    """Make sure that a checkpoint (its path and content) is of this recipe on these data.

    Raises:
        ConfigError: It is another run; the message has the difference.
    """
    path, content = found
    before = config.build(Recipe, content["hyper_parameters"]["recipe"]).as_dict()
    changed = [name for name, value in recipe.as_dict().items() if before[name] != value]
    known = provenance.from_checkpoint(content).get("data_sha256", fingerprint)
    changed += ["data, although it is called the same"] if known != fingerprint else []
    if changed:
        raise ConfigError(
            f"{path.parent} holds a run with another {', '.join(changed)}: choose another --out, or --fresh"
        )


def same_init(found: tuple[Path, dict[str, Any]], init: list[str]) -> list[str]:
    """Return the initial weights of a resumed run; if files are given again, they must be the same.

    Raises:
        ConfigError: They are others.
    """
    path, content = found
    began: list[str] | None = provenance.from_checkpoint(content).get("init")
    if began is None or not init:  # from before this was kept, or left to the checkpoint
        return began or init
    if [one.rsplit(" ", 1)[-1] for one in began] != [one.rsplit(" ", 1)[-1] for one in init]:  # whatever their names
        from_what = ", ".join(began) or "random weights"
        raise ConfigError(
            f"{path.parent} holds a run that began from {from_what}, not from {', '.join(init)}: leave out --init to "
            "resume it, or choose another --out, or --fresh"
        )
    return began


def position(content: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Where a run is; those from before this was kept have checkpoints of whole epochs alone."""
    if "actrec" in content:
        return dict(content["actrec"])
    done = int(content["epoch"]) + 1
    return {"epoch": done, "steps": 0, "seconds": 0.0, "finished": done >= recipe.epochs}


LOCK = ".training.lock"


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keep other runs out of a run's folder while this one lasts.

    Of several processes the first does so. The lock is that process's own (POSIX): those that read clips for it do not
    hold it on when it is killed. Runs are not kept apart where the folder cannot be written to or nothing is locked.

    Args:
        out: The run's folder, which is there.

    Raises:
        DeviceError: Another run writes to it.
    """
    file = None
    if not getattr(rank_zero_only, "rank", None) and os.environ.get("NODE_RANK", "0") == "0":
        with suppress(OSError):
            file = os.open(out / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if file is not None:
            _lock(file, out)
        yield
    finally:
        if file is not None:
            os.close(file)


def _lock(file: int, out: Path) -> None:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:  # either, by system
        raise DeviceError(
            f"another actrec train is writing to '{out}': wait for it, end it, or choose another --out"
        ) from error
    except OSError:  # some network file systems lock nothing
        return


_IN_WORKER = "in DataLoader worker process"

_GOES_ON = "the same command goes on from the last checkpoint"

_PEER_ENDED = ("Connection closed by peer", "Connection reset by peer")

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}


@contextmanager
def translate_errors(folder: Path) -> Iterator[None]:
    """Turn what PyTorch says of memory, disk and reading processes into this project's errors.

    Args:
        folder: That the run writes to.

    Raises:
        DeviceError: Memory or disk are full, a reading process was killed, or another process of the run ended.
        ActrecError: As a reading process raised it, without the process's traceback in its text.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceError(
            "the GPU's memory is full: let a batch go through in more parts (e.g. --set accumulate=4), or take more "
            f"--devices; {str(error).splitlines()[0]}"
        ) from error
    except ActrecError as error:
        lines = str(error).strip().splitlines()
        if _IN_WORKER not in lines[0]:
            raise
        raise type(error)(lines[-1].partition(": ")[2]) from error
    except OSError as error:
        if error.errno not in _DISK:
            raise
        raise DeviceError(f"cannot write to {folder}: {error.strerror}; make room, and {_GOES_ON}") from error
    except RuntimeError as error:
        if any(sign in str(error) for sign in _PEER_ENDED):
            raise DeviceError(f"another process of this run ended, see its own line; {_GOES_ON}") from error
        if "DataLoader worker" not in str(error):
            raise
        raise DeviceError(
            f"a process that reads clips was killed, most often as memory is full: take fewer --workers; {_GOES_ON}"
        ) from error
