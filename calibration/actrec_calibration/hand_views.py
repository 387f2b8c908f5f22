"""Views for hand-eye: from a folder with the robot's poses, or live, whenever the robot rests in a new pose."""

import csv
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actrec.types import NANOSECONDS, Intrinsics
from actrec.utils.calibration_files import quaternion
from actrec.utils.config import setting
from actrec.utils.errors import DeviceError, EndOfStream, InputError
from actrec_calibration import hand_eye, sources
from actrec_calibration.board import Board
from actrec_calibration.hand_eye import LEAST_VIEWS, HandEyeView, check_motion
from actrec_calibration.live import READ_TIMEOUT_S, LiveConfig, Stillness, save
from actrec_calibration.solver import apart
from actrec_calibration.sources import Picture, Read

PoseAt = Callable[[int], np.ndarray]
"""Gives [4, 4] gripper → base at a stamp in nanoseconds; raises DeviceError where it is not known."""

POSES_FILE = "poses.csv"

_SILENCE_S = 10.0

_REST_M, _REST_DEG = 1e-3, 0.1


@dataclass(frozen=True)
class HandConfig:
    """When a view is taken of a robot that moves."""

    views: int = setting(20, "Views to take.", range=(LEAST_VIEWS, 500))
    turned: float = setting(6.0, "The hand is posed anew when it has turned by this,", unit="deg", range=(0.1, 90.0))
    shifted: float = setting(0.04, "or moved by this, from every view before.", unit="m", range=(0.001, 1.0))


def of_folder(
    folder: str, poses_file: str, board: Board, camera: Intrinsics, unit: str, inverted: bool
) -> list[HandEyeView]:
    """A folder's pictures that show the board and have a pose; says which have none.

    Args:
        folder: Of pictures.
        poses_file: See `robot_poses.read`, alike `unit` and `inverted`.
        board: Looked for.
        camera: Pictures must be of its size.
        unit: Of the poses' translations.
        inverted: The file has base → gripper.

    Raises:
        DeviceError: There is no such folder or file.
        InputError: A picture is damaged or of another size; no pose is of a picture.
    """
    poses = hand_eye.read(poses_file, unit, inverted)
    views, without = [], []
    for file in sources.of_folder(folder):
        pose = poses.get(file.name, poses.get(file.stem))
        if pose is None:
            without.append(file.name)
            continue
        image = sources.read_file(file).color
        check_size(f"'{file}'", image, camera)
        if (seen := board.detect(image)) is not None:
            views.append(HandEyeView(file.name, board.points[seen.ids], seen.pixels, pose))
    if not views and without:
        raise InputError(
            f"no pose of '{poses_file}' is of a picture in '{folder}' (e.g. {without[0]}): name them alike"
        )
    if without:
        print(f"pictures without a pose in '{poses_file}': {', '.join(without)}", file=sys.stderr)
    return views


def check_size(what: str, image: np.ndarray, camera: Intrinsics) -> None:
    """Refuses intrinsics of another size.

    Raises:
        InputError: Names both sizes.
    """
    if image.shape[:2] != (camera.height, camera.width):
        raise InputError(
            f"{what} is {image.shape[1]}×{image.shape[0]} and the intrinsics are of "
            f"{camera.width}×{camera.height}: give those of this size"
        )


class HandCollector:
    """Judges one live picture after another, and keeps those of views with their poses, so that nothing is lost.

    Args:
        board: Looked for.
        pose_at: The robot's.
        config: When a view is taken.
        keep: Folder for the pictures and `POSES_FILE`.

    Attributes:
        taken: The views so far.
        todo: What is still to be done, for a person; empty when the views suffice.
    """

    def __init__(self, board: Board, pose_at: PoseAt, config: HandConfig, keep: Path):
        self.taken: list[HandEyeView] = []
        self._board, self._pose_at, self._config, self._keep = board, pose_at, config, keep
        live = LiveConfig()
        self._still, self._rest_ns = Stillness(board, live), round(live.still_s * NANOSECONDS)
        self._silent_since: int | None = None
        self.todo = self._asked()

    def look(self, picture: Picture) -> bool:
        """Whether a view was taken of this picture.

        Raises:
            DeviceError: The robot's poses have been unknown for a while; the pictures cannot be kept.
            InputError: The picture is mirrored.
        """
        if not self._still.look(picture) or (pose := self._resting(picture.stamp_ns)) is None:
            return False
        if not self._is_new(pose):
            self.todo = self._asked()
            return False
        detection = self._still.detection
        assert detection is not None
        name = f"view_{len(self.taken) + 1:03d}.png"
        self.taken.append(HandEyeView(name, self._board.points[detection.ids], detection.pixels, pose))
        save(self._keep / name, picture.color)
        self._write_poses()
        self.todo = self._asked()
        return True

    def _resting(self, stamp_ns: int) -> np.ndarray | None:
        """The pose; None where it is not known, or the hand moves: then the picture's stamp is late."""
        try:
            pose, before = self._pose_at(stamp_ns), self._pose_at(stamp_ns - self._rest_ns)
        except DeviceError as error:
            self._unknown(stamp_ns, str(error).rstrip("."))
            return None
        self._silent_since = None
        metres, degrees = apart(pose, before)
        return pose if metres < _REST_M and degrees < _REST_DEG else None

    def _unknown(self, stamp_ns: int, reason: str) -> None:
        self._silent_since = stamp_ns if self._silent_since is None else min(self._silent_since, stamp_ns)
        if stamp_ns - self._silent_since > _SILENCE_S * NANOSECONDS:
            raise DeviceError(
                f"TF has not told the robot's pose for {_SILENCE_S:g} s: {reason}; is its driver running, and are the "
                "frames named as it names them?"
            )
        self.todo = f"TF does not tell the robot's pose: {reason}"

    def _is_new(self, pose: np.ndarray) -> bool:
        away = [apart(pose, view.gripper) for view in self.taken]
        return all(metres > self._config.shifted or degrees > self._config.turned for metres, degrees in away)

    def _asked(self) -> str:
        more = self._config.views - len(self.taken)
        if len(self.taken) >= LEAST_VIEWS:
            try:
                check_motion([view.gripper for view in self.taken], "the robot's hand")
            except InputError as error:
                return str(error)
        return f"{more} more: turn the hand, let it rest with the board in view" if more > 0 else ""

    def _write_poses(self) -> None:
        path = self._keep / POSES_FILE
        try:
            with path.open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["image", "x", "y", "z", "qx", "qy", "qz", "qw"])
                for view in self.taken:
                    place = map(float, view.gripper[:3, 3])
                    writer.writerow([view.name, *place, *quaternion(view.gripper[:3, :3])])
        except OSError as error:
            raise DeviceError(f"cannot write '{path}': {error.strerror}; choose another place") from error


def live(
    read: Read, collector: HandCollector, stopped: threading.Event, known: Intrinsics | None
) -> tuple[list[HandEyeView], Intrinsics | None]:
    """Takes views until they suffice, the stream ends or somebody stops it, and says on stderr what to do.

    Args:
        read: Gives pictures.
        collector: Judges them.
        stopped: Set it to end.
        known: Intrinsics of the pictures, where they are known.

    Returns:
        The views, and the intrinsics: those known, else what the camera tells.

    Raises:
        DeviceError: No picture or no pose comes.
        InputError: The pictures are mirrored, or of another size than the intrinsics; nothing tells the intrinsics.
    """
    said, camera, first_ns = "", known, None
    while not stopped.is_set() and collector.todo:
        try:
            picture = read(READ_TIMEOUT_S)
        except EndOfStream:
            break
        first_ns = picture.stamp_ns if first_ns is None else first_ns
        camera = known or picture.intrinsics or camera
        if camera is None:
            _refuse_unknown(picture.stamp_ns - first_ns)
            continue
        check_size("the picture", picture.color, camera)
        collector.look(picture)
        line = f"{len(collector.taken)} views; {collector.todo or 'enough'}"
        if line != said:
            print(line, file=sys.stderr, flush=True)
        said = line
    return collector.taken, camera


def _refuse_unknown(waited_ns: int) -> None:
    if waited_ns > READ_TIMEOUT_S * NANOSECONDS:
        raise InputError(
            "nothing tells the camera's intrinsics, there is no camera_info beside the images either: run actrec "
            "calibrate intrinsics first, or name a file with --intrinsics"
        )
