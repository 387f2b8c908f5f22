"""From a window to a prediction: features, network, scores of its clips combined, softmax, rejection.

The same whatever runs the network.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Protocol

import numpy as np

from actrec import features
from actrec.errors import ActrecError, PackageError
from actrec.features.base import Clip
from actrec.features.clips import each_clip
from actrec.inference import clips as windowed
from actrec.package import DESCRIPTION, NETWORK, UNKNOWN, InputSpec, ModelPackage

logger = logging.getLogger(__name__)

Shape = tuple[int | None, ...]

RUN_BYTES = 32 << 20
"""Inputs of one run of the network: what is larger goes through in several, since a network's memory grows with it."""


class Backend(Protocol):
    """What runs a network.

    Attributes:
        inputs: Name to shape with batch axis; None for an axis of free size.
        output: Shape of the logits, alike.
        device: What it runs on, for the log ("CPU, 1 thread").
    """

    inputs: dict[str, Shape]
    output: Shape
    device: str

    def run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Logits [N, classes] float32 of inputs [N, …]."""


@dataclass(frozen=True)
class Prediction:
    """What a network says of one clip.

    Attributes:
        label: Name of the best class; `unknown` below the package's rejection threshold or where the network gave NaN.
        class_id: Its index; −1 for `unknown`.
        confidence: Probability of the best class, whether or not it was rejected; 0 where the network gave NaN.
        probabilities: [classes] float32, or NaN; what they lack to 1 is the background's, where the package has one.
        labels: Names of the classes.
    """

    label: str
    class_id: int
    confidence: float
    probabilities: np.ndarray
    labels: tuple[str, ...]

    def top(self, count: int) -> list[tuple[str, float]]:
        """The `count` most probable (label, probability), best first, rejected or not; empty where they are NaN."""
        if np.isnan(self.probabilities).any():
            return []
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.labels[i], float(self.probabilities[i])) for i in order]


class Session:
    """A model package ready to predict.

    Args:
        package: The package.
        backend: Holds its network.
        warm_up_runs: Runs on an example clip before the first real one, so that this is not slower than the rest.

    Raises:
        PackageError: Network and description contradict each other, or an example clip gives no numbers.
    """

    def __init__(self, package: ModelPackage, backend: Backend, warm_up_runs: int = 2):
        self.package = package
        self.backend = backend
        example = _check_graph(package, backend)
        self._at_once = max(1, RUN_BYTES // sum(value.nbytes for value in example.values()))
        for _ in range(warm_up_runs):
            logits = self.backend.run({name: value[None] for name, value in example.items()})
            if not np.isfinite(logits).all():
                raise PackageError(
                    f"{package.path}: the network gives NaN for an example clip on {backend.device}: export it again, "
                    "or take it in float32"
                )

    @cached_property
    def keys(self) -> frozenset[str]:
        """The keys of a clip that the inputs are made from, those that are stacks of pictures left aside."""
        return windowed.keys(self.package)

    def predict(self, clip: Clip) -> Prediction:
        """The prediction for one window.

        Args:
            clip: See `actrec.features.base.KEYS`; T is the package's `window.frames`, sampled over `window.seconds`
                (`actrec.windows` does that). Missing joints are NaN; fewer bodies than the package's M are padded as
                absent. An input that is a stack of pictures may be given as its T observed frames under its own name.

        Raises:
            InputError: Wrong key, type or shape, no joint at all, infinite values, or something that an input needs is
                absent.
        """
        return self.predict_many([clip])[0]

    def predict_many(self, clips: Sequence[Clip]) -> list[Prediction]:
        """As `predict`, for several windows, in one run of the network where they are not too large."""
        if not clips:
            return []
        for clip in clips:
            windowed.check(clip, self.package)
        return [self.judge(row) for row in self.probabilities(clips)]

    def probabilities(self, clips: Sequence[Clip]) -> np.ndarray:
        """[N, classes] float32: the softmax of the windows' logits, rows of NaN where the network gave NaN."""
        return self.softmax(self.logits(clips))

    def logits(self, clips: Sequence[Clip]) -> np.ndarray:
        """[N, classes] float32: what the network gives; of a window of several clips, their scores combined.

        See `actrec.inference.clips.combined`.
        """
        inputs, window = self.package.inputs, self.package.window
        scores = self.run(made for clip in clips for made in each_clip(clip, inputs, window))
        return windowed.combined(scores.reshape(len(clips), len(window.starts), -1), window.combine)

    def at_once(self, most: int) -> int:
        """How many of the network's inputs go through it together: `most`, or fewer where `RUN_BYTES` say so."""
        return min(most, self._at_once)

    def run(self, made: Iterable[dict[str, np.ndarray]]) -> np.ndarray:
        """[clips, classes] float32 of inputs by name that are made already, as many at once as `RUN_BYTES` allow."""
        made, rows = iter(made), []
        while batch := list(islice(made, self._at_once)):
            rows.append(self.backend.run({name: np.stack([each[name] for each in batch]) for name in batch[0]}))
        return np.concatenate(rows)

    def softmax(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities [N, classes] float32 of logits, with the package's temperature and background."""
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

    def judge(self, probabilities: np.ndarray) -> Prediction:
        """The prediction that [classes] probabilities amount to, rejection applied."""
        labels = self.package.labels
        if np.isnan(probabilities).any():
            return Prediction(UNKNOWN, -1, 0.0, probabilities, labels)
        best = int(np.argmax(probabilities))
        confidence = float(probabilities[best])
        if confidence < self.package.rejection.threshold:
            return Prediction(UNKNOWN, -1, confidence, probabilities, labels)
        return Prediction(labels[best], best, confidence, probabilities, labels)


def _check_graph(package: ModelPackage, backend: Backend) -> dict[str, np.ndarray]:
    """Compares model.yaml with the network and with the features that this version can make.

    Returns:
        Example inputs by name, without the batch axis.
    """
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
        made = features.inputs(windowed.example(package, spec), [spec])[spec.name]
    except (ActrecError, LookupError, TypeError, ValueError) as error:
        raise PackageError(f"{file}: input '{spec.name}' cannot be made: {error}; export it again") from error
    if made.shape != spec.shape:
        raise PackageError(
            f"{file}: input '{spec.name}' is stated as {list(spec.shape)} but is made as {list(made.shape)} "
            f"of {package.bodies} bodies: export it again"
        )
    return made


def _text(shape: Shape) -> str:
    return "[" + ", ".join("N" if size is None else str(size) for size in shape) + "]"
