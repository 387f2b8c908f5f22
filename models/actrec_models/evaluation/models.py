"""Models to evaluate: a model package, or a checkpoint of a training, which may still be running."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actrec import inference
from actrec.inference import package
from actrec.inference.session import Session, Shape
from actrec.utils.errors import PackageError
from actrec_models.networks.base import Network
from actrec_models.training import checkpoints, restore

CHECKPOINT_SUFFIX = ".ckpt"


class TorchBackend:
    """Backend that runs a network in PyTorch; see `actrec.inference.session.Backend`.

    Args:
        network: In evaluation mode.
    """

    def __init__(self, network: Network):
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self._network = network.to(self.device)
        self.inputs: dict[str, Shape] = {spec.name: (None, *spec.shape) for spec in network.input_specs}
        self.output: Shape = (None, network.config.num_classes)

    def run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Return the logits [N, classes] float32 of inputs [N, …] float32."""
        with torch.inference_mode():
            tensors = {name: torch.from_numpy(value).to(self.device) for name, value in inputs.items()}
            logits: np.ndarray = self._network(**tensors).float().cpu().numpy()
        return logits


@dataclass(frozen=True)
class Model:
    """A model to evaluate.

    Attributes:
        name: Name of the package, or run and file of the checkpoint.
        session: Session that runs it.
        clips: Clip mode of its recipe: "live", "whole" or "stretched" (`scoring.score`).
    """

    name: str
    session: Session
    clips: str = "live"

    @property
    def package(self) -> package.ModelPackage:
        """The package's description; for a checkpoint, the one it would be exported with."""
        return self.session.package


def open_models(paths: Sequence[str | Path], **options: Any) -> list[Model]:
    """Open several models with `open_model`; equal names get the parent folder's name, or a number."""
    models = [open_model(path, **options) for path in paths]
    names = [model.name for model in models]
    unique: list[str] = []
    for model in models:
        path = model.package.path
        folder = path.parent if path.is_file() else path
        unique.append(model.name if names.count(model.name) == 1 else f"{folder.parent.name}/{model.name}")
    numbered = [
        name if name not in unique[:k] else f"{name} ({unique[:k].count(name) + 1})" for k, name in enumerate(unique)
    ]
    return [dataclasses.replace(model, name=name) for model, name in zip(models, numbered, strict=True)]


def open_model(
    path: str | Path, *, backend: str = "onnxruntime", threads: int = 0, precision: str = "float32"
) -> Model:
    """Open a package (a folder, or a name in the zoo) or a checkpoint of `actrec train` (a file).

    Args:
        path: The package or checkpoint.
        backend: Backend of a package; a checkpoint runs in PyTorch.
        threads: CPU threads; 0 for all.
        precision: Precision of a package, one of `actrec.inference.package.PRECISIONS`.

    Raises:
        PackageError: It is missing, corrupt or foreign, or has no network in this precision.
    """
    threads = threads or torch.get_num_threads()
    if Path(path).is_file() or str(path).endswith(CHECKPOINT_SUFFIX):
        if precision != "float32":
            how = "export it with --float16" if precision == "float16" else "export it, then `actrec quantize` it"
            raise PackageError(f"{path} is a checkpoint, which runs in float32: {how}")
        torch.set_num_threads(threads)
        return _open_checkpoint(Path(path))
    last = Path(path, checkpoints.LAST)
    if last.is_file() and not Path(path, package.DESCRIPTION).is_file():
        raise PackageError(f"{path} is the folder of a training, no package: name its checkpoint, {last}")
    options: dict[str, Any] = {"threads": threads} if inference.resolve(backend) == "onnxruntime" else {}
    if precision != "float32":
        options["precision"] = precision
    session = inference.load(path, backend, **options)
    return Model(session.package.name, session, str(session.package.provenance.settings.get("clips", "live")))


def _open_checkpoint(path: Path) -> Model:
    recipe, draft, network = restore.open_checkpoint(path)
    description = dataclasses.replace(draft, path=path.resolve())
    # The run's folder distinguishes checkpoints, which are all called `last.ckpt`.
    name = f"{path.resolve().parent.name}/{path.name}"
    return Model(name, Session(description, TorchBackend(network), warm_up_runs=0), recipe.clips)
