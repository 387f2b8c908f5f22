"""The readers of training, each with a valid file: recipes, weights, checkpoints, stores. They import PyTorch late."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests import ntu_text


def write_recipe(folder: Path) -> Path:
    """Write a recipe."""
    from actrec_models.training import recipe

    shutil.copy(recipe.find("joint_tcn_utd_mhad"), folder / "recipe.yaml")
    return folder / "recipe.yaml"


def read_recipe(path: Path) -> object:
    """Read a recipe as `actrec train` does."""
    from actrec_models.training import recipe

    return recipe.read(path)


def write_weights(name: str) -> Callable[[Path], Path]:
    """Return a function that writes a network as a checkpoint, or its weights as safetensors, by the file's name."""

    def write(folder: Path) -> Path:
        import torch

        from actrec_models.export.exporter import weights_bytes
        from actrec_models.training import recipe
        from actrec_models.training.module import RecognitionModule

        plain = recipe.read("joint_tcn_utd_mhad", {"options": {"width": 8}}).as_dict()
        module = RecognitionModule(plain, ["wave", "clap"])
        if name.endswith(".safetensors"):
            (folder / name).write_bytes(weights_bytes(module.network))
            return folder / name
        run = {"provenance": {"commit": ""}, "epochs": 1, "seconds": 1.0}
        parameters = {"recipe": plain, "classes": ["wave", "clap"]}
        content = {"hyper_parameters": parameters, "state_dict": module.state_dict(), "actrec": run}
        torch.save(content, folder / name)
        return folder / name

    return write


def read_weights(path: Path) -> object:
    """Read initial weights as `actrec train --init` does."""
    from actrec_models.training import initial_weights

    return initial_weights.read(path)


def read_checkpoint(path: Path) -> object:
    """Read a checkpoint as `actrec eval` and `actrec export` do."""
    from actrec_models.training import checkpoints

    return checkpoints.open_checkpoint(path)


def write_store(name: str) -> Callable[[Path], Path]:
    """Return a function that prepares a store of a user's recordings and returns one of its files."""

    def write(folder: Path) -> Path:
        from actrec_models.data.preparation import prepare

        joints = ntu_text.person(4) * [1, -1, 1]
        for k, label in enumerate(("wave", "clap", "wave")):
            (folder / "own" / label).mkdir(parents=True, exist_ok=True)
            np.savez(folder / "own" / label / f"{k}.npz", positions=joints, layout="kinect_v2_25", fps=15.0)
        prepare("folder", folder / "own", folder / "store")
        return next((folder / "store").glob(name))

    return write


def read_store(path: Path) -> object:
    """Read all clips of a store."""
    from actrec.datasets.store import PreparedDataset

    store = PreparedDataset(path.parent)
    return [store[index].bodies.sum() for index in range(len(store))]
