"""MediaPipe's detection and landmark subgraphs, run on chosen image regions.

MediaPipe's ready-made solutions choose the regions themselves: one person, and hands found by the palm detector, which
fails at two meters. Their subgraphs take the region as an input. Version 0.10.21 is the last whose wheel contains the
models; nothing is downloaded.
"""

import os
from pathlib import Path
from typing import Any

import mediapipe
import numpy as np
from google.protobuf import text_format
from mediapipe.framework import calculator_pb2
from mediapipe.framework.formats import rect_pb2
from mediapipe.python import CalculatorGraph, ImageFormat, packet_creator, packet_getter, resource_util

from actrec.perception.base import Region
from actrec.utils.errors import MissingLibraryError

os.environ.setdefault("GLOG_minloglevel", "2")  # avoids a log line per model; read at import

REMEDY = "pip install mediapipe==0.10.21 (0.10.18 on arm64)"


class Graph:
    """One MediaPipe subgraph, run synchronously.

    Args:
        calculator: Registered name of the subgraph.
        inputs: Tag to stream name.
        outputs: Tag to stream name.
        models: Files under `mediapipe/modules` that the subgraph loads.
        complexity: Value of the MODEL_COMPLEXITY side packet, if any.
        flags: Further boolean side packets by tag.

    Raises:
        MissingLibraryError: The installed MediaPipe lacks a model or the subgraph.
    """

    def __init__(
        self,
        calculator: str,
        inputs: dict[str, str],
        outputs: dict[str, str],
        models: tuple[str, ...],
        complexity: int | None = None,
        flags: dict[str, bool] | None = None,
    ):
        _check_models(models)
        side: dict[str, Any] = {tag.lower(): packet_creator.create_bool(value) for tag, value in (flags or {}).items()}
        if complexity is not None:
            side["model_complexity"] = packet_creator.create_int(complexity)
        text = _graph_text(calculator, inputs, outputs, tuple(side))
        try:
            self._graph = CalculatorGraph(graph_config=text_format.Parse(text, calculator_pb2.CalculatorGraphConfig()))
            self._results: dict[str, Any] = {}
            for name in outputs.values():
                self._graph.observe_output_stream(name, self._results.__setitem__, True)
            self._graph.start_run(side)
        except (RuntimeError, ValueError) as error:
            version = getattr(mediapipe, "__version__", "?")
            raise MissingLibraryError(f"MediaPipe {version} cannot run its graph {calculator}: {REMEDY}") from error
        self._ticks = 0

    def run(self, **packets: Any) -> dict[str, Any]:
        """Feed one packet to each input stream and return the non-empty packets by output stream."""
        # The graph's clock counts runs, so camera stamps may repeat or jump.
        self._ticks += 1
        self._results.clear()
        for name, packet in packets.items():
            self._graph.add_packet_to_input_stream(name, packet.at(self._ticks))
        self._graph.wait_until_idle()
        return {name: packet for name, packet in self._results.items() if not packet.is_empty()}

    def close(self) -> None:
        """Free the models; the graph cannot be run again."""
        self._graph.close_all_packet_sources()
        self._graph.wait_until_done()


def _check_models(models: tuple[str, ...]) -> None:
    root = Path(mediapipe.__file__).parent
    for model in models:
        if not (root / "modules" / model).is_file():
            version = getattr(mediapipe, "__version__", "?")
            raise MissingLibraryError(f"MediaPipe {version} was installed without its model {model}: {REMEDY}")
    resource_util.set_resource_dir(str(root.parent))


def _graph_text(calculator: str, inputs: dict[str, str], outputs: dict[str, str], side: tuple[str, ...]) -> str:
    lines = [f'input_stream: "{name}"' for name in inputs.values()]
    lines += [f'output_stream: "{name}"' for name in outputs.values()]
    lines += [f'input_side_packet: "{name}"' for name in side]
    # By default the scheduler starts one thread per core, which contend.
    lines += ["num_threads: 1", f'node {{ calculator: "{calculator}"']
    lines += [f'input_stream: "{tag}:{name}"' for tag, name in inputs.items()]
    lines += [f'output_stream: "{tag}:{name}"' for tag, name in outputs.items()]
    lines += [f'input_side_packet: "{name.upper()}:{name}"' for name in side]
    return "\n".join([*lines, "}"])


def image_packet(color: np.ndarray) -> Any:
    """Wrap [H, W, 3] uint8 RGB for a graph; one packet may be fed to many graphs."""
    return packet_creator.create_image_frame(image_format=ImageFormat.SRGB, data=color)


def region_packet(region: Region, width: int, height: int) -> Any:
    """Wrap a region of a width×height image for a graph."""
    return packet_creator.create_proto(
        rect_pb2.NormalizedRect(
            x_center=(region.u + 0.5) / width,
            y_center=(region.v + 0.5) / height,
            width=region.size / width,
            height=region.size / height,
            rotation=region.angle,
        )
    )


def read_landmarks(packet: Any, width: int, height: int) -> np.ndarray:
    """Return [V, 4] float32 (u, v, z, visibility) of a NormalizedLandmarkList; z in pixels, away from the camera."""
    points = packet_getter.get_proto(packet).landmark
    values = np.array([(p.x, p.y, p.z, p.visibility) for p in points], dtype=np.float32)
    values *= np.array([width, height, width, 1], dtype=np.float32)
    values[:, :2] -= 0.5
    return values


def read_world_landmarks(packet: Any) -> np.ndarray:
    """Return [V, 3] float32 meters of a LandmarkList."""
    return np.array([(p.x, p.y, p.z) for p in packet_getter.get_proto(packet).landmark], dtype=np.float32)


def read_detections(packet: Any, width: int, height: int) -> list[tuple[float, np.ndarray, np.ndarray]]:
    """Return (score, box [u, v, width, height], keypoints [K, 2]) in pixels of each detection, best first."""
    found = []
    for detection in packet_getter.get_proto_list(packet):
        box = detection.location_data.relative_bounding_box
        corner = [box.xmin * width - 0.5, box.ymin * height - 0.5, box.width * width, box.height * height]
        points = [(p.x * width - 0.5, p.y * height - 0.5) for p in detection.location_data.relative_keypoints]
        found.append((float(detection.score[0]), np.array(corner), np.array(points)))
    return sorted(found, key=lambda entry: -entry[0])
