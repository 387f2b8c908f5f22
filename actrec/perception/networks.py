"""The networks of bodies, hands and faces in `models/perception`: image regions, runs, detections and landmarks.

The networks are MediaPipe's (Bazarevsky et al., "BlazePose", 2020; Zhang et al., "MediaPipe Hands", 2020; Kartynnik et
al., 2019; Bazarevsky et al., "BlazeFace", 2019). Regions and decoding follow its graphs (mediapipe/modules/*.pbtxt).
"""

import functools
import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from actrec import inference
from actrec.types import RgbdFrame
from actrec.utils.config import setting
from actrec.utils.errors import ActrecError, DeviceError, InputError, PackageError
from actrec.utils.folders import installed
from actrec.utils.registry import Registry

logger = logging.getLogger(__name__)

FOLDER = "models/perception"
MANIFEST = "networks.yaml"

BACKENDS = Registry(
    "backend",
    {
        "onnxruntime": "actrec.perception.onnxruntime_networks:OnnxRuntimeNetwork",
        "tensorrt": "actrec.perception.tensorrt_networks:TensorRtNetwork",
        "tensorrt_rtx": "actrec.perception.tensorrt_networks:TensorRtRtxNetwork",
    },
    install={"onnxruntime": "pip install onnxruntime"},
)

REMEDY = "install actrec again (git checkout models/perception, in a clone)"

Area = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels."""

PRESENCE = 0.5
"""Least probability that a region shows a body, hand or face."""


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities of logits of any shape; SciPy's would take half a second of each node's start."""
    small = np.exp(-np.abs(logits))
    return np.asarray(np.where(logits >= 0, 1, small) / (1 + small))


@dataclass(frozen=True)
class NetworkConfig:
    """How the networks of an estimator run."""

    backend: str = setting(
        "auto", "Where networks run; auto: on TensorRT if the engine of these settings is built, else on ONNX Runtime",
        choices=("auto", "onnxruntime", "tensorrt", "tensorrt_rtx"),
    )  # fmt: skip
    allow_fallback: bool = setting(False, "Use ONNX Runtime while an engine is built, or if TensorRT fails")
    precision: str = setting(
        "fp16", "Precision of TensorRT engines; int8: of persons and bodies, others in fp16",
        choices=("fp32", "fp16", "int8"),
    )  # fmt: skip
    max_batch: int = setting(8, "Regions in one run of a TensorRT engine; more go through in several", range=(5, 64))
    threads: int = setting(1, "CPU threads of a network", range=(1, 64))
    cpu_precision: str = setting(
        "fp32", "Precision on the CPU; int8: faster with VNNI, but confuses more sides of people seen from the side",
        choices=("fp32", "int8"),
    )  # fmt: skip
    device: str = setting(
        "cpu", "Device of ONNX Runtime; auto: CUDA if it works, else the CPU", choices=("auto", "cpu", "cuda")
    )


@dataclass(frozen=True)
class Region:
    """A rotated square in pixels."""

    u: float  # of the center
    v: float
    size: float  # edge length
    angle: float = 0.0  # clockwise rotation in the image, rad; at 0 its up is the image's up

    def shifted(self, right: float, down: float) -> "Region":
        """Return the region moved along its own axes by multiples of its size."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        u, v = self.u + self.size * (right * cos - down * sin), self.v + self.size * (right * sin + down * cos)
        return Region(u, v, self.size, self.angle)

    def covers(self, points: np.ndarray) -> bool:
        """Return whether the mean of [N, 2] pixels lies near the region's center."""
        center = points.mean(axis=0)
        return bool(np.hypot(center[0] - self.u, center[1] - self.v) < 0.35 * self.size)

    def turned(self, points: np.ndarray) -> np.ndarray:
        """Return points [..., 2 or more] whose first two axes are the region's, in the axes of the image."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        out = points.copy()
        out[..., 0], out[..., 1] = (
            cos * points[..., 0] - sin * points[..., 1],
            sin * points[..., 0] + cos * points[..., 1],
        )
        return out

    def to_image(self, points: np.ndarray) -> np.ndarray:
        """Return points [..., 3] (right, down, away; shares of the region from its top left) in pixels of the image."""
        centered = (points - np.array([0.5, 0.5, 0.0], np.float32)[: points.shape[-1]]) * self.size
        moved = self.turned(centered.astype(np.float32))
        moved[..., :2] += np.array([self.u, self.v], np.float32)
        return moved


def angle_towards(start: np.ndarray, end: np.ndarray) -> float:
    """Return the angle of a region whose up points from `start` to `end` ([2] pixels)."""
    du, dv = (end - start).tolist()
    return float(np.arctan2(du, -dv))


def region_around(points: np.ndarray, angle: float, scale: float, shift_down: float = 0.0) -> Region:
    """Return the square around [N, 2] pixels rotated by `angle`, shifted along its own axis and then enlarged."""
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, -sin], [sin, cos]])
    own = points @ turn
    low, high = own.min(axis=0), own.max(axis=0)
    center = turn @ ((low + high) / 2)
    span = float((high - low).max())
    shifted = Region(float(center[0]), float(center[1]), span, angle).shifted(0.0, shift_down)
    return Region(shifted.u, shifted.v, span * scale, angle)


class SourceImage:
    """A color image [H, W, 3] uint8 RGB, from which regions are cut."""

    def __init__(self, color: np.ndarray):
        self.color = np.ascontiguousarray(color)
        self.height, self.width = color.shape[:2]

    def shows(self, region: Region) -> bool:
        """Return whether a region's center lies in the image and its size is at least 8 px."""
        return 0 <= region.u < self.width and 0 <= region.v < self.height and region.size >= 8

    def contains(self, points: np.ndarray) -> np.ndarray:
        """Return which of the points [N, 2] lie in the image."""
        return np.asarray(((points >= -0.5) & (points < np.array([self.width, self.height]) - 0.5)).all(axis=1))

    def cut(self, region: Region, edge: int, border: int = cv2.BORDER_REPLICATE) -> np.ndarray:
        """Return a region as [edge, edge, 3] uint8, interpolated."""
        box = (region.u + 0.5, region.v + 0.5), (region.size, region.size), np.degrees(region.angle)
        corners = cv2.boxPoints(box)
        target = np.array([[0, edge], [0, 0], [edge, 0], [edge, edge]], np.float32)
        matrix = cv2.getPerspectiveTransform(corners, target)
        return cv2.warpPerspective(self.color, matrix, (edge, edge), flags=cv2.INTER_LINEAR, borderMode=border)


@dataclass(frozen=True)
class NetworkFile:
    """One of the networks.

    Attributes:
        name: Name of the file, without its ending.
        path: The ONNX file: `image` [N, 3, edge, edge] float32 RGB to `outputs`.
        sha256: Its hash.
        edge: Height and width of its image in pixels.
        low, high: Values of black and white.
        outputs: Shapes of the outputs by name, without the batch.
        int8: The variant with layers in int8, for CPUs; None if there is none.
    """

    name: str
    path: Path
    sha256: str
    edge: int
    low: float
    high: float
    outputs: dict[str, tuple[int, ...]]
    int8: "NetworkFile | None" = None

    def read(self) -> bytes:
        """Return the file's content.

        Raises:
            PackageError: It is missing, unreadable, or has another hash.
        """
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise PackageError(f"{self.path} cannot be read: {error.strerror}: {REMEDY}") from error
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise PackageError(f"{self.path} is damaged or another file (its SHA-256 differs): {REMEDY}")
        return content


@functools.cache
def files() -> dict[str, NetworkFile]:
    """Return the networks by name.

    Raises:
        PackageError: The folder of networks is not installed, or its list is damaged.
    """
    folders = installed(FOLDER)
    folder = next((path for path in folders if (path / MANIFEST).is_file()), None)
    if folder is None:
        raise PackageError(f"the networks of perception are not installed ({folders[-1]}): install actrec again")
    try:
        rows = yaml.safe_load((folder / MANIFEST).read_text())["networks"]
        return {name: _listed(folder, name, row) for name, row in rows.items()}
    except (OSError, yaml.YAMLError, LookupError, TypeError, ValueError) as error:
        raise PackageError(f"{folder / MANIFEST} is damaged ({error}): install actrec again") from error


def _listed(folder: Path, name: str, row: dict[str, Any]) -> NetworkFile:
    """Return a network of the list."""
    outputs = {key: tuple(size) for key, size in row["outputs"].items()}
    facts = int(row["input"][1]), float(row["range"][0]), float(row["range"][1]), outputs
    int8 = NetworkFile(name, folder / f"{name}.int8.onnx", row["int8"]["sha256"], *facts) if "int8" in row else None
    return NetworkFile(name, folder / f"{name}.onnx", row["sha256"], *facts, int8)


class PerceptionNetwork:
    """A network on a backend, run on regions of an image.

    Args:
        name: One of `files()`.
        config: How it runs.

    Raises:
        PackageError: The file is missing, damaged, or the backend refuses it.
        MissingLibraryError: The backend's library is not installed.
        DeviceError: There is no GPU for the backend, or its memory is full.
    """

    def __init__(self, name: str, config: NetworkConfig):
        self.file, self._closed = files()[name], False
        chosen = resolve(self.file, config)
        self._backend: Any = self._with_fallback(chosen, config) if config.allow_fallback else None
        if self._backend is None:
            self._backend = BACKENDS.get(chosen)(self.file, config)

    @property
    def device(self) -> str:
        """The device that it runs on, for the log."""
        return str(self._backend.device) if self._backend is not None else ""

    def run(
        self, image: SourceImage, regions: Sequence[Region], border: int = cv2.BORDER_REPLICATE
    ) -> dict[str, np.ndarray]:
        """Return the outputs [N, ...] float32 for N regions of an image, in one batch."""
        file = self.file
        images = np.empty((len(regions), 3, file.edge, file.edge), np.float32)
        for batch, region in zip(images, regions, strict=True):
            pixels = image.cut(region, file.edge, border)
            np.multiply(pixels.transpose(2, 0, 1), np.float32((file.high - file.low) / 255.0), out=batch)
        if file.low:
            images += np.float32(file.low)
        return self._backend.run(images)

    def close(self) -> None:
        """Free the network, and stop the build of its engine."""
        self._closed, self._backend = True, None

    def _with_fallback(self, chosen: str, config: NetworkConfig) -> Any:
        """Return a network on ONNX Runtime, if TensorRT fails or until its engine is built in the background."""
        if chosen == inference.FALLBACK:
            return None
        try:
            kind = BACKENDS.get(chosen)
            if kind.ready(self.file, config):
                return kind(self.file, config)
            logger.info("%s runs on ONNX Runtime until its engine is built", self.file.name)
            found = BACKENDS.get(inference.FALLBACK)(self.file, config)
            _BUILDING.submit(self._build, kind, config)
        except ActrecError as error:
            self._warn(error)
            found = BACKENDS.get(inference.FALLBACK)(self.file, config)
        return found

    def _build(self, kind: Any, config: NetworkConfig) -> None:
        """Build the engine and run on it from then on."""

        def stop_if_closed(*_: Any) -> None:
            if self._closed:
                raise DeviceError("the network was closed")

        try:
            stop_if_closed()
            found = kind(self.file, config, stop_if_closed)
            stop_if_closed()
            self._backend = found
        except ActrecError as error:
            if not self._closed:
                self._warn(error)
        except Exception:  # of a thread whose result is not read
            logger.exception("the engine of %s was not built", self.file.name)

    def _warn(self, error: ActrecError) -> None:
        logger.warning("%s runs on ONNX Runtime, TensorRT cannot be used: %s", self.file.name, error)


_BUILDING = ThreadPoolExecutor(1, thread_name_prefix="build_engine")
"""Builds engines one after another."""


def resolve(file: NetworkFile, config: NetworkConfig) -> str:
    """Return the name in `BACKENDS` that the setting `backend` stands for."""
    if config.backend != "auto":
        return config.backend
    found = inference.first_with_engine(file.name, lambda name: bool(BACKENDS.get(name).ready(file, config)))
    return found or inference.FALLBACK


class Detector:
    """A network that finds people, palms or faces in the whole image or an area of it: SSD with fixed anchors.

    Args:
        name: The network.
        cells: Pairs of the stride of a layer of anchors in pixels, and the number of anchors in each of its cells.
        min_score: Least score of a detection.
        config: How it runs.
    """

    def __init__(self, name: str, cells: Sequence[tuple[int, int]], min_score: float, config: NetworkConfig):
        self._network, self._min_score = PerceptionNetwork(name, config), min_score
        edge = self._network.file.edge
        grids = []
        for stride, count in cells:
            steps = (np.arange(edge // stride) + 0.5) * stride / edge
            y, x = np.meshgrid(steps, steps, indexing="ij")
            grids.append(np.repeat(np.stack([x, y], -1).reshape(-1, 2), count, axis=0))
        self._anchors = np.concatenate(grids).astype(np.float32)

    def detect(self, image: SourceImage, area: Area | None = None) -> list[tuple[float, np.ndarray, float, np.ndarray]]:
        """Run the detector on an image, or on its area.

        A detection is its score, center [2], longer edge and keypoints [K, 2], in pixels of the image, best first.
        """
        left, top, right, bottom = area or (0, 0, image.width, image.height)
        view = SourceImage(image.color[top:bottom, left:right]) if area else image
        # The image is fitted into the network's square, with black beside it.
        square = Region((view.width - 1) / 2, (view.height - 1) / 2, max(view.width, view.height))
        found = self._network.run(view, [square], cv2.BORDER_CONSTANT)
        scores = sigmoid(found["scores"][0])
        at = np.flatnonzero(scores >= self._min_score)
        if not len(at):
            return []
        values = found["boxes"][0][at] / np.float32(self._network.file.edge)
        values[:, :2] += self._anchors[at]
        values[:, 4:] += np.tile(self._anchors[at], (1, (values.shape[1] - 4) // 2))
        detections = []
        for score, box in merge_overlapping(scores[at], values):
            points = square.to_image(np.concatenate([box[:2], box[4:]]).reshape(-1, 2)) + np.array([left, top])
            detections.append((score, points[0], float(box[2:4].max() * square.size), points[1:]))
        return detections

    @property
    def device(self) -> str:
        """The device that it runs on, for the log."""
        return self._network.device

    def close(self) -> None:
        """Free the network."""
        self._network.close()


def merge_overlapping(scores: np.ndarray, boxes: np.ndarray, overlap: float = 0.3) -> list[tuple[float, np.ndarray]]:
    """Return the best score and the mean, weighted by scores, of boxes that overlap; best first.

    Args:
        scores: [N].
        boxes: [N, 4 + 2 K] centers (x, y), sizes (w, h) and keypoints.
        overlap: Boxes of one object have a larger intersection over union with its best box.
    """
    low, high = boxes[:, :2] - boxes[:, 2:4] / 2, boxes[:, :2] + boxes[:, 2:4] / 2
    area = boxes[:, 2] * boxes[:, 3]
    left = np.argsort(-scores, kind="stable")
    merged = []
    while len(left):
        best = left[0]
        common = np.clip(np.minimum(high[left], high[best]) - np.maximum(low[left], low[best]), 0.0, None).prod(axis=1)
        union = area[left] + area[best] - common
        same = common > overlap * np.maximum(union, 1e-12)
        same[0] = True
        merged.append((float(scores[best]), np.average(boxes[left[same]], axis=0, weights=scores[left[same]])))
        left = left[~same]
    return merged


class Estimator(ABC):
    """Base of the estimators: tracking is reset after a gap longer than `max_gap_s`; networks are loaded once."""

    def __init__(self, max_gap_s: float):
        self._max_gap_ns = int(max_gap_s * 1e9)
        self._last_ns: int | None = None
        self._networks: list[Any] = []

    @abstractmethod
    def reset(self) -> None:
        """Forget the tracked objects."""

    def close(self) -> None:
        """Free the networks."""
        for network in self._networks:
            network.close()

    @property
    def device(self) -> str:
        """The devices that its networks run on, for the log."""
        return ", ".join(dict.fromkeys(network.device for network in self._networks))

    def _keep(self, network: Any) -> Any:
        """Return a network or detector, which `close` frees."""
        self._networks.append(network)
        return network

    def _image(self, frame: RgbdFrame) -> SourceImage:
        """Return the color image of the next frame, or raise `InputError`; reset after a gap."""
        frame.check()
        if frame.color is None:
            raise InputError("an estimator needs a color image, but this source gives joints only; use its joints")
        last, self._last_ns = self._last_ns, frame.stamp_ns
        if last is not None and not 0 <= frame.stamp_ns - last <= self._max_gap_ns:
            self.reset()
        return SourceImage(frame.color)
