"""Hand-eye calibration: the camera's pose on a robot arm or beside it, from images of a board and the robot's poses.

Two mounts:

- `hand`: the camera is on the gripper, the board stands still in the robot's base frame. Result: camera → gripper.
- `base`: the camera stands still beside the robot, the gripper holds the board. Result: camera → base.

"camera → gripper" is the 4×4 that transforms a point from the camera's optical frame to the gripper's: the static
transform with parent gripper and child camera. The robot's poses are gripper → base: the pose of the gripper in the
base frame, as robots display it and `tf2_echo base gripper` prints it.

With A the gripper → base of each image for `base`, and its inverse for `hand`, X the camera's pose and B the board's
pose on the other side: board → camera = X⁻¹ A B (Shah 2013 writes A B = X C). A closed form gives the initial solution;
then all corners of all images are fitted together, each image with a small error of the robot's pose.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from actrec.types import NANOSECONDS, Intrinsics
from actrec.utils import calibration_files, folders
from actrec.utils.calibration_files import quaternion, rigid, rotation_matrix, unit_quaternion
from actrec.utils.config import setting
from actrec.utils.errors import DeviceError, InputError
from actrec_calibration import solver, views
from actrec_calibration.board import Board
from actrec_calibration.detection import detect
from actrec_calibration.poses import (
    BoardPose,
    estimate_board_pose,
    invert,
    pose_difference,
    pose_from_vector,
    pose_to_vector,
    project,
    rms,
    rotation_sigma_deg,
    rotation_vector,
    transform,
)
from actrec_calibration.quality import save_image
from actrec_calibration.views import Log

MOUNTS = ("hand", "base")
MIN_VIEWS = 5
MIN_ROTATION_DEG = 10.0  # largest rotation between two images
MIN_SECOND_AXIS_DEG = 4.0  # rotation about axes other than the main one, root mean square
MAX_REACH_M = 20.0  # no arm reaches farther: the poses are in mm

CLOSED_FORMS = (cv2.CALIB_HAND_EYE_PARK, cv2.CALIB_HAND_EYE_HORAUD, cv2.CALIB_HAND_EYE_DANIILIDIS)
RANSAC_TRIALS, RANSAC_VIEWS = 60, 4


@dataclass(frozen=True)
class HandEyeView:
    """Image of the board: corners [N, 3], m, with their pixels [N, 2], and gripper → base [4, 4] at that time."""

    name: str
    points: np.ndarray
    pixels: np.ndarray
    gripper: np.ndarray


@dataclass(frozen=True)
class NoiseModel:
    """Expected standard deviations of a corner, px, and of the robot's pose (repeatability and kinematics)."""

    pixels: float = 0.2
    meters: float = 1e-4
    degrees: float = 0.02


@dataclass(frozen=True)
class HandEye:
    """Result of `calibrate`.

    Attributes:
        camera: [4, 4] camera → gripper (hand) or camera → base (base).
        board: [4, 4] board → base (hand) or board → gripper (base).
        sigma_m, sigma_deg: [3] standard deviations of the camera's pose along and about its own axes.
        rms: Reprojection error of the used views with the robot's poses as given, px.
        used: Names of the used views.
        rejected: Reprojection error in px by name of the rejected view.
    """

    camera: np.ndarray
    board: np.ndarray
    sigma_m: np.ndarray
    sigma_deg: np.ndarray
    rms: float
    used: tuple[str, ...]
    rejected: dict[str, float]


def check_motion(poses: list[np.ndarray]) -> None:
    """Check that the hand's rotations determine the camera's pose.

    Translations alone, or rotations about a single axis (a wrist, a mobile base), leave the camera's position along
    that axis undetermined, for any number of images.

    Raises:
        InputError: Rotations are too small or all about one axis, or translations cannot be m.
    """
    reach = np.abs([pose[:3, 3] for pose in poses]).max()
    if reach > MAX_REACH_M:
        raise InputError(f"a pose of the robot's hand is {reach:.0f} m from the base: is it in mm? add --unit mm")
    # In degrees about the axes of the base.
    pairs = [(a[:3, :3], b[:3, :3]) for i, a in enumerate(poses) for b in poses[i + 1 :]]
    rotations = np.array([np.degrees(rotation_vector(b @ a.T)) for a, b in pairs])
    largest = float(np.linalg.norm(rotations, axis=1).max())
    if largest < MIN_ROTATION_DEG:
        raise InputError(
            f"the robot's hand rotates by at most {largest:.1f}° between the images: rotate it by 20° to 60° about two "
            "axes or more"
        )
    spread, axes = np.linalg.eigh(rotations.T @ rotations / len(rotations))
    if np.sqrt(max(spread[1], 0)) < MIN_SECOND_AXIS_DEG:
        axis = ", ".join(f"{value:+.2f}" for value in axes[:, 2])
        raise InputError(
            f"the robot's hand rotates about one axis only ({axis} of the base frame), which leaves the camera's "
            "position along it undetermined: rotate it about a second axis as well, by 20° or more"
        )


def calibrate(images: list[HandEyeView], camera: Intrinsics, mount: str, noise: NoiseModel | None = None) -> HandEye:
    """Calibrate the camera's pose by images of one board.

    Raises:
        InputError: Too few views, motion that leaves something undetermined, inverted poses, or poses that do not
            belong to the images.
    """
    if mount not in MOUNTS:
        raise InputError(f"mount is '{mount}', expected {' or '.join(MOUNTS)}")
    if len(images) < MIN_VIEWS:
        raise InputError(
            f"{len(images)} views of the board are too few for hand-eye: take at least {MIN_VIEWS}, 15 for an accurate "
            "result"
        )
    boards = [estimate_board_pose(view.points, view.pixels, camera) for view in images]
    check_motion([view.gripper for view in images])
    problem = _Problem(images, boards, camera, mount, noise or NoiseModel())
    arms = [invert(view.gripper) if mount == "hand" else view.gripper for view in images]
    estimate = problem.solve(arms)
    problem.check_not_inverted(estimate, arms)
    if estimate.inliers.sum() < max(MIN_VIEWS, 0.6 * len(images)):
        raise InputError(
            f"only {estimate.inliers.sum()} of {len(images)} views agree on one pose of the camera "
            f"(rms {estimate.median:.1f} px): check that each pose belongs to its image, that the board did not slip, "
            "the order of quaternions (x, y, z, w), and the accuracy stated for the robot (--robot-mm)"
        )
    return problem.result(estimate, arms)


@dataclass(frozen=True)
class _Estimate:
    """Estimate of X and B, with the reprojection error of each view in px and the views that agree."""

    x: np.ndarray
    b: np.ndarray
    errors: np.ndarray
    inliers: np.ndarray

    @property
    def median(self) -> float:
        return float(np.median(np.minimum(self.errors, 1e9)))  # finite, so that it can be compared

    @property
    def score(self) -> tuple[int, float]:
        """Larger is better: number of inliers, then the negative median error."""
        return int(self.inliers.sum()), -self.median


class _Problem:
    """Views of one calibration."""

    def __init__(
        self, images: list[HandEyeView], boards: list[BoardPose], camera: Intrinsics, mount: str, noise: NoiseModel
    ):
        self.views, self.boards, self.camera, self.mount, self.noise = images, boards, camera, mount, noise
        distance = float(np.median([board.pose[2, 3] for board in boards]))
        # Expected error of a correct view, px: of the corners, and of the robot at that distance.
        robot = camera.fx * (noise.meters / distance + np.radians(noise.degrees) * 2)
        corners = max(noise.pixels, float(np.median([board.rms for board in boards])))
        self.max_error = 4 * float(np.hypot(corners, robot))

    def solve(self, arms: list[np.ndarray]) -> _Estimate:
        """Return the estimate that most views agree on, refined with these views only."""
        clear = [number for number, board in enumerate(self.boards) if not board.ambiguous]
        best = self._closed_form(arms, clear if len(clear) >= MIN_VIEWS else list(range(len(arms))))
        if not best.inliers.all():
            random = np.random.default_rng(0)
            for _ in range(RANSAC_TRIALS):
                sample = random.choice(len(arms), min(RANSAC_VIEWS, len(arms)), replace=False)
                best = max(best, self._closed_form(arms, list(sample)), key=lambda estimate: estimate.score)
        for _ in range(4):
            enough = best.inliers.sum() >= MIN_VIEWS
            used = np.flatnonzero(best.inliers) if enough else np.argsort(best.errors)[:MIN_VIEWS]
            refined = self._refine(arms, best, list(used), robot_errors=False).shared
            new = self._evaluate(pose_from_vector(refined[:6]), pose_from_vector(refined[6:]), arms)
            if (new.inliers == best.inliers).all() or new.score < best.score:
                return max(new, best, key=lambda estimate: estimate.score)
            best = new
        return best

    def check_not_inverted(self, estimate: _Estimate, arms: list[np.ndarray]) -> None:
        """Refuse poses that fit much better inverted: base → gripper, or the other mount."""
        if estimate.median <= self.max_error:
            return
        inverted = self.solve([invert(arm) for arm in arms])
        if not inverted.median * 5 < estimate.median:
            return
        other = "base" if self.mount == "hand" else "hand"
        raise InputError(
            f"the robot's poses fit {estimate.median / inverted.median:.0f} times better inverted "
            f"({inverted.median:.2f} px against {estimate.median:.1f} px): either they are base → gripper instead of "
            "gripper → base (the pose of the gripper in the base frame): add --inverted; or the camera is mounted the "
            f"other way: --mount {other}"
        )

    def result(self, estimate: _Estimate, arms: list[np.ndarray]) -> HandEye:
        """Return the final solution over the inliers, each with a small error of the robot's pose."""
        used = np.flatnonzero(estimate.inliers).tolist()
        solution = self._refine(arms, estimate, used, robot_errors=True)
        vector, covariance = solution.shared[:6], solution.covariance
        final = self._evaluate(pose_from_vector(vector), pose_from_vector(solution.shared[6:]), arms)
        to_camera = final.x[:3, :3].T
        return HandEye(
            camera=final.x,
            board=final.b,
            sigma_m=np.sqrt(np.diag(to_camera @ covariance[3:6, 3:6] @ to_camera.T)),
            sigma_deg=rotation_sigma_deg(vector, covariance[:3, :3], to_camera),
            rms=float(np.sqrt((final.errors[used] ** 2).mean())),
            used=tuple(self.views[number].name for number in used),
            rejected={self.views[n].name: float(final.errors[n]) for n in np.flatnonzero(~estimate.inliers)},
        )

    def _closed_form(self, arms: list[np.ndarray], sample: list[int]) -> _Estimate:
        """Return the best of OpenCV's closed forms over some of the views, evaluated on all views."""
        grippers, boards = np.array([invert(arms[i]) for i in sample]), np.array([self.boards[i].pose for i in sample])
        gripper_r, gripper_t = list(grippers[:, :3, :3]), list(grippers[:, :3, 3])
        board_r, board_t = list(boards[:, :3, :3]), list(boards[:, :3, 3])
        best = _Estimate(np.eye(4), np.eye(4), np.full(len(arms), np.inf), np.zeros(len(arms), bool))
        for method in CLOSED_FORMS:
            try:
                r, t = cv2.calibrateHandEye(gripper_r, gripper_t, board_r, board_t, method=method)
            except cv2.error:  # a subset without enough motion
                continue
            x = calibration_files.transform(r, t.ravel())
            if np.isfinite(x).all() and abs(np.linalg.det(r) - 1) <= 0.1:
                in_base = grippers @ x @ boards
                b = in_base.mean(axis=0)
                b[:3, :3] = Rotation.from_matrix(in_base[:, :3, :3]).mean().as_matrix()
                best = max(best, self._evaluate(x, b, arms), key=lambda estimate: estimate.score)
        return best

    def _evaluate(self, x: np.ndarray, b: np.ndarray, arms: list[np.ndarray]) -> _Estimate:
        errors = []
        for arm, view in zip(arms, self.views, strict=True):
            points = transform(invert(x) @ arm @ b, view.points)
            in_front = (points[:, 2] > 1e-3).all()
            errors.append(rms(project(points, self.camera) - view.pixels) if in_front else float("inf"))
        return _Estimate(x, b, np.array(errors), np.array(errors) <= self.max_error)

    def _refine(
        self, arms: list[np.ndarray], estimate: _Estimate, used: list[int], robot_errors: bool
    ) -> solver.Solution:
        sigma = np.repeat([np.radians(self.noise.degrees), self.noise.meters], 3)

        def residuals(shared: np.ndarray, own: np.ndarray, number: int) -> np.ndarray:
            view, arm = self.views[used[number]], arms[used[number]]
            if robot_errors:  # in the gripper's own axes
                error = pose_from_vector(own)
                arm = error @ arm if self.mount == "hand" else arm @ error
            pose = invert(pose_from_vector(shared[:6])) @ arm @ pose_from_vector(shared[6:])
            errors = (project(transform(pose, view.points), self.camera) - view.pixels).ravel() / self.noise.pixels
            return np.concatenate([errors, own / sigma]) if robot_errors else errors

        initial = np.concatenate([pose_to_vector(estimate.x), pose_to_vector(estimate.b)])
        return solver.solve(residuals, initial, np.zeros((len(used), 6 if robot_errors else 0)))


# -- files -------------------------------------------------------------------------------------------------------------

UNITS = {"m": 1.0, "mm": 0.001}


def read_folder(
    folder: Path, poses_file: Path, board: Board, camera: Intrinsics, unit: str = "m", inverted: bool = False
) -> tuple[list[HandEyeView], list[str]]:
    """Read the images of a folder that show the board and have one of the robot's poses.

    Returns:
        The views, and the names of images without a pose.

    Raises:
        DeviceError: There is no such folder or file.
        InputError: An image is damaged or of another size, a pose is damaged, or no pose belongs to an image.
    """
    poses = read_robot_poses(poses_file, unit, inverted)
    found: list[HandEyeView] = []
    without_pose: list[str] = []
    for file in views.list_images(folder):
        pose = poses.get(file.name, poses.get(file.stem))
        if pose is None:
            without_pose.append(file.name)
            continue
        corners = detect(board, views.check_size(f"'{file}'", views.read_image(file).color, camera))
        if corners is not None:
            found.append(HandEyeView(file.name, board.points[corners.ids], corners.pixels, pose))
    if not found and without_pose:
        raise InputError(
            f"no pose of '{poses_file}' belongs to an image in '{folder}' (e.g. {without_pose[0]}): use the same names"
        )
    return found, without_pose


def read_robot_poses(path: Path, unit: str = "m", inverted: bool = False) -> dict[str, np.ndarray]:
    """Read robot poses, [4, 4] gripper → base by the image's name.

    Args:
        path: CSV with a header: `image,x,y,z,qx,qy,qz,qw`, or `image,x,y,z,rx,ry,rz` with a rotation vector in radians
            (as a UR prints it).
        unit: Unit of the translations, one of `UNITS`.
        inverted: Whether the file contains base → gripper.

    Raises:
        DeviceError: There is no such file.
        InputError: A row is no pose, or an image has two.
    """
    poses: dict[str, np.ndarray] = {}
    for number, row in enumerate(views.read_csv(path), 1):
        try:
            name, pose = str(row["image"]).strip(), _parse_pose(row)
        except (KeyError, TypeError, ValueError) as error:
            cause = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise InputError(f"'{path}' pose {number}: {cause}; expected image, x, y, z and qx, qy, qz, qw") from error
        if name in poses:
            raise InputError(f"'{path}' pose {number}: '{name}' has a pose already; give one pose per image")
        pose[:3, 3] *= UNITS[unit]
        poses[name] = invert(pose) if inverted else pose
    if not poses:
        raise InputError(f"'{path}' contains no poses; expected a header image,x,y,z,qx,qy,qz,qw and a row per image")
    return poses


def _parse_pose(row: dict[str, Any]) -> np.ndarray:
    translation = [float(row[axis]) for axis in "xyz"]
    if "qw" in row:
        turned = rotation_matrix(*unit_quaternion([row[f"q{axis}"] for axis in "xyzw"]))
        return rigid(calibration_files.transform(turned, translation))
    rotation = [float(row[f"r{axis}"]) for axis in "xyz"]
    if not np.linalg.norm(rotation) < 2 * np.pi + 0.01:
        raise ValueError("a rotation vector longer than a full turn: give radians")
    return rigid(pose_from_vector(np.array([*rotation, *translation])))


# -- live --------------------------------------------------------------------------------------------------------------

POSES_FILE, LENS_FILE = "poses.csv", "color.yaml"
MAX_POSE_SILENCE_S = 10.0
MAX_REST_M, MAX_REST_DEG = 1e-3, 0.1  # motion of the hand that still counts as resting

PoseAt = Callable[[int], np.ndarray]
"""Returns [4, 4] gripper → base at a stamp in ns; raises DeviceError if it is unknown."""


@dataclass(frozen=True)
class HandConfig:
    """Conditions for a view of a moving robot."""

    views: int = setting(20, "Number of views.", range=(MIN_VIEWS, 500))
    turned: float = setting(6.0, "A pose is new if the hand has rotated by this,", unit="deg", range=(0.1, 90.0))
    shifted: float = setting(0.04, "or moved by this, from every earlier view.", unit="m", range=(0.001, 1.0))


class HandEyeCollector:
    """Collects views of a robot in new poses, and saves their images, `POSES_FILE` and `LENS_FILE` in a folder.

    Attributes:
        views: Collected views.
        todo: Next instruction for the user; empty if the views suffice.
    """

    def __init__(self, board: Board, pose_at: PoseAt, config: HandConfig, folder: Path):
        self.views: list[HandEyeView] = []
        self._board, self._pose_at, self._config, self._folder = board, pose_at, config, folder
        self._rest = views.RestDetector(board)
        self._unknown_since: int | None = None
        self.todo = self._next_instruction()

    def update(self, image: views.ColorImage) -> bool:
        """Process an image; return whether it became a view. Raise DeviceError if TF has had no pose for a while."""
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
            rows = [(v.name, *map(float, v.gripper[:3, 3]), *quaternion(v.gripper[:3, :3])) for v in self.views]
            lines = ["image,x,y,z,qx,qy,qz,qw", *(",".join(map(str, row)) for row in rows)]
            folders.write_file(self._folder / POSES_FILE, "".join(f"{line}\n" for line in lines).encode())
        self.todo = self._next_instruction()
        return is_new

    def save_lens(self, camera: Intrinsics) -> None:
        """Write the lens of the images beside them."""
        calibration_files.write_intrinsics(self._folder / LENS_FILE, camera, "color")

    def _resting_pose(self, stamp_ns: int) -> np.ndarray | None:
        """Return the pose; None if it is unknown, or the hand moves: the image's stamp is then too late."""
        try:
            pose, before = self._pose_at(stamp_ns), self._pose_at(stamp_ns - round(views.REST_S * NANOSECONDS))
        except DeviceError as error:
            reason = str(error).rstrip(".")
            self._unknown_since = min(stamp_ns, self._unknown_since or stamp_ns)
            if stamp_ns - self._unknown_since > MAX_POSE_SILENCE_S * NANOSECONDS:
                raise DeviceError(
                    f"TF has had no pose of the robot for {MAX_POSE_SILENCE_S:g} s: {reason}; is its driver running, "
                    "and are the frames' names correct?"
                ) from error
            self.todo = f"TF has no pose of the robot: {reason}"
            return None
        self._unknown_since = None
        meters, degrees = pose_difference(pose, before)
        return pose if meters < MAX_REST_M and degrees < MAX_REST_DEG else None

    def _next_instruction(self) -> str:
        remaining = self._config.views - len(self.views)
        if len(self.views) >= MIN_VIEWS:
            try:
                check_motion([view.gripper for view in self.views])
            except InputError as error:
                return str(error)
        return f"{remaining} more: turn the hand, let it rest with the board in view" if remaining > 0 else ""


def collect(
    read: views.ReadImage, collector: HandEyeCollector, stopped: threading.Event, known: Intrinsics | None, log: Log
) -> tuple[list[HandEyeView], Intrinsics | None]:
    """Collect views until they suffice, the stream ends, or `stopped` is set, and log each new instruction.

    Returns the views, and the known intrinsics, scaled to the images, or the camera's own; raises InputError if the
    intrinsics are unknown or of another aspect ratio than the images, or if the camera's own are of another size.
    """
    last_line, camera, first_ns = "", None, None
    for image in views.images_until(read, stopped):
        first_ns = image.stamp_ns if first_ns is None else first_ns
        if known is None:
            camera = image.intrinsics or camera
        elif camera is None:
            height, width = image.color.shape[:2]
            camera = calibration_files.scale_to_size(known, width, height)
        if camera is None:
            if image.stamp_ns - first_ns > views.READ_TIMEOUT_S * NANOSECONDS:
                break
            continue
        views.check_size("the image", image.color, camera)
        if collector.update(image):
            collector.save_lens(camera)
        line = f"{len(collector.views)} views; {collector.todo or 'enough'}"
        if line != last_line:
            log(line)
        last_line = line
        if not collector.todo:
            break
    if camera is None and first_ns is not None:
        raise InputError(
            "the camera's intrinsics are unknown, and the images have no camera_info: run actrec calibrate intrinsics "
            "first, or name a file with --intrinsics"
        )
    return collector.views, camera
