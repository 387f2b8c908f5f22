"""Reads training checkpoints without unpickling."""

from pathlib import Path
from typing import Any

import torch

from actrec.errors import PackageError


def read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint of `actrec train`.

    Raises:
        PackageError: The file is missing, damaged, foreign, or wants to run code.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        recipe, classes = content["hyper_parameters"]["recipe"], content["hyper_parameters"]["classes"]
        known = isinstance(recipe, dict) and isinstance(classes, list) and isinstance(content["state_dict"], dict)
    except OSError as error:
        raise PackageError(f"cannot read checkpoint {path}: {error.strerror or error}") from error
    except Exception as error:  # torch and pickle raise a dozen types for what is not a plain checkpoint
        raise PackageError(f"{path} is refused: it is no plain checkpoint of `actrec train`") from error
    if not known:
        raise PackageError(f"{path} is refused: it is no plain checkpoint of `actrec train`")
    return dict(content)
