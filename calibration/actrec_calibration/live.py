"""Collection of views from live images, whenever the board, or the robot's hand, rests in a new pose."""

import csv
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from actrec import cameras
from actrec.cameras.base import Camera
from actrec.types import NANOSECONDS, Intrinsics
from actrec.utils.calibration_files import CameraFiles, quaternion
from actrec.utils.config import setting
from actrec.utils.errors import DeviceError, EndOfStream, InputError
from actrec_calibration.board import Board
from actrec_calibration.coverage import Coverage, CoverageConfig, coverage, placement
from actrec_calibration.depth import RgbdView
from actrec_calibration.detection import Detection, View, detect
from actrec_calibration.hand_eye import MIN_VIEWS, HandEyeView, check_motion
from actrec_calibration.poses import pose_difference
from actrec_calibration.sources import ColorImage, ReadImage, check_size

READ_TIMEOUT_S = 5.0
POSES_FILE = "poses.csv"
MAX_POSE_SILENCE_S = 10.0
MAX_REST_M, MAX_REST_DEG = 1e-3, 0.1  # motion of the hand that still counts as resting

PoseAt = Callable[[int], np.ndarray]
"""Returns [4, 4] gripper → base at a stamp in ns; raises DeviceError if it is unknown."""

Log = Callable[[str], None]
"""Shows a line to the user."""


@dataclass(frozen=True)
class LiveConfig:
    """Conditions for a view of live images."""

    still: float = setting(
        0.002, "Maximum motion of the corners between two images of a board at rest, in image widths.",
        range=(1e-5, 0.1),
    )  # fmt: skip
    still_s: float = setting(0.2, "Minimum time at rest.", unit="s", range=(0.0, 10.0))
    new: float = setting(
        0.12, "Minimum distance from every earlier view: share of the image, or of a tilt of 60°.", range=(0.01, 1.0)
    )
    most_views: int = setting(60, "Maximum number of views.", range=(3, 1000))


@dataclass(frozen=True)
class HandConfig:
    """Conditions for a view of a moving robot."""

    views: int = setting(20, "Number of views.", range=(MIN_VIEWS, 500))
    turned: float = setting(6.0, "A pose is new if the hand has rotated by this,", unit="deg", range=(0.1, 90.0))
    shifted: float = setting(0.04, "or moved by this, from every earlier view.", unit="m", range=(0.001, 1.0))


class RestDetector:
    """Detects whether the board is in live images and at rest.

    Attributes:
        detection: In the last image; None if the board is not in it.
    """

    def __init__(self, board: Board, config: LiveConfig):
        self.detection: Detection | None = None
        self._board, self._config = board, config
        self._since: int | None = None

    def update(self, image: ColorImage) -> bool:
        """Process an image; return whether the board has been at rest for long enough.

        Raises:
            InputError: The image is mirrored.
        """
        previous, self.detection = self.detection, detect(self._board, image.color)
        if self.detection is None or _motion(previous, self.detection) > self._config.still * image.color.shape[1]:
            self._since = None
            return False
        if self._since is None or image.stamp_ns < self._since:  # the stamps of a looped recording jump back
            self._since = image.stamp_ns
        return image.stamp_ns - self._since >= self._config.still_s * NANOSECONDS


def _motion(previous: Detection | None, current: Detection) -> float:
    """Return the median motion in px of the corners in both images; infinite if there are none."""
    if previous is None:
        return float("inf")
    _, now, before = np.intersect1d(current.ids, previous.ids, return_indices=True)
    if not len(now):
        return float("inf")
    return float(np.median(np.hypot(*(current.pixels[now] - previous.pixels[before]).T)))


class ViewCollector:
    """Collects views that differ from one another.

    Args:
        board: Board.
        config: Conditions for a view.
        required: Coverage that suffices.

    Attributes:
        views: Collected views.
        coverage: Coverage of the views.
    """

    def __init__(self, board: Board, config: LiveConfig | None = None, required: CoverageConfig | None = None):
        self.board = board
        self.config = config or LiveConfig()
        self.views: list[View] = []
        self._required = required or CoverageConfig()
        self.coverage: Coverage = coverage(board, [], self._required)
        self._rest = RestDetector(board, self.config)

    @property
    def detection(self) -> Detection | None:
        """Detection in the last image; None if the board is not in it."""
        return self._rest.detection

    @property
    def done(self) -> bool:
        """Whether the views suffice, or their maximum number is reached."""
        return not self.coverage.missing or len(self.views) >= self.config.most_views

    def update(self, image: ColorImage) -> bool:
        """Process an image; return whether it became a view.

        Raises:
            InputError: The image is mirrored.
        """
        if not self._rest.update(image) or self.detection is None:
            return False
        height, width = image.color.shape[:2]
        view = View(image.name, (width, height), self.detection)
        vector = placement(self.board, view).vector
        others = [placement(self.board, other).vector for other in self.views]
        if any(np.linalg.norm(vector - other) <= self.config.new for other in others):
            return False
        self.views.append(view)
        self.coverage = coverage(self.board, self.views, self._required)
        return True


def collect_views(
    read: ReadImage,
    collector: ViewCollector,
    stopped: threading.Event,
    on_image: Callable[[ColorImage, bool], None],
) -> list[View]:
    """Collect views until they suffice, the stream ends, or `stopped` is set.

    Args:
        read: Returns images.
        collector: Collector.
        stopped: Ends the collection, for example from a signal handler.
        on_image: Called with each image and whether it became a view.

    Raises:
        DeviceError: No image arrives.
        InputError: The images are mirrored.
    """
    while not stopped.is_set() and not collector.done:
        try:
            image = read(READ_TIMEOUT_S)
        except EndOfStream:
            break
        on_image(image, collector.update(image))
    return collector.views


def draw_preview(image: ColorImage, collector: ViewCollector) -> np.ndarray:
    """Draw the corners (green), the corners of all views (blue) and the next instructions, [H, W, 3] RGB."""
    drawn = image.color.copy()
    for view in collector.views:
        for corner in view.detection.pixels:
            cv2.circle(drawn, round_pixel(corner), 2, (80, 120, 255), -1)
    for corner in collector.detection.pixels if collector.detection else ():
        cv2.circle(drawn, round_pixel(corner), 3, (60, 220, 60), 1, cv2.LINE_AA)
    lines = [f"{len(collector.views)} views, {100 * collector.coverage.complete:.0f} %", *collector.coverage.missing]
    for number, line in enumerate(lines):
        # OpenCV's font has no degree sign.
        origin, text = (8, 20 + 20 * number), line.replace("°", " deg")
        cv2.putText(drawn, text, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 3, cv2.LINE_AA)
        cv2.putText(drawn, text, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
    return drawn


def round_pixel(pixel: np.ndarray) -> tuple[int, int]:
    """Round a pixel [2] to integers for OpenCV's drawing functions."""
    return round(float(pixel[0])), round(float(pixel[1]))


def save_image(path: Path, image: np.ndarray) -> None:
    """Write [H, W, 3] RGB atomically: a viewer may be reading the file.

    Raises:
        DeviceError: It cannot be written.
    """
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(cv2.imencode(path.suffix, image[..., ::-1])[1].tobytes())
        os.replace(temporary, path)
    except OSError as error:
        raise DeviceError(f"cannot write '{path}': {error.strerror}; choose another place") from error


def collect_rgbd(
    driver: str, options: dict[str, Any], board: Board, count: int, stopped: threading.Event, log: Log
) -> tuple[CameraFiles, list[RgbdView]]:
    """Collect views by color and depth from a running camera, whenever the board rests in a new pose.

    Args:
        driver: A name in `actrec.cameras.DRIVERS`.
        options: Its settings.
        board: Board.
        count: Number of views.
        stopped: Ends the collection with the views so far.
        log: Shows progress.

    Returns:
        The camera's own calibration, and the views.

    Raises:
        DeviceError: There is no such camera, or it stopped.
        InputError: It has no depth.
    """
    collector = ViewCollector(board, LiveConfig(most_views=max(count, 3)))
    views: list[RgbdView] = []
    log("hold the board still for a moment, then in another way: near and far, tilted to all sides; Ctrl-C ends it")
    with cameras.create(driver, **options) as camera:
        for frame in _rgbd_frames(camera, driver):
            name = f"view {len(views) + 1}"
            if collector.update(ColorImage(name, frame.stamp_ns, frame.color)) and collector.detection is not None:
                views.append(RgbdView(name, collector.detection, frame.depth))
                log(f"{len(views)} of {count} views")
            if len(views) == count or stopped.is_set():
                break
        return camera.calibration(), views


def capture_static_scene(
    driver: str, options: dict[str, Any], board: Board, count: int
) -> tuple[CameraFiles, list[RgbdView]]:
    """Capture the next frames of a running camera; camera and board stand still.

    Args:
        driver: A name in `actrec.cameras.DRIVERS`.
        options: Its settings.
        board: Board.
        count: Number of frames.

    Returns:
        The camera's own calibration, and the frames that show the board.

    Raises:
        DeviceError: There is no such camera, or it stopped.
        InputError: It has no depth, or no frame shows the board.
    """
    views: list[RgbdView] = []
    with cameras.create(driver, **options) as camera:
        for number, frame in enumerate(itertools.islice(_rgbd_frames(camera, driver), count), 1):
            corners = detect(board, frame.color)
            if corners is not None:
                views.append(RgbdView(f"frame {number}", corners, frame.depth))
        calibration = camera.calibration()
    if not views:
        raise InputError(
            f"no frame of {count} shows the board: check --kind, --columns and --rows, and the camera's view"
        )
    return calibration, views


def _rgbd_frames(camera: Camera, driver: str) -> Iterator[Any]:
    while True:
        try:
            frame = camera.read(READ_TIMEOUT_S)
        except EndOfStream:
            return
        if frame.color is None or frame.depth is None:
            raise InputError(f"driver {driver} has no color and depth here: choose a camera that has both")
        yield frame


class HandEyeCollector:
    """Collects views of a robot in new poses, and saves their images and poses.

    Args:
        board: Board.
        pose_at: Pose of the robot's hand.
        config: Conditions for a view.
        folder: Folder for the images and `POSES_FILE`.

    Attributes:
        views: Collected views.
        todo: Next instruction for the user; empty if the views suffice.
    """

    def __init__(self, board: Board, pose_at: PoseAt, config: HandConfig, folder: Path):
        self.views: list[HandEyeView] = []
        self._board, self._pose_at, self._config, self._folder = board, pose_at, config, folder
        live = LiveConfig()
        self._rest, self._rest_ns = RestDetector(board, live), round(live.still_s * NANOSECONDS)
        self._unknown_since: int | None = None
        self.todo = self._next_instruction()

    def update(self, image: ColorImage) -> bool:
        """Process an image; return whether it became a view.

        Raises:
            DeviceError: The robot's pose has been unknown for a while, or the image cannot be saved.
            InputError: The image is mirrored.
        """
        if not self._rest.update(image) or (pose := self._resting_pose(image.stamp_ns)) is None:
            return False
        differences = [pose_difference(pose, view.gripper) for view in self.views]
        is_new = all(m > self._config.shifted or degrees > self._config.turned for m, degrees in differences)
        if is_new:
            corners = self._rest.detection
            assert corners is not None
            name = f"view_{len(self.views) + 1:03d}.png"
            self.views.append(HandEyeView(name, self._board.points[corners.ids], corners.pixels, pose))
            save_image(self._folder / name, image.color)
            self._write_poses()
        self.todo = self._next_instruction()
        return is_new

    def _resting_pose(self, stamp_ns: int) -> np.ndarray | None:
        """Return the pose; None if it is unknown, or the hand moves: the image's stamp is then too late."""
        try:
            pose, before = self._pose_at(stamp_ns), self._pose_at(stamp_ns - self._rest_ns)
        except DeviceError as error:
            self._handle_unknown_pose(stamp_ns, str(error).rstrip("."))
            return None
        self._unknown_since = None
        meters, degrees = pose_difference(pose, before)
        return pose if meters < MAX_REST_M and degrees < MAX_REST_DEG else None

    def _handle_unknown_pose(self, stamp_ns: int, reason: str) -> None:
        self._unknown_since = min(stamp_ns, self._unknown_since or stamp_ns)
        if stamp_ns - self._unknown_since > MAX_POSE_SILENCE_S * NANOSECONDS:
            raise DeviceError(
                f"TF has had no pose of the robot for {MAX_POSE_SILENCE_S:g} s: {reason}; is its driver running, and "
                "are the frames' names correct?"
            )
        self.todo = f"TF has no pose of the robot: {reason}"

    def _next_instruction(self) -> str:
        remaining = self._config.views - len(self.views)
        if len(self.views) >= MIN_VIEWS:
            try:
                check_motion([view.gripper for view in self.views])
            except InputError as error:
                return str(error)
        return f"{remaining} more: turn the hand, let it rest with the board in view" if remaining > 0 else ""

    def _write_poses(self) -> None:
        path = self._folder / POSES_FILE
        try:
            with path.open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["image", "x", "y", "z", "qx", "qy", "qz", "qw"])
                for view in self.views:
                    position = map(float, view.gripper[:3, 3])
                    writer.writerow([view.name, *position, *quaternion(view.gripper[:3, :3])])
        except OSError as error:
            raise DeviceError(f"cannot write '{path}': {error.strerror}; choose another place") from error


def collect_hand_eye(
    read: ReadImage, collector: HandEyeCollector, stopped: threading.Event, known: Intrinsics | None, log: Log
) -> tuple[list[HandEyeView], Intrinsics | None]:
    """Collect views until they suffice, the stream ends, or `stopped` is set.

    Args:
        read: Returns images.
        collector: Collector.
        stopped: Ends the collection.
        known: Intrinsics of the images; by default the camera's own.
        log: Shows the next instruction.

    Returns:
        The views, and the intrinsics.

    Raises:
        DeviceError: No image or no pose arrives.
        InputError: The images are mirrored or not of the intrinsics' size, or the intrinsics are unknown.
    """
    last_line, camera, first_ns = "", known, None
    while not stopped.is_set() and collector.todo:
        try:
            image = read(READ_TIMEOUT_S)
        except EndOfStream:
            break
        first_ns = image.stamp_ns if first_ns is None else first_ns
        camera = known or image.intrinsics or camera
        if camera is None:
            if image.stamp_ns - first_ns > READ_TIMEOUT_S * NANOSECONDS:
                raise InputError(
                    "the camera's intrinsics are unknown, and the images have no camera_info: run actrec calibrate "
                    "intrinsics first, or name a file with --intrinsics"
                )
            continue
        check_size("the image", image.color, camera)
        collector.update(image)
        line = f"{len(collector.views)} views; {collector.todo or 'enough'}"
        if line != last_line:
            log(line)
        last_line = line
    return collector.views, camera
