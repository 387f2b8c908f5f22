"""MediaPipe's detection and landmark subgraphs, run on chosen image regions.

MediaPipe's ready-made solutions choose the regions themselves: one person, and hands found by the palm detector, which
fails at two meters. Their subgraphs take the region as an input. Version 0.10.21 is the last whose wheel contains the
models; nothing is downloaded. The regions follow the rules of MediaPipe's graphs (modules/*/…_to_roi.pbtxt).
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import mediapipe
import numpy as np
from google.protobuf import text_format
from mediapipe.framework import calculator_pb2
from mediapipe.framework.formats import rect_pb2
from mediapipe.python import CalculatorGraph, ImageFormat, packet_creator, packet_getter, resource_util

from actrec.types import RgbdFrame
from actrec.utils.errors import InputError, MissingLibraryError

os.environ.setdefault("GLOG_minloglevel", "2")  # avoids a log line per model; read at import


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


class ImagePacket:
    """A color image [H, W, 3] uint8 RGB, wrapped once for many graphs."""

    def __init__(self, color: np.ndarray):
        self.color = np.ascontiguousarray(color)
        self.height, self.width = color.shape[:2]
        self.packet = packet_creator.create_image_frame(image_format=ImageFormat.SRGB, data=self.color)

    def shows(self, region: Region) -> bool:
        """Return whether a region's center lies in the image and its size is at least 8 px."""
        return 0 <= region.u < self.width and 0 <= region.v < self.height and region.size >= 8

    def contains(self, points: np.ndarray) -> np.ndarray:
        """Return which of the points [N, 2] lie in the image."""
        return ((points >= -0.5) & (points < np.array([self.width, self.height]) - 0.5)).all(axis=1)

    def landmarks(self, packet: Any) -> np.ndarray:
        """Return [V, 4] float32 u, v, z (px, away from the camera) and visibility of a NormalizedLandmarkList."""
        points = packet_getter.get_proto(packet).landmark
        values = np.array([(p.x, p.y, p.z, p.visibility) for p in points], dtype=np.float32)
        values *= np.array([self.width, self.height, self.width, 1], dtype=np.float32)
        values[:, :2] -= 0.5
        return values


class Graph:
    """One MediaPipe subgraph, run synchronously on an image or a region of it.

    Args:
        calculator: Registered name of the subgraph.
        model: File under `mediapipe/modules` that it loads; raise MissingLibraryError if it or the subgraph is missing.
        outputs: Tags of its output streams.
        region: Whether it takes a region.
        side: Side packets by tag.
    """

    def __init__(
        self,
        calculator: str,
        model: str,
        outputs: tuple[str, ...],
        region: bool = False,
        side: Mapping[str, bool | int] = MappingProxyType({}),
    ):
        version, remedy = getattr(mediapipe, "__version__", "?"), "pip install mediapipe==0.10.21 (0.10.18 on arm64)"
        root = Path(mediapipe.__file__).parent
        if not (root / "modules" / model).is_file():
            raise MissingLibraryError(f"MediaPipe {version} was installed without its model {model}: {remedy}")
        resource_util.set_resource_dir(str(root.parent))
        streams = {"input_stream": ("IMAGE", "ROI")[: 1 + region], "output_stream": outputs, "input_side_packet": side}
        names = [(kind, tag, tag.lower()) for kind, tags in streams.items() for tag in tags]
        # By default the scheduler starts one thread per core, which contend.
        lines = [*(f'{kind}: "{name}"' for kind, _, name in names), "num_threads: 1"]
        lines += [f'node {{ calculator: "{calculator}"', *(f'{kind}: "{tag}:{name}"' for kind, tag, name in names), "}"]
        try:
            config = text_format.Parse("\n".join(lines), calculator_pb2.CalculatorGraphConfig())
            self._graph = CalculatorGraph(graph_config=config)
            self._results: dict[str, Any] = {}
            for tag in outputs:
                self._graph.observe_output_stream(tag.lower(), self._results.__setitem__, True)
            make = {bool: packet_creator.create_bool, int: packet_creator.create_int}
            self._graph.start_run({tag.lower(): make[type(value)](value) for tag, value in side.items()})
        except (RuntimeError, ValueError) as error:
            raise MissingLibraryError(f"MediaPipe {version} cannot run its graph {calculator}: {remedy}") from error
        self._ticks = 0

    def run(self, image: ImagePacket, region: Region | None = None) -> dict[str, Any]:
        """Return the non-empty packets by output stream (its tag in lower case)."""
        # The graph's clock counts runs, so camera stamps may repeat or jump.
        self._ticks += 1
        self._results.clear()
        self._graph.add_packet_to_input_stream("image", image.packet.at(self._ticks))
        if region is not None:
            rectangle = rect_pb2.NormalizedRect(
                x_center=(region.u + 0.5) / image.width,
                y_center=(region.v + 0.5) / image.height,
                width=region.size / image.width,
                height=region.size / image.height,
                rotation=region.angle,
            )
            self._graph.add_packet_to_input_stream("roi", packet_creator.create_proto(rectangle).at(self._ticks))
        self._graph.wait_until_idle()
        return {name: packet for name, packet in self._results.items() if not packet.is_empty()}

    def detect(
        self, image: ImagePacket, area: tuple[int, int, int, int] | None = None
    ) -> list[tuple[float, np.ndarray, float, np.ndarray]]:
        """Run a detector on an image, or on its area (left, top, right, bottom).

        A detection is its score, center [2], longer edge and keypoints [K, 2], in pixels of the image, best first.
        """
        left, top, right, bottom = area or (0, 0, image.width, image.height)
        packet = self.run(ImagePacket(image.color[top:bottom, left:right]) if area else image).get("detections")
        width, height, corner = right - left, bottom - top, np.array([left, top])
        found = []
        for detection in packet_getter.get_proto_list(packet) if packet is not None else []:
            box = detection.location_data.relative_bounding_box
            start = np.array([box.xmin * width - 0.5, box.ymin * height - 0.5])
            size = np.array([box.width * width, box.height * height])
            points = [(p.x * width - 0.5, p.y * height - 0.5) for p in detection.location_data.relative_keypoints]
            score = float(detection.score[0])
            found.append((score, start + size / 2 + corner, float(size.max()), np.array(points) + corner))
        return sorted(found, key=lambda entry: -entry[0])

    def close(self) -> None:
        """Free the models; the graph cannot be run again."""
        self._graph.close_all_packet_sources()
        self._graph.wait_until_done()


def read_world_landmarks(packet: Any) -> np.ndarray:
    """Return [V, 3] float32 meters of a LandmarkList."""
    return np.array([(p.x, p.y, p.z) for p in packet_getter.get_proto(packet).landmark], dtype=np.float32)


class Estimator(ABC):
    """Base of the estimators: tracking is reset after a gap longer than `max_gap_s`; graphs are loaded once."""

    def __init__(self, max_gap_s: float):
        self._max_gap_ns = int(max_gap_s * 1e9)
        self._last_ns: int | None = None
        self._graphs: dict[str, Graph] = {}

    @abstractmethod
    def reset(self) -> None:
        """Forget the tracked objects."""

    def close(self) -> None:
        """Free the models."""
        for graph in self._graphs.values():
            graph.close()

    def _graph(self, calculator: str, model: str, outputs: tuple[str, ...] = ("DETECTIONS",), **options: Any) -> Graph:
        if calculator not in self._graphs:
            self._graphs[calculator] = Graph(calculator, model, outputs, **options)
        return self._graphs[calculator]

    def _image(self, frame: RgbdFrame) -> ImagePacket:
        """Return the color image of the next frame, or raise `InputError`; reset after a gap."""
        frame.check()
        if frame.color is None:
            raise InputError("an estimator needs a color image, but this source gives joints only; use its joints")
        last, self._last_ns = self._last_ns, frame.stamp_ns
        if last is not None and not 0 <= frame.stamp_ns - last <= self._max_gap_ns:
            self.reset()
        return ImagePacket(frame.color)
