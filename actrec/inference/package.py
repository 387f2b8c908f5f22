"""Model packages: a folder with `model.onnx` and its description `model.yaml`, which also records the training.

Nothing is ever unpickled. A session checks that the ONNX graph agrees with `model.yaml` (`actrec.inference.session`).
"""

import contextlib
import copy
import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from actrec.features.specs import AXES, COMBINE, InputSpec, WindowSpec
from actrec.types import UNKNOWN
from actrec.utils import config, folders
from actrec.utils.errors import PackageError

SCHEMA_VERSION = 2

DESCRIPTION, NETWORK, WEIGHTS, CARD = "model.yaml", "model.onnx", "model.safetensors", "README.md"

PRECISIONS = ("float32", "float16", "int8")
"""Precisions of a network: float32 in `model.onnx`, the others in `model.<precision>.onnx`."""

FILES = (DESCRIPTION, NETWORK, WEIGHTS, CARD, *(f"model.{name}.onnx" for name in PRECISIONS[1:]))
"""Files of a package's folder; the first one makes it a package."""

MAX_BYTES = 1 << 31
"""Limit of each file: an ONNX file, a protocol buffer, cannot have more."""

UNTRAINED = "none"  # dataset of an untrained network
_TAKEN = {
    "stretched": "cut out and stretched into the window",
    "whole": "looked at as a whole",
    "subsequences": "cut into sub-sequences",
}
_MADE_BY = {"float16": "actrec export {} --float16 --out …", "int8": "actrec quantize {} --out …"}
_REMEDY = "get or export the package again (`actrec models` lists the installed packages)"


@dataclass(frozen=True)
class Provenance:
    """Where a model comes from.

    Attributes:
        dataset, split: Training data and their division.
        epochs: Whole epochs of all its stages.
        accuracy: Top-1 on the split's test part, 0..1.
        license: Allowed use by the data's license ("research use").
        recipe: Commands that train it again, in order.
        commit: Source that trained it.
        created: ISO 8601 date and time.
        onnx_sha256: Hash of `model.onnx`; `write` fills it in.
        figures: Further named figures.
        settings: Every field of the recipe, as it was trained.
        data_sha256: Fingerprint of the training part.
        init: Name and hash of each file of initial weights.
        command: The command line that trained it.
        packages: Versions of Python and of the libraries.
        trained_on: Machine and device.
        hours: Duration of the training.
        frame_rates: Frame rates of the training recordings in Hz: lowest, median and highest; empty if unknown.
        scene_flow: Method, height (px) and rate (Hz) of the training's scene flow (`actrec.scene_flow.identity`); empty
            if unknown or not taken.
    """

    dataset: str
    split: str
    seed: int
    epochs: int
    accuracy: float
    license: str
    recipe: tuple[str, ...]
    commit: str
    created: str
    onnx_sha256: str = ""
    figures: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    data_sha256: str = ""
    init: tuple[str, ...] = ()
    command: str = ""
    packages: dict[str, Any] = field(default_factory=dict)
    trained_on: str = ""
    hours: float = 0.0
    frame_rates: tuple[float, ...] = ()
    scene_flow: dict[str, Any] = field(default_factory=dict)

    @property
    def untrained(self) -> bool:
        """Whether the network is untrained. A checkpoint from within its first epoch counts as trained."""
        return self.epochs == 0 and self.dataset == UNTRAINED

    @property
    def rates_text(self) -> str:
        """The frame rates of the training recordings, for the user."""
        low, high = min(self.frame_rates, default=0.0), max(self.frame_rates, default=0.0)
        return f"{low:g} Hz" if low == high else f"{low:g} to {high:g} Hz"

    @property
    def live_note(self) -> str:
        """A warning before live use, if the network was evaluated on recordings taken in another way."""
        found = self.figures.get("live_accuracy")
        if not isinstance(found, float):
            return ""
        taken = _TAKEN.get(str(self.figures.get("clips")), "taken otherwise than live")
        live = f"{found:.1%} in windows as a camera gives them"
        return f"recordings {taken}: {self.accuracy:.1%} of them are right, {live}"


@dataclass(frozen=True)
class Rejection:
    """When a label is published as `unknown`.

    Attributes:
        threshold: Smallest accepted confidence (probability of the best class).
        temperature: Divisor of the logits before the softmax.
        calibrated_on: Description of the clips that these were fitted on.
        background: Logit of "none of these" as another class of the softmax; None for none. It lowers the confidence
            if every class is weak, not only if two are alike.
    """

    threshold: float = 0.0
    temperature: float = 1.0
    calibrated_on: str = ""
    background: float | None = None

    @property
    def note(self) -> str:
        """Description for the user."""
        if self.threshold == 0 and self.background is not None:
            return f"`{UNKNOWN}` if the background is more probable than each class"
        if self.threshold == 0:
            return f"never says `{UNKNOWN}`, whatever it sees"
        beside = "" if self.background is None else f", beside a background logit of {self.background:g},"
        if self.temperature != 1:
            beside = f" of logits divided by {self.temperature:g}" + beside
        return f"confidence below {self.threshold:g}{beside} is `{UNKNOWN}`"


@dataclass(frozen=True)
class EventThresholds:
    """When an action event begins (`actrec.recognition.events`).

    Attributes:
        begin: Average probability that begins an event; 0 for the rejection's threshold.
        classes: The same of classes that need another one.
        motions: Classes whose actions have no rest in them: rest ends their events.
        chosen_on: Description of the recordings that these were chosen on, with the figures there; empty if none.
    """

    begin: float = 0.0
    classes: dict[str, float] = field(default_factory=dict)
    motions: tuple[str, ...] = ()
    chosen_on: str = ""


@dataclass(frozen=True)
class LowerPrecision:
    """The same network in float16 or int8, with the same float32 inputs and logits.

    Attributes:
        difference: Largest difference of its logits from the float32 network's as a share of the spread of a clip's
            logits: of float16 on simulated people, of int8 on recorded clips.
        file, sha256: Its file in the package's folder; `write` fills these in.
        accuracy: Top-1 on the split's test part, 0..1, measured at export; None if it was not measured.
        calibrated_on: Description of the clips that give int8's ranges.
        kept: Layer groups that stay in float32 (`actrec.inference.tensorrt.builder`).
    """

    difference: float
    file: str = ""
    sha256: str = ""
    accuracy: float | None = None
    calibrated_on: str = ""
    kept: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelPackage:
    """A validated model package.

    Attributes:
        family, variant: The network (`actrec_models` name) and its variant.
        labels: Class names in the order of the logits.
        window: The time window of its input.
        bodies: M, the number of people of one input.
        events: Thresholds of action events.
        float16, int8: The network in lower precision; None if the package has none.
        path: The folder; not part of the file.
    """

    schema_version: int
    family: str
    variant: str
    labels: tuple[str, ...]
    window: WindowSpec
    bodies: int
    inputs: tuple[InputSpec, ...]
    rejection: Rejection
    provenance: Provenance
    events: EventThresholds = field(default_factory=EventThresholds)
    float16: LowerPrecision | None = None
    int8: LowerPrecision | None = None
    path: Path = field(default=Path(), metadata={"hidden": True})

    @property
    def name(self) -> str:
        """The folder's name, used by the zoo and in `ActionLabel.model_name`."""
        return self.path.name

    @property
    def precisions(self) -> tuple[str, ...]:
        """The `PRECISIONS` of its networks."""
        return tuple(name for name in PRECISIONS if name == "float32" or self.lower(name))

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of its inputs by name, without the batch axis."""
        return {spec.name: tuple(spec.shape) for spec in self.inputs}

    def lower(self, precision: str) -> LowerPrecision | None:
        """Return the description of its network in "float16" or "int8"; None if it has none."""
        return {"float16": self.float16, "int8": self.int8}.get(precision)

    def onnx_path(self, precision: str = "float32") -> Path:
        """Return the file of the network in one of `PRECISIONS`.

        Raises:
            PackageError: The package has none in this precision.
        """
        if precision == "float32":
            return self.path / NETWORK
        found = self.lower(precision)
        if found is None:
            raise PackageError(
                f"{self.path} has no network in {precision}: write one with "
                f"`{_MADE_BY[precision].format(self.path)}`, or take precision float32 (fp32 of TensorRT)"
            )
        return self.path / found.file

    def onnx_sha256(self, precision: str = "float32") -> str:
        """Return the hash of that file in `model.yaml`; raises as `onnx_path`."""
        self.onnx_path(precision)
        lower = self.lower(precision)
        return self.provenance.onnx_sha256 if lower is None else lower.sha256

    def read_onnx(self, precision: str = "float32") -> bytes:
        """Return the network's bytes in one of `PRECISIONS`, checked against the hash in `model.yaml`.

        Raises:
            PackageError: The package has none in this precision, the file is missing or was changed.
        """
        file, expected = self.onnx_path(precision), self.onnx_sha256(precision)
        try:
            content = folders.read_file(file, MAX_BYTES)
        except OSError as error:
            raise PackageError(f"{file}: {error.strerror or error}; {_REMEDY}") from error
        found = hashlib.sha256(content).hexdigest()
        if found != expected:
            raise PackageError(
                f"{file} is not the file that {DESCRIPTION} describes (SHA-256 {found[:12]}…, expected "
                f"{expected[:12]}…): truncated or replaced; {_REMEDY}"
            )
        return content


def load(path: str | Path, verify: bool = True) -> ModelPackage:
    """Read and validate a package folder.

    Args:
        verify: Also read `model.onnx` and check its hash; a lower precision's hash is checked on use.

    Raises:
        PackageError: It is missing, corrupt or foreign; the message names the file and the remedy.
    """
    folder = Path(os.path.realpath(os.path.expanduser(path)))
    file = folder / DESCRIPTION
    mapping = _read_yaml(folder, file)
    _check_version(file, mapping)
    provenance = mapping.get("provenance") if isinstance(mapping, dict) else None
    if isinstance(provenance, dict) and isinstance(provenance.get("recipe"), str):  # of an earlier version
        provenance["recipe"] = [provenance["recipe"]]
    try:
        package = config.read_mapping(ModelPackage, mapping, DESCRIPTION)
        _check(package)
    except PackageError as error:
        raise PackageError(f"{file}: {str(error).removeprefix(DESCRIPTION + ': ')}; {_REMEDY}") from error
    package = dataclasses.replace(package, path=folder)
    if verify:
        package.read_onnx()
    return package


def write(
    folder: str | Path,
    package: ModelPackage,
    onnx: bytes,
    weights: bytes | None = None,
    card: str = "",
    overwrite: bool = False,
    lower: Mapping[str, bytes] | None = None,
    check: Callable[[ModelPackage], object] | None = None,
) -> ModelPackage:
    """Write a package to a temporary folder, validate it there, and rename it into place.

    Args:
        folder: Output folder; its last part becomes the package's name.
        package: Its description; path and hashes are filled in here.
        weights: Content of `model.safetensors`, if any.
        lower: The network in "float16" and "int8", which the description's fields of these names describe; without
            it the package has none, whatever the description says.
        check: Called with the package in its temporary folder; if it raises, nothing is replaced.

    Returns:
        The package as `load` reads it.

    Raises:
        PackageError: The description is invalid, or something exists that must not be replaced.
        DeviceError: The folder cannot be written.
    """
    target = folders.check_output_folder(folder, FILES, overwrite)
    provenance = dataclasses.replace(package.provenance, onnx_sha256=hashlib.sha256(onnx).hexdigest())
    lower = lower or {}
    described: dict[str, LowerPrecision | None] = dict.fromkeys(PRECISIONS[1:])
    for name, content in lower.items():
        if (precision := package.lower(name)) is None:
            raise PackageError(f"a network in {name} needs a description: ModelPackage.{name}")
        sha256 = hashlib.sha256(content).hexdigest()
        described[name] = dataclasses.replace(precision, file=f"model.{name}.onnx", sha256=sha256)
    mapping = config.to_plain(dataclasses.replace(package, provenance=provenance, **described))  # type: ignore[arg-type]
    files = {
        DESCRIPTION: yaml.safe_dump(
            mapping, sort_keys=False, allow_unicode=True, width=110, explicit_start=True, explicit_end=True
        ).encode(),
        NETWORK: onnx,
    }
    files |= {f"model.{name}.onnx": content for name, content in lower.items()}
    if weights is not None:
        files[WEIGHTS] = weights
    if card:
        files[CARD] = card.encode()
    folders.write_folder(target, files, check=lambda written: check(load(written)) if check else load(written))
    return load(target)


@functools.lru_cache(maxsize=1)
def _parse(content: bytes) -> Any:
    """Parse YAML, which takes 0.1 s: a node reads the description of its model three times as it starts."""
    return config.parse_yaml(content)


def _read_yaml(folder: Path, file: Path) -> Any:
    try:
        if not folders.is_folder(folder):
            raise PackageError(f"{folder}: no such model package folder; {_REMEDY}")
        content = folders.read_file(file)
        # The first part of a YAML file is YAML, too. Files of earlier versions do not have these two marks.
        has_marks = content.startswith(b"---")
        if has_marks and not content.rstrip().endswith(b"\n..."):
            raise PackageError(f"{file} is cut off: it does not end with `...`; {_REMEDY}")
        mapping = copy.deepcopy(_parse(content))
        if not has_marks and isinstance(mapping, dict) and not content.endswith(b"\n"):
            raise PackageError(f"{file} is cut off: its last line does not end; {_REMEDY}")
        return mapping
    except OSError as error:
        trained: list[Path] = []
        with contextlib.suppress(OSError):
            trained = sorted(folder.glob("*.ckpt"))
        remedy = f"export the training in it (actrec export {trained[0]} --out …)" if trained else _REMEDY
        raise PackageError(f"{file}: {error.strerror or error}, so {folder} is no model package; {remedy}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        at = "" if mark is None else f" (line {mark.line + 1})"
        raise PackageError(f"{file} cannot be read as plain YAML{at}; {_REMEDY}") from error


def _check_version(file: Path, mapping: Any) -> None:
    version = mapping.get("schema_version") if isinstance(mapping, dict) else None
    if isinstance(version, int) and version != SCHEMA_VERSION:
        remedy = "export it again from its checkpoint (actrec export), or teach it again (actrec teach)"
        remedy = "update actrec" if version > SCHEMA_VERSION else remedy
        raise PackageError(f"{file}: schema_version is {version}, this actrec reads {SCHEMA_VERSION}: {remedy}")


def _check(package: ModelPackage) -> None:
    """Check the values that types alone do not restrict."""
    version, labels, window, inputs = package.schema_version, package.labels, package.window, package.inputs
    rejection, provenance = package.rejection, package.provenance
    rules = [
        (version == SCHEMA_VERSION, f"schema_version is {version}, expected {SCHEMA_VERSION}"),
        (len(labels) >= 2, f"labels has {len(labels)} entries, expected at least 2"),
        (all(labels), "labels has an empty name"),
        (len(set(labels)) == len(labels), "labels has a name twice"),
        (UNKNOWN not in labels, f"labels has '{UNKNOWN}', which is kept for rejected windows"),
        (0 < window.seconds <= 600, f"window: seconds is {window.seconds}, allowed: above 0 to 600"),
        (1 <= window.frames <= 4096, f"window: frames is {window.frames}, allowed: 1 to 4096"),
        (0 <= window.clip <= window.frames, f"window: clip is {window.clip}, allowed: 0 to frames ({window.frames})"),
        (window.stride >= 0, f"window: stride is {window.stride}, allowed: 0 and more"),
        (
            window.stride > 0 or window.clip_frames == window.frames,
            f"window: clips of {window.clip} frames in {window.frames} need a stride",
        ),
        (window.gravity in AXES, f"window: gravity is '{window.gravity}', allowed: {', '.join(AXES)}"),
        (window.combine in COMBINE, f"window: combine is '{window.combine}', allowed: {', '.join(COMBINE)}"),
        (1 <= package.bodies <= 16, f"bodies is {package.bodies}, allowed: 1 to 16"),
        (bool(inputs), "inputs is empty"),
        (len({i.name for i in inputs}) == len(inputs), "inputs has a name twice"),
        (all(i.shape and min(i.shape) > 0 for i in inputs), "inputs has a shape that is empty or not positive"),
        (0 <= rejection.threshold <= 1, f"rejection: threshold is {rejection.threshold}, allowed: 0 to 1"),
        (0 <= package.events.begin <= 1, f"events: begin is {package.events.begin}, allowed: 0 to 1"),
        *(
            (not (other := sorted({*names} - {*labels})), f"events: {key} names {other[:1]}, no label")
            for key, names in (("classes", package.events.classes), ("motions", package.events.motions))
        ),
        (
            all(isinstance(value, float) and 0 < value <= 1 for value in package.events.classes.values()),
            f"events: classes is {package.events.classes}, allowed: above 0 to 1",
        ),
        (rejection.temperature > 0, f"rejection: temperature is {rejection.temperature}, must be above 0"),
        (0 <= provenance.accuracy <= 1, f"provenance: accuracy is {provenance.accuracy}, allowed: 0 to 1"),
        (len(provenance.onnx_sha256) == 64, "provenance: onnx_sha256 is no SHA-256"),
    ]
    for name in PRECISIONS[1:]:
        if (lower := package.lower(name)) is not None:
            plain = lower.file.endswith(".onnx") and Path(lower.file).name == lower.file and lower.file != NETWORK
            rules += [
                (plain, f"{name}: file is '{lower.file}', expected the name of an ONNX file beside it"),
                (len(lower.sha256) == 64, f"{name}: sha256 is no SHA-256"),
                (lower.difference >= 0, f"{name}: difference is {lower.difference}, allowed: 0 and more"),
                (0 <= (lower.accuracy or 0) <= 1, f"{name}: accuracy is {lower.accuracy}, allowed: 0 to 1"),
            ]
    for holds, message in rules:
        if not holds:
            raise PackageError(message)
