"""Campaign in which cameras are unplugged and plugged in again, with the vendors' libraries or simulations of them."""

import contextlib
import os
import random
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyrealsense2 as rs
from rclpy.parameter import Parameter

from actrec.cameras.realsense import device as realsense_device
from actrec.types import NANOSECONDS
from actrec.utils.errors import DeviceError
from actrec_nodes.bringup.processes import Host, ros
from actrec_nodes.camera_node import CameraNode
from actrec_nodes.perception_nodes import SkeletonNode
from actrec_nodes.recognizer_node import RecognizerNode
from benchmarks.faults.live_graph import START_S, Monitor
from benchmarks.faults.outcome import Outcome, chosen
from tests.core.cameras.k4a import studio
from tests.core.cameras.k4a.simulated_sdk import SimulatedSdk
from tests.core.cameras.software_realsense import VIEWS, SoftwareRealSense

BACK_MAX_S, LOST_S = 3.0, 60.0
UNPLUGGED_S, LONG_S = (0.2, 3.0), (60.0, 90.0)  # shortest and longest time without a camera, mostly and at times
LONG_EVERY = 25  # one of so many unplugged times is long
WORKING_S = 0.5  # time with labels between two faults
FPS = 15


class Plug(ABC):
    """A camera that is plugged in and out, and its frames in a thread, at `FPS`.

    Attributes:
        parameters: Of `camera_node`.
    """

    parameters: dict[str, Any]

    def __init__(self) -> None:
        self._plugged, self._ended, self._lock = False, threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._run, name="camera")

    @abstractmethod
    def connect(self) -> None:
        """Connect the device."""

    @abstractmethod
    def disconnect(self) -> None:
        """Disconnect the device."""

    @abstractmethod
    def give(self, number: int) -> None:
        """Send a frame."""

    def set(self, plugged: bool) -> None:
        """Plug the camera in, or unplug it."""
        with self._lock:
            self._plugged = plugged
            self.connect() if plugged else self.disconnect()

    @contextlib.contextmanager
    def streaming(self) -> Iterator[None]:
        """Send frames while the camera is plugged in."""
        self._thread.start()
        try:
            yield
        finally:
            self._ended.set()
            self._thread.join()
            self.set(False)

    def _run(self) -> None:
        number = 0
        while not self._ended.wait(1 / FPS):
            with self._lock:
                if self._plugged:
                    self.give(number)
            number += 1


class RealSense(Plug):
    """librealsense's own `software_device`, with images of the simulated actor."""

    parameters = {"driver": "realsense", "realsense.fps": FPS}  # noqa: RUF012

    def __init__(self, folder: Path):
        super().__init__()
        self._context, self._device = rs.context(), SoftwareRealSense(fps=FPS)
        self._connected = realsense_device.connected
        self._frames = [VIEWS.at(k / 4) for k in range(8)]

    def connect(self) -> None:
        """Connect the device."""
        self._device.plug_into(self._context)

    def disconnect(self) -> None:
        """Disconnect the device."""
        self._device.unplug()

    def give(self, number: int) -> None:
        """Send a frame."""
        color, _, depth = self._frames[number % len(self._frames)]
        self._device.send(color, depth)

    @contextlib.contextmanager
    def streaming(self) -> Iterator[None]:
        """Send frames while the camera is plugged in; the driver finds the devices that are."""

        def connected(context: Any) -> Any:  # the pipeline keeps the software device alive
            return self._connected(context) if self._plugged else {}

        with (
            patch.object(realsense_device, "open_context", lambda: self._context),
            patch.object(realsense_device, "connected", connected),
            super().streaming(),
        ):
            yield


class AzureKinect(Plug):
    """The simulated libk4a."""

    def __init__(self, folder: Path):
        super().__init__()
        self._sdk = SimulatedSdk(folder)
        shots = [studio.shot(seconds) for seconds in (2.0, 2.3, 2.6)]
        self._path, self._count = studio.simulated_camera(*shots).write(folder / "stage"), len(shots)
        self.parameters = {"driver": "azure_kinect", "azure_kinect.library": self._sdk.library}

    def connect(self) -> None:
        """Connect the device."""
        self._sdk.plug(self._path)

    def disconnect(self) -> None:
        """Disconnect the device."""
        self._sdk.unplug()

    def give(self, number: int) -> None:
        """Send a frame, if the camera has been started."""
        with contextlib.suppress(AssertionError):
            self._sdk.push(number % self._count, 1_000_000 + number * 1_000_000 // FPS)


PLUGS: dict[str, type[Any]] = {"realsense": RealSense, "azure_kinect": AzureKinect}


def replug(times: int, only: Sequence[str] = ()) -> list[Outcome]:
    """Unplug each camera `times` times for a random time while `camera_node`, `skeleton_node` and recognizer work.

    Some of the times are long: a minute or more.
    """
    return [_replug(name, times) for name in chosen(only, PLUGS)]


def _replug(name: str, times: int) -> Outcome:
    outcome, moments = Outcome("replug", name), random.Random(0)
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.dict(os.environ, {"ACTREC_CAMERAS": folder}),
        ros(["--ros-args", "--log-level", "error"], handle_signals=False) as context,
        Host(context) as host,
    ):
        plug: Plug = PLUGS[name](Path(folder))
        plug.set(True)
        monitor = Monitor(("camera_node", "skeleton_node"), context=context)
        host.add(monitor)
        with plug.streaming():
            camera = [Parameter(key, value=value) for key, value in plug.parameters.items()]
            for node_class, parameters in ((RecognizerNode, []), (SkeletonNode, []), (CameraNode, camera)):
                host.add(node_class(context=context, parameter_overrides=parameters))
            if (failed := host.start()) is not None:
                raise DeviceError(f"{failed} did not start: see the line above")
            if not monitor.wait_for(lambda: bool(monitor.labels), START_S):
                raise DeviceError(f"the {name} has no labels within {START_S:g} s")
            for number in range(1, times + 1):
                monitor.wait_for(lambda: False, WORKING_S)
                count = len(monitor.labels)
                plug.set(False)
                unplugged_s = LONG_S if number % LONG_EVERY == 0 else UNPLUGGED_S
                monitor.wait_for(lambda: False, moments.uniform(*unplugged_s))
                plug.set(True)
                since_ns = time.time_ns()
                came = monitor.wait_for(lambda: monitor.newest_ns("recognizer_node") > since_ns, LOST_S)  # noqa: B023
                outcome.add((time.time_ns() - since_ns) / NANOSECONDS if came else None)
                monitor.wait_for(lambda: False, WORKING_S)
                outcome.add_labels(monitor.labels_since(count))
    outcome.check(BACK_MAX_S)
    return outcome
