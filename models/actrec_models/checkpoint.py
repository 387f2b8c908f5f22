"""Reads training checkpoints without unpickling."""

import errno
import logging
from pathlib import Path
from typing import Any

import torch

from actrec.errors import PackageError

logger = logging.getLogger(__name__)

_FOREIGN = "it is no plain checkpoint of `actrec train`, or is truncated"
LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"


def read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint of `actrec train`.

    Raises:
        PackageError: The file is missing, damaged, foreign, or wants to run code.
    """
    if path.is_dir():
        raise PackageError(f"{path} is a folder: name a checkpoint in it, such as {path / LAST}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        recipe, classes = content["hyper_parameters"]["recipe"], content["hyper_parameters"]["classes"]
        known = isinstance(recipe, dict) and isinstance(classes, list) and isinstance(content["state_dict"], dict)
    except Exception as error:  # torch and pickle raise a dozen types for what is not a plain checkpoint
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # torch seeks beyond the end of a file cut off
            raise PackageError(f"cannot read checkpoint {path}: {error.strerror or error}") from error
        raise PackageError(f"{path} is refused: {_FOREIGN}") from error
    if not known:
        raise PackageError(f"{path} is refused: {_FOREIGN}")
    _state_modalities(recipe, content["state_dict"])
    return dict(content)


def newest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint of a run that can be read, and its content; None where the run has not begun.

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
                raise PackageError(f"{error}; start anew with --fresh, or choose another --out") from error
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
