"""Body tracking with Microsoft's libk4abt, in the color camera's frame."""

import threading
import time
from collections import deque
from typing import Any

import numpy as np

from actrec.cameras.azure_kinect.sdk import Capture
from actrec.skeleton.layouts import CANONICAL, convert
from actrec.types import Body, Intrinsics
from actrec.utils import camera_model
from actrec.utils.errors import DeviceError

PROCESSING = {"cuda": 2, "tensorrt": 3, "cpu": 1}

_SCORES = np.array([0.0, 0.5, 1.0, 1.0], np.float32)
"""Score of a k4abt confidence level: none (out of range), low (occluded), medium (visible), high (not used yet)."""

_MAX_QUEUED = 2
"""Limit of captures in the tracker; more would only add latency."""

_POLL_MS = 100


class BodyTracker:
    """Body tracker on its own thread.

    Args:
        k4abt: Bindings of libk4abt.
        calibration: The SDK's calibration of the captures.
        to_color: [4, 4] transform of points, m, from the depth camera to the color camera.
        intrinsics: Intrinsics of the color images.
        processing: A key of `PROCESSING`.
        model: Network file of the tracker; empty for the SDK's.
    """

    def __init__(
        self, k4abt: Any, calibration: Any, to_color: np.ndarray, intrinsics: Intrinsics, processing: str, model: str
    ):
        self._k4abt, self._pose, self._intrinsics = k4abt, to_color, intrinsics
        self._handle = k4abt.k4abt_tracker_t()
        settings = k4abt.k4abt_tracker_configuration_t(
            processing_mode=PROCESSING[processing], model_path=model.encode() or None
        )
        if k4abt.k4abt_tracker_create(calibration, settings, self._handle):
            raise DeviceError(
                f"Azure Kinect body tracking does not start on {processing}: it needs its network file and the CUDA, "
                "cuDNN or TensorRT of its release; install them, or set body_processing=cpu, which is slow"
            )
        self._queued = 0
        self._results: deque[tuple[int, list[Body]]] = deque(maxlen=8)
        self._failed = self._stopping = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="k4abt", daemon=True)
        self._thread.start()

    def offer(self, capture: Capture) -> bool:
        """Queue a capture; return False if the queue is full. Raise DeviceError if the tracker has failed."""
        with self._changed:
            self._check()
            if self._queued >= _MAX_QUEUED:
                return False
            result = self._k4abt.k4abt_tracker_enqueue_capture(self._handle, capture.handle, 0)
            self._failed = result == 1  # K4A_WAIT_RESULT_FAILED
            self._check()
            self._queued += result == 0
            return bool(result == 0)

    def collect(self, device_us: int, tolerance_us: int, wait_s: float) -> list[Body] | None:
        """Return the bodies of the depth image with this stamp; None after `wait_s`."""
        deadline = time.monotonic() + wait_s
        with self._changed:
            while True:
                self._check()
                while self._results and self._results[0][0] < device_us - tolerance_us:
                    self._results.popleft()  # results that came too late for their frames
                if self._results and self._results[0][0] <= device_us + tolerance_us:
                    return self._results.popleft()[1]
                remaining = deadline - time.monotonic()
                if remaining <= 0 or self._stopping:
                    return None
                self._changed.wait(remaining)

    def stop(self) -> None:
        """Stop tracking and wake waiting threads."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def close(self) -> None:
        """Stop the thread and free the tracker."""
        self.stop()
        self._k4abt.k4abt_tracker_shutdown(self._handle)
        self._thread.join()
        self._k4abt.k4abt_tracker_destroy(self._handle)

    def _check(self) -> None:
        if self._failed:
            raise DeviceError("Azure Kinect body tracking has failed: open the camera again, or set bodies=false")

    def _run(self) -> None:
        k4abt = self._k4abt
        while not self._stopping:
            frame = k4abt.k4abt_frame_t()
            result = k4abt.k4abt_tracker_pop_result(self._handle, frame, _POLL_MS)
            tracked = self._read(frame) if result == 0 else None
            with self._changed:
                if tracked is not None:
                    self._results.append(tracked)
                    self._queued -= 1
                # After shutdown it always fails.
                self._failed = self._failed or (result == 1 and not self._stopping)
                self._changed.notify_all()
                if self._failed:
                    return

    def _read(self, frame: Any) -> tuple[int, list[Body]]:
        k4abt = self._k4abt
        try:
            stamp = int(k4abt.k4abt_frame_get_device_timestamp_usec(frame))
            bodies = []
            for i in range(k4abt.k4abt_frame_get_num_bodies(frame)):
                skeleton = k4abt.k4abt_skeleton_t()
                if not k4abt.k4abt_frame_get_body_skeleton(frame, i, skeleton):
                    bodies.append(self._body(int(k4abt.k4abt_frame_get_body_id(frame, i)), skeleton))
            return stamp, bodies
        finally:
            k4abt.k4abt_frame_release(frame)

    def _body(self, number: int, skeleton: Any) -> Body:
        confidence = np.array([joint.confidence_level for joint in skeleton.joints])
        millimeters = np.array([joint.position.v for joint in skeleton.joints])
        positions = millimeters / 1000 @ self._pose[:3, :3].T + self._pose[:3, 3]
        positions[confidence == 0] = np.nan
        joints, scores = convert(positions, _SCORES[confidence], "azure_kinect_32")
        camera, pixels = self._intrinsics, np.full((len(joints), 2), np.nan, np.float32)
        known = np.nan_to_num(joints[:, 2]) > 0
        if known.any():
            pixels[known] = camera_model.project(joints[known], camera)
        return Body(f"body_{number}", CANONICAL, joints, pixels, scores)
