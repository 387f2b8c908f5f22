"""What is to be scored: a model package, or a checkpoint of a training that may still be going on."""

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
from actrec_models.export import exporter
from actrec_models.networks.base import Network
from actrec_models.training import checkpoints

SUFFIX = ".ckpt"


class TorchBackend:
    """Runs a network in PyTorch; see `actrec.inference.session.Backend`.

    Args:
        network: In evaluation mode.
    """

    def __init__(self, network: Network):
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self._network = network.to(self.device)
        self.inputs: dict[str, Shape] = {spec.name: (None, *spec.shape) for spec in network.input_specs}
        self.output: Shape = (None, network.config.num_classes)

    def run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Logits [N, classes] float32 of inputs [N, …] float32."""
        with torch.inference_mode():
            given = {name: torch.from_numpy(value).to(self.device) for name, value in inputs.items()}
            logits: np.ndarray = self._network(**given).float().cpu().numpy()
        return logits


@dataclass(frozen=True)
class Model:
    """Something that can be scored.

    Attributes:
        name: Of the package, or run and file of the checkpoint.
        session: Runs it.
        clips: How its recipe wants recordings taken: "live", "whole" or "stretched" (`scoring.score`).
    """

    name: str
    session: Session
    clips: str = "live"

    @property
    def package(self) -> package.ModelPackage:
        """Its description; of a checkpoint, one that was never written."""
        return self.session.package


def open_models(paths: Sequence[str | Path], **options: Any) -> list[Model]:
    """As `open_model` each; those of one name are told apart by the folders that they lie in, or by a number."""
    models, seen = [open_model(path, **options) for path in paths], list[str]()
    names = [model.name for model in models]
    for model in models:
        name = model.name if names.count(model.name) == 1 else f"{_folder(model).parent.name}/{model.name}"
        seen.append(name)
    numbered = [name if name not in seen[:k] else f"{name} ({seen[:k].count(name) + 1})" for k, name in enumerate(seen)]
    return [dataclasses.replace(model, name=name) for model, name in zip(models, numbered, strict=True)]


def _folder(model: Model) -> Path:
    """Of a package, or of a checkpoint's run."""
    path = model.package.path
    return path.parent if path.is_file() else path


def open_model(
    path: str | Path, *, backend: str = "onnxruntime", threads: int = 0, precision: str = "float32"
) -> Model:
    """Opens a package (a folder, or a name in the zoo) or a checkpoint of `actrec train` (a file).

    Args:
        path: What to open.
        backend: Runs a package; a checkpoint runs in PyTorch.
        threads: CPU threads; 0 for as many as there are.
        precision: What a package computes in; one of `actrec.inference.package.PRECISIONS`.

    Raises:
        PackageError: It is missing, corrupt or foreign, or has no network in this precision.
    """
    threads = threads or torch.get_num_threads()
    if Path(path).is_file() or str(path).endswith(SUFFIX):
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
    recipe, draft, network = exporter.open_checkpoint(path)
    described = dataclasses.replace(draft, path=path.resolve())
    # A run's folder tells its checkpoints from another run's: they are all called `last.ckpt`.
    name = f"{path.resolve().parent.name}/{path.name}"
    return Model(name, Session(described, TorchBackend(network), warm_up_runs=0), recipe.clips)
