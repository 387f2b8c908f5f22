"""From a clip to a prediction: features, network, softmax, rejection. The same whatever runs the network."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from actrec import features
from actrec.errors import ActrecError, InputError, PackageError
from actrec.package import DESCRIPTION, NETWORK, UNKNOWN, InputSpec, ModelPackage

logger = logging.getLogger(__name__)

Clip = Mapping[str, np.ndarray]
Shape = tuple[int | None, ...]


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
        warm_up_runs: Runs on an empty clip before the first real one, so that this is not slower than the rest.

    Raises:
        PackageError: Network and description contradict each other.
    """

    def __init__(self, package: ModelPackage, backend: Backend, warm_up_runs: int = 2):
        self.package = package
        self.backend = backend
        _check_graph(package, backend)
        empty = self._inputs([self._empty_clip()])
        for _ in range(warm_up_runs):
            self.backend.run(empty)

    def predict(self, clip: Clip) -> Prediction:
        """The prediction for one clip: {"bodies": [M, T, V, 3]}, kinect_v2_25, metres, optical frame, NaN for missing.

        Fewer bodies than the package's M are padded as absent. T must be the package's `window.frames`, sampled over
        `window.seconds` (`actrec.windows` does that).

        Raises:
            InputError: Wrong key, type or shape, no joint at all, infinite values.
        """
        return self.predict_many([clip])[0]

    def predict_many(self, clips: Sequence[Clip]) -> list[Prediction]:
        """As `predict`, for several clips in one run of the network."""
        if not clips:
            return []
        for clip in clips:
            _check_clip(clip)
        return [self.judge(row) for row in self.probabilities(clips)]

    def probabilities(self, clips: Sequence[Clip]) -> np.ndarray:
        """[N, classes] float32: the softmax of the clips' logits, rows of NaN where the network gave NaN."""
        return self.softmax(self.logits(clips))

    def logits(self, clips: Sequence[Clip]) -> np.ndarray:
        """[N, classes] float32, what the network gives."""
        return self.backend.run(self._inputs(clips))

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

    def _inputs(self, clips: Sequence[Clip]) -> dict[str, np.ndarray]:
        made = [features.inputs(clip, self.package.inputs) for clip in clips]
        return {spec.name: np.stack([each[spec.name] for each in made]) for spec in self.package.inputs}

    def _empty_clip(self) -> Clip:
        joints = self.package.inputs[0].shape[-1]
        return {"bodies": np.zeros((self.package.bodies, self.package.window.frames, joints, 3), dtype=np.float32)}


def _check_clip(clip: Clip) -> None:
    unknown = sorted(set(clip) - {"bodies"})
    if unknown or "bodies" not in clip:
        raise InputError(f"a clip has the keys {sorted(clip)}, expected 'bodies'")
    bodies = np.asarray(clip["bodies"])
    if bodies.dtype.kind != "f":
        raise InputError(f"bodies are {bodies.dtype}, expected float32 metres")
    if np.isinf(bodies).any():
        raise InputError("bodies hold infinite values; a missing joint is NaN")
    if bodies.size == 0 or np.isnan(bodies).all():
        raise InputError(f"bodies {list(bodies.shape)} hold no joint: there is nobody to recognise")


def _check_graph(package: ModelPackage, backend: Backend) -> None:
    """Compares model.yaml with the network and with the features that this version can make."""
    file = package.path / DESCRIPTION
    stated = {spec.name: spec for spec in package.inputs}
    if set(stated) != set(backend.inputs):
        raise PackageError(
            f"{file} states the inputs {sorted(stated)} but {NETWORK} takes {sorted(backend.inputs)}: export it again"
        )
    for name, spec in stated.items():
        _check_input(file.as_posix(), package, spec, backend.inputs[name])
    classes = len(package.labels)
    if len(backend.output) != 2 or backend.output[0] is not None or backend.output[1] != classes:
        raise PackageError(
            f"{file} names {classes} labels but {NETWORK} gives {_text(backend.output)}, expected [N, {classes}]: "
            "export it again"
        )


def _check_input(file: str, package: ModelPackage, spec: InputSpec, shape: Shape) -> None:
    if shape != (None, *spec.shape):
        raise PackageError(
            f"{file} states [N, {', '.join(map(str, spec.shape))}] for input '{spec.name}' but {NETWORK} takes "
            f"{_text(shape)}: export it again"
        )
    bodies = np.zeros((package.bodies, package.window.frames, spec.shape[-1], 3), dtype=np.float32)
    try:
        made = features.inputs({"bodies": bodies}, [spec])[spec.name].shape
    except (ActrecError, ValueError) as error:
        raise PackageError(f"{file}: input '{spec.name}' cannot be made: {error}; export it again") from error
    if made != spec.shape or spec.shape[0] != package.bodies:
        raise PackageError(
            f"{file}: input '{spec.name}' is stated as {list(spec.shape)} but is made as {list(made)} "
            f"of {package.bodies} bodies: export it again"
        )


def _text(shape: Shape) -> str:
    return "[" + ", ".join("N" if size is None else str(size) for size in shape) + "]"
