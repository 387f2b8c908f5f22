"""Inference session: features, network, softmax and rejection, from a window to its prediction."""

import logging
from collections import UserDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Protocol

import numpy as np

from actrec import features
from actrec.features.clips import each_clip, example_clip, spans_window
from actrec.features.specs import FrameFeature, InputSpec
from actrec.inference.package import DESCRIPTION, NETWORK, ModelPackage
from actrec.skeleton import layouts
from actrec.skeleton.layouts import CANONICAL
from actrec.types import KEYS, UNKNOWN, Clip, Prediction
from actrec.utils.errors import AbortedError, ActrecError, InputError, PackageError

logger = logging.getLogger(__name__)

_AXES = {key: shape.strip("[]").split(", ") for key, (_, shape, _) in KEYS.items()}
_SHARED = ("M", "T", "V")  # axes that all keys of a clip share; images may differ in size

# -- checks ------------------------------------------------------------------------------------------------------------


def check(clip: Clip, package: ModelPackage) -> None:
    """Refuse a window that breaks the data contract; a missing stream is reported by its feature.

    Raises:
        InputError: No mapping, an unknown key, a wrong type or shape, infinite values, no body, or more than M.
    """
    if not isinstance(clip, Mapping):
        window = package.window
        raise InputError(
            f"a clip is a mapping of {', '.join(KEYS)}, not {type(clip).__name__}; a dataset's clip gives one by "
            f"clip.sample({window.seconds:g}, {window.frames})"
        )
    images = {spec.name for spec, _ in frame_inputs(package)}
    unknown = sorted(set(clip) - set(KEYS) - images)
    if unknown or not clip:
        found = f"the unknown key '{unknown[0]}'" if unknown else "no key"
        raise InputError(f"a clip has {found}; known: {', '.join([*KEYS, *sorted(images)])}")
    frames = package.window.frames
    sizes = {"T": frames}
    for key, value in clip.items():
        if key not in images:
            _check_key(key, np.asarray(value), sizes)
        elif len(value) != frames:
            raise InputError(f"'{key}' holds {len(value)} observed frames, expected {frames} frames, one a sample")
    bodies = clip.get("bodies")
    if bodies is None:
        return
    if np.size(bodies) == 0 or np.isnan(bodies).all():
        raise InputError(f"bodies {list(np.shape(bodies))} hold no joint: there is no person to recognize")
    if len(bodies) > package.bodies:
        raise InputError(
            f"bodies are {list(np.shape(bodies))} [M, T, V, 3] but {package.name} takes up to {package.bodies} bodies"
        )


def _check_key(key: str, value: np.ndarray, sizes: dict[str, int]) -> None:
    """Check type, shape and values of one key; `sizes` holds the shared axes of earlier keys."""
    wanted = "u" if key == "color" else "fiu" if key == "size" else "f"
    if value.dtype.kind not in wanted or (key == "color" and value.dtype != np.uint8):
        expected = "uint8 RGB" if key == "color" else f"float32: {KEYS[key][2]}"
        raise InputError(f"{key} are {value.dtype}, expected {expected}")
    axes = _AXES[key]
    fits = value.ndim == len(axes)
    for axis, size in zip(axes, value.shape, strict=False):
        limit = int(axis) if axis.isdigit() else sizes.setdefault(axis, size) if axis in _SHARED else size
        fits = fits and size == limit
    if not fits:
        known = ", ".join(f"{axis} = {sizes[axis]}" for axis in axes if axis in sizes and axis != "T")
        among = f" of {sizes['T']} frames" if "T" in axes else ""
        raise InputError(
            f"{key} are {list(value.shape)}, expected {KEYS[key][1]}{among}{f' with {known}' if known else ''}"
        )
    if value.dtype.kind == "f" and np.isinf(value).any():
        raise InputError(f"{key} hold infinite values; a missing value is NaN")


# -- scores ------------------------------------------------------------------------------------------------------------


def combined(logits: np.ndarray, how: str) -> np.ndarray:
    """Combine the logits [N, clips, classes] of a window's clips as `WindowSpec.combine` defines.

    Probabilities that are averaged or maximized are returned as logits of which they are the softmax, at the level of
    the clips' own (the mean of their log-sum-exp), so that temperature and background mean the same as for one clip.

    Returns:
        [N, classes] float32; NaN if one of a window's clips is NaN.
    """
    if logits.shape[1] == 1:
        return logits[:, 0]
    scores = logits.astype(np.float64)
    if how == "logits":
        return scores.mean(axis=1).astype(np.float32)
    with np.errstate(invalid="ignore"):
        level = np.logaddexp.reduce(scores, axis=2, keepdims=True)
        logs = scores - level
        joint = np.logaddexp.reduce(logs, axis=1) if how == "mean" else logs.max(axis=1)
        joint -= np.logaddexp.reduce(joint, axis=1, keepdims=True)
    return (joint + level.mean(axis=1)).astype(np.float32)


# -- the inputs of a package -------------------------------------------------------------------------------------------


def frame_inputs(package: ModelPackage) -> list[tuple[InputSpec, FrameFeature]]:
    """Return the inputs that are stacks of images, each made from one frame alone."""
    found = [(spec, features.feature(spec.modality)) for spec in package.inputs]
    return [(spec, made) for spec, made in found if isinstance(made, FrameFeature)]


def body_layout(package: ModelPackage) -> str:
    """Return the layout of the joints under "bodies"; a PackageError if the inputs want several."""
    wanted = {
        spec.layout
        for spec in package.inputs
        if "bodies" in features.feature(spec.modality).streams and spec.layout in layouts.LAYOUTS
    }
    if len(wanted) > 1:
        raise PackageError(f"model {package.name} takes bodies as {' and as '.join(sorted(wanted))}: export it again")
    return wanted.pop() if wanted else CANONICAL


def example(package: ModelPackage, spec: InputSpec) -> Clip:
    """Return a clip from which `spec` can be made: the whole window, if the input spans it."""
    frames = package.window.frames if spans_window(spec) else package.window.clip_frames
    clip = example_clip([spec], frames, package.bodies)
    layout = body_layout(package)
    if spec.layout != layout and "bodies" in clip and len(layouts.get(layout)) != clip["bodies"].shape[2]:
        raise PackageError(f"input '{spec.name}' takes {spec.layout} beside bodies of {layout}")
    return clip


class _TracedClip(UserDict[str, np.ndarray]):
    """A clip that records which of its keys are read."""

    def __init__(self, clip: Clip):
        super().__init__(clip)
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> np.ndarray:
        self.read.add(key)
        return self.data[key]


Shape = tuple[int | None, ...]

RUN_BYTES = 32 << 20  # bytes of input in one run of the network, whose memory grows with its input


class Backend(Protocol):
    """Runs a network. One that can end a run in progress has a method `abort`, see `OnnxRuntimeBackend`.

    Attributes:
        inputs: Name to shape with batch axis; None for an axis of free size.
        output: Shape of the logits, alike.
        device: Device for the log ("CPU, 1 thread").
    """

    inputs: dict[str, Shape]
    output: Shape
    device: str

    def run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Return logits [N, classes] float32 of inputs [N, …]."""


class Session:
    """A model package ready to predict.

    Args:
        backend: Holds its network.
        warm_up_runs: Runs on an example clip before the first real one, so that this is not slower than the rest.
        opened: Called with the session before these runs, so that another thread can abort them.

    Raises:
        PackageError: Network and description contradict each other, or an example clip gives no numbers.
        AbortedError: `abort` was called during the runs.
    """

    def __init__(
        self,
        package: ModelPackage,
        backend: Backend,
        warm_up_runs: int = 2,
        opened: "Callable[[Session], None] | None" = None,
    ):
        self.package = package
        self.backend = backend
        self._aborts = 0
        if opened is not None:
            opened(self)
        example = _check_graph(package, backend)
        self._at_once = max(1, RUN_BYTES // sum(value.nbytes for value in example.values()))
        for _ in range(warm_up_runs):
            logits = self.run([example], aborts=0)
            if not np.isfinite(logits).all():
                raise PackageError(
                    f"{package.path}: the network gives NaN for an example clip on {backend.device}: export it again, "
                    "or take it in float32"
                )

    def abort(self) -> None:
        """End the predictions in progress in other threads, which raise AbortedError; later ones are made as usual.

        A run of TensorRT is not ended, but no further one of the same prediction begins.
        """
        self._aborts += 1
        if (abort := getattr(self.backend, "abort", None)) is not None:
            abort()

    @cached_property
    def keys(self) -> frozenset[str]:
        """The keys of a clip from which inputs other than stacks of images are computed, found by tracing them."""
        images = {spec.name for spec, _ in frame_inputs(self.package)}
        read: set[str] = set()
        for spec in self.package.inputs:
            if spec.name not in images:
                traced = _TracedClip(example(self.package, spec))
                features.inputs(traced, [spec])
                read |= traced.read
        return frozenset(read & set(KEYS))

    def predict(self, clip: Clip) -> Prediction:
        """Return the prediction for one window.

        Args:
            clip: See `actrec.types.KEYS`; T is the package's `window.frames`, sampled over `window.seconds` by
                `actrec.skeleton.windows`. Missing joints are NaN; fewer than M bodies are padded as absent.
                An input that is a stack of images may be given as its T observed frames under its own name.

        Raises:
            InputError: Wrong key, type or shape, no joint at all, infinite values, or an input's stream is absent.
        """
        return self.predict_many([clip])[0]

    def predict_many(self, clips: Sequence[Clip]) -> list[Prediction]:
        """Return the predictions for several windows, made in one run of the network if they are small enough."""
        if not clips:
            return []
        for clip in clips:
            check(clip, self.package)
        return self.to_predictions(self.logits(clips))

    def probabilities(self, clips: Sequence[Clip]) -> np.ndarray:
        """Return the probabilities [N, classes] float32 of windows; a row is NaN if the network returned NaN."""
        return self.softmax(self.logits(clips))

    def logits(self, clips: Sequence[Clip]) -> np.ndarray:
        """Return the logits [N, classes] float32 of windows (`combined`)."""
        inputs, window, aborts = self.package.inputs, self.package.window, self._aborts
        scores = self.run((made for clip in clips for made in each_clip(clip, inputs, window)), aborts)
        return combined(scores.reshape(len(clips), len(window.starts), -1), window.combine)

    def last_logits(self, clips: Sequence[Clip]) -> np.ndarray:
        """Return the logits [N, classes] float32 of the last clip of each window alone. Raises as `predict`."""
        inputs, window, aborts = self.package.inputs, self.package.window, self._aborts
        for clip in clips:
            check(clip, self.package)
        return self.run(
            (made for clip in clips for made in each_clip(clip, inputs, window, window.starts[-1:])), aborts
        )

    def at_once(self, most: int) -> int:
        """Return the number of inputs of one run: `most`, or fewer to stay within `RUN_BYTES`."""
        return min(most, self._at_once)

    def run(self, made: Iterable[dict[str, np.ndarray]], aborts: int | None = None) -> np.ndarray:
        """Return [clips, classes] float32 of prepared inputs by name, as many in one run as `RUN_BYTES` allow.

        Raises AbortedError if `abort` was called meanwhile, or since it had been called `aborts` times.
        """
        aborts = self._aborts if aborts is None else aborts
        made, rows = iter(made), []
        while batch := list(islice(made, self._at_once)):
            if aborts != self._aborts:
                raise AbortedError(f"a prediction of model {self.package.name} was aborted")
            rows.append(self.backend.run({name: np.stack([each[name] for each in batch]) for name in batch[0]}))
        return np.concatenate(rows)

    def softmax(self, logits: np.ndarray) -> np.ndarray:
        """Return probabilities [N, classes] float32 of logits, with the package's temperature and background class."""
        rejection, classes = self.package.rejection, logits.shape[1]
        logits = logits.astype(np.float64)
        broken = ~np.isfinite(logits).all(axis=1)
        if broken.any():
            logger.warning("%s gave NaN for %d of %d clips: unknown", self.package.name, broken.sum(), len(logits))
            logits[broken] = np.nan
        if rejection.background is not None:
            logits = np.pad(logits, ((0, 0), (0, 1)), constant_values=rejection.background)
        scaled = logits / rejection.temperature
        raised = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return (raised / raised.sum(axis=1, keepdims=True))[:, :classes].astype(np.float32)

    def is_rejected(self, probabilities: np.ndarray) -> np.ndarray:
        """Return [N] whether probabilities [N, classes] give `unknown`.

        They do if the best one is below the threshold, or, without a threshold, below the background class's.
        """
        rejection = self.package.rejection
        unmatched = 0.0 if rejection.background is None else 1 - probabilities.sum(axis=1)
        return np.asarray(~(probabilities.max(axis=1) >= (rejection.threshold or unmatched)))  # NaN is rejected

    def to_predictions(self, logits: np.ndarray) -> list[Prediction]:
        """Return the predictions for the logits [N, classes] of windows."""
        return [self.to_prediction(row) for row in self.softmax(logits)]

    def to_prediction(self, probabilities: np.ndarray) -> Prediction:
        """Return the prediction for probabilities [classes], with rejection."""
        labels = self.package.labels
        if np.isnan(probabilities).any():
            return Prediction(UNKNOWN, -1, 0.0, probabilities, labels)
        best = int(np.argmax(probabilities))
        confidence = float(probabilities[best])
        if self.is_rejected(probabilities[None])[0]:
            return Prediction(UNKNOWN, -1, confidence, probabilities, labels)
        return Prediction(labels[best], best, confidence, probabilities, labels)


def _check_graph(package: ModelPackage, backend: Backend) -> dict[str, np.ndarray]:
    """Compare model.yaml with the network and the features; return example inputs by name, without the batch axis."""
    file = package.path / DESCRIPTION
    stated = {spec.name: spec for spec in package.inputs}
    if set(stated) != set(backend.inputs):
        raise PackageError(
            f"{file} states the inputs {sorted(stated)} but {NETWORK} takes {sorted(backend.inputs)}: export it again"
        )
    made = {name: _check_input(file.as_posix(), package, spec, backend.inputs[name]) for name, spec in stated.items()}
    classes = len(package.labels)
    if len(backend.output) != 2 or backend.output[0] is not None or backend.output[1] != classes:
        raise PackageError(
            f"{file} names {classes} labels but {NETWORK} gives {_text(backend.output)}, expected [N, {classes}]: "
            "export it again"
        )
    return made


def _check_input(file: str, package: ModelPackage, spec: InputSpec, shape: Shape) -> np.ndarray:
    if shape != (None, *spec.shape):
        raise PackageError(
            f"{file} states [N, {', '.join(map(str, spec.shape))}] for input '{spec.name}' but {NETWORK} takes "
            f"{_text(shape)}: export it again"
        )
    try:
        made = features.inputs(example(package, spec), [spec])[spec.name]
    except (ActrecError, LookupError, TypeError, ValueError) as error:
        raise PackageError(
            f"{file}: input '{spec.name}' cannot be made: {error}; export it again, or train it again if refused"
        ) from error
    if made.shape != spec.shape:
        raise PackageError(
            f"{file}: input '{spec.name}' is stated as {list(spec.shape)} but is made as {list(made.shape)} "
            f"of {package.bodies} bodies: export it again"
        )
    return made


def _text(shape: Shape) -> str:
    return "[" + ", ".join("N" if size is None else str(size) for size in shape) + "]"
