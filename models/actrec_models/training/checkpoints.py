"""Training checkpoints: safe reading and writing, resuming, restored networks, and the lock of a run's folder."""

import contextlib
import dataclasses
import errno
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only

from actrec.inference.package import ModelPackage, Rejection
from actrec.utils import config, file_lock
from actrec.utils.errors import ActrecError, ConfigError, DeviceError, PackageError
from actrec_models.networks.base import Network
from actrec_models.training import provenance
from actrec_models.training.module import RecognitionModule
from actrec_models.training.recipe import Recipe

logger = logging.getLogger(__name__)

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"

LOCK = ".training.lock"
_FOREIGN = "it is no plain checkpoint of `actrec train`, or is truncated"
_RESUMES = "the same command resumes from the last checkpoint"
_MIN_FREE_BYTES = 1 << 20  # free space below which a failed write is taken for a full disk

Checkpoint = tuple[Path, dict[str, Any]]
"""A checkpoint's path and its content."""


class EarlierVersionError(PackageError):
    """A checkpoint has a format that this version no longer reads."""


def read(path: Path) -> dict[str, Any]:
    """Return a checkpoint's content, without unpickling; raise PackageError if it is missing, damaged or foreign."""
    if path.is_dir():
        raise PackageError(f"{path} is a folder: name a checkpoint in it, such as {path / LAST}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        recipe, classes = content["hyper_parameters"]["recipe"], content["hyper_parameters"]["classes"]
        mappings = (recipe, content["state_dict"], content["actrec"])
        known = isinstance(classes, list) and all(isinstance(each, dict) for each in mappings)
    except Exception as error:  # torch and pickle raise a dozen types for a file that is not a plain checkpoint
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # torch seeks beyond the end of a truncated file
            raise PackageError(f"cannot read checkpoint {path}: {error.strerror or error}") from error
        raise PackageError(f"{path} is refused: {_FOREIGN}") from error
    if not known:
        raise PackageError(f"{path} is refused: {_FOREIGN}")
    if unknown := sorted(set(recipe) - {field.name for field in dataclasses.fields(Recipe)}):
        raise EarlierVersionError(
            f"{path} was written by an earlier version (recipe fields {', '.join(map(str, unknown))}): "
            "train it again (actrec train --fresh)"
        )
    return dict(content)


def newest(folder: Path) -> Checkpoint | None:
    """Return a run's newest readable checkpoint, None without any; raise PackageError if all are damaged."""
    found = [folder / name for name in (LAST, PREVIOUS) if (folder / name).is_file()]
    for number, path in enumerate(found):
        try:
            content = read(path)
        except EarlierVersionError:
            raise
        except PackageError as error:
            if number + 1 == len(found):
                raise PackageError(f"{error}; restart with --fresh, or choose another --out") from error
            logger.warning("%s: damaged; resuming from %s, the checkpoint before it", path, found[number + 1].name)
            continue
        if path.name == PREVIOUS and number == 0:
            logger.warning("%s is missing: resuming from %s, the checkpoint before it", folder / LAST, path.name)
        return path, content
    return None


class AtomicIO(TorchCheckpointIO):
    """Write a checkpoint under a temporary name, then rename it; the old `last.ckpt` becomes `previous.ckpt`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save as the base class, but atomically; raise DeviceError if the disk is full or not writable."""
        target = Path(path)
        part = target.with_name(f".{target.name}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(part, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            if target.name == LAST and target.is_file():
                os.replace(target, target.with_name(PREVIOUS))
            os.replace(part, target)
        except (OSError, RuntimeError) as error:  # torch's writer turns a failed write into a RuntimeError
            message = _write_error(target, error)  # before the space is freed
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise DeviceError(message) from error


def _write_error(target: Path, error: Exception) -> str:
    """Explain a failed write. For a full disk, PyTorch reports different lengths; the cause is in the chain."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    full = any(getattr(each, "errno", None) in (errno.ENOSPC, errno.EDQUOT) for each in chain)
    with contextlib.suppress(OSError):  # the folder may be missing
        full = full or "No space left" in str(error) or shutil.disk_usage(target.parent).free < _MIN_FREE_BYTES
    reason = "the disk is full" if full else getattr(error, "strerror", None) or str(error).splitlines()[0]
    earlier = any(target.with_name(name).is_file() for name in (LAST, PREVIOUS))
    remedy = "it resumes from the checkpoint before" if earlier else "there is no earlier one, the run restarts"
    return f"cannot write checkpoint {target}: {reason}; make room and give the same command again: {remedy}"


def check_same_run(found: Checkpoint, recipe: Recipe, fingerprint: str, init: list[str]) -> list[str]:
    """Return the initial weights of a run; raise ConfigError if it has another recipe, other data or other `init`."""
    path, content = found
    before, run = config.build(Recipe, content["hyper_parameters"]["recipe"]).as_dict(), content["actrec"]["provenance"]
    changed = [name for name, value in recipe.as_dict().items() if before[name] != value and name != "commands"]
    if run["data_sha256"] != fingerprint:
        changed.append("data, although it is called the same")
    if changed:
        raise ConfigError(
            f"{path.parent} holds a run with another {', '.join(changed)}: choose another --out, or --fresh"
        )
    began: list[str] = run["init"]
    if init and [each.rsplit(" ", 1)[-1] for each in began] != [each.rsplit(" ", 1)[-1] for each in init]:  # hashes
        raise ConfigError(
            f"{path.parent} holds a run that began from {', '.join(began) or 'random weights'}, not from "
            f"{', '.join(init)}: leave out --init to resume it, or choose another --out, or --fresh"
        )
    return began


# -- restored networks -------------------------------------------------------------------------------------------------


def open_checkpoint(path: Path) -> tuple[Recipe, ModelPackage, Network]:
    """Return a checkpoint's recipe, its package description without rejection and accuracy, and its network.

    Raises:
        PackageError: The file is missing, no checkpoint of `actrec train`, or of a stage that trained a part alone.
    """
    content = read(path)  # once: a running training may replace the file
    if part := content["actrec"].get("part"):
        raise PackageError(
            f"{path} is of stage {part}, which trains this part of the network alone: name {LAST} or {BEST} in the "
            "run's own folder"
        )
    parameters = content["hyper_parameters"]
    module = RecognitionModule(parameters["recipe"], parameters["classes"])
    try:
        module.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        raise PackageError(f"{path} does not fit the network that its recipe names: train it again") from error
    recipe, network = module.recipe, module.network.eval()
    trained = provenance.package_provenance(recipe, provenance.from_checkpoint(content))
    figures = {"parameters": provenance.parameter_count(network), **trained.figures}
    trained = dataclasses.replace(trained, figures=figures)
    description = provenance.describe_package(
        recipe.model, recipe.options, parameters["classes"], network, trained, recipe.window(network)
    )
    if recipe.background:
        description = dataclasses.replace(description, rejection=Rejection(background=0.0))
    return recipe, description, network


# -- lock and errors of a run ------------------------------------------------------------------------------------------


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Lock a run's folder against other runs; the first of several processes does so.

    The POSIX lock is the process's own: its data loader processes do not keep it after the process is killed. A folder
    that is not writable, or a file system without locks, stays unlocked.

    Raises:
        DeviceError: Another run writes to the folder.
    """
    file = None
    if not getattr(rank_zero_only, "rank", None) and os.environ.get("NODE_RANK", "0") == "0":
        with contextlib.suppress(OSError):
            file = os.open(out / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if file is not None:
            with contextlib.suppress(OSError):
                try:
                    file_lock.lock(file, wait=False, own=True)
                except BlockingIOError as error:
                    raise DeviceError(
                        f"another actrec train is writing to '{out}': wait for it, end it, or choose another --out"
                    ) from error
        yield
    finally:
        if file is not None:
            os.close(file)


@contextmanager
def translate_errors(folder: Path) -> Iterator[None]:
    """Convert PyTorch's errors of memory, disk and data loader processes, of a run that writes to `folder`, to ours.

    Raises:
        DeviceError: Memory or disk are full, a data loader process was killed, or another process of the run ended.
        ActrecError: An error of a data loader process, without that process's traceback.
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
        if "in DataLoader worker process" not in lines[0]:
            raise
        raise type(error)(lines[-1].partition(": ")[2]) from error
    except (ConnectionResetError, ConnectionRefusedError, RuntimeError) as error:  # the first two: its queue broke
        text = str(error) if isinstance(error, RuntimeError) else "DataLoader worker (pid"
        if any(reason in text for reason in ("Connection closed by peer", "Connection reset by peer")):
            raise DeviceError(f"another process of this run ended, see its own line; {_RESUMES}") from error
        if "DataLoader worker (pid" not in text:  # "… worker process 0": an error of its own
            raise
        raise DeviceError(
            f"a process that reads clips was killed, most often as memory is full: take fewer --workers; {_RESUMES}"
        ) from error
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}:
            raise
        raise DeviceError(f"cannot write to {folder}: {error.strerror}; make room, and {_RESUMES}") from error
