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

from dataclasses import dataclass

import cv2
import numpy as np

from actrec.types import Intrinsics
from actrec.utils.errors import InputError
from actrec_calibration import solver
from actrec_calibration.poses import (
    BoardPose,
    estimate_board_pose,
    invert,
    mean_pose,
    pose_from_vector,
    pose_to_vector,
    project,
    rms,
    rotation_jacobian,
    rotation_vector,
    transform,
)

MOUNTS = ("hand", "base")
MIN_VIEWS = 5
MIN_ROTATION_DEG = 10.0  # largest rotation between two images
MIN_SECOND_AXIS_DEG = 4.0  # rotation about axes other than the main one, root mean square
MAX_REACH_M = 20.0  # no arm reaches farther: the poses are in mm

CLOSED_FORMS = (cv2.CALIB_HAND_EYE_PARK, cv2.CALIB_HAND_EYE_HORAUD, cv2.CALIB_HAND_EYE_DANIILIDIS)
RANSAC_TRIALS, RANSAC_VIEWS = 60, 4


@dataclass(frozen=True)
class HandEyeView:
    """One image of the board.

    Attributes:
        name: Name of the image.
        points: [N, 3] corners on the board, m.
        pixels: [N, 2] their detections.
        gripper: [4, 4] gripper → base at the time of the image.
    """

    name: str
    points: np.ndarray
    pixels: np.ndarray
    gripper: np.ndarray


@dataclass(frozen=True)
class NoiseModel:
    """Expected standard deviations.

    Attributes:
        pixels: Of a corner, px.
        meters, degrees: Of the robot's pose: its repeatability and the error of its kinematics.
    """

    pixels: float = 0.2
    meters: float = 1e-4
    degrees: float = 0.02


@dataclass(frozen=True)
class HandEye:
    """Result of `calibrate`.

    Attributes:
        mount: "hand" or "base".
        camera: [4, 4] camera → gripper (hand) or camera → base (base).
        board: [4, 4] board → base (hand) or board → gripper (base).
        sigma_m, sigma_deg: [3] standard deviations of the camera's pose along and about its own axes.
        rms: Reprojection error of the used views with the robot's poses as given, px.
        used: Names of the used views.
        rejected: Reprojection error in px by name of the rejected view.
    """

    mount: str
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


def calibrate(views: list[HandEyeView], camera: Intrinsics, mount: str, noise: NoiseModel | None = None) -> HandEye:
    """Calibrate the camera's pose.

    Args:
        views: Images of one board, with the robot's poses in m.
        camera: Intrinsics of the images.
        mount: One of `MOUNTS`.
        noise: Expected errors of the corners and the robot.

    Raises:
        InputError: Too few views, motion that leaves something undetermined, inverted poses, or poses that do not
            belong to the images.
    """
    if mount not in MOUNTS:
        raise InputError(f"mount is '{mount}', expected {' or '.join(MOUNTS)}")
    if len(views) < MIN_VIEWS:
        raise InputError(
            f"{len(views)} views of the board are too few for hand-eye: take at least {MIN_VIEWS}, 15 for an accurate "
            "result"
        )
    boards = [estimate_board_pose(view.points, view.pixels, camera) for view in views]
    check_motion([view.gripper for view in views])
    problem = _Problem(views, boards, camera, mount, noise or NoiseModel())
    arms = [invert(view.gripper) if mount == "hand" else view.gripper for view in views]
    estimate = problem.solve(arms)
    problem.check_not_inverted(estimate, arms)
    if estimate.inliers.sum() < max(MIN_VIEWS, 0.6 * len(views)):
        raise InputError(
            f"only {estimate.inliers.sum()} of {len(views)} views agree on one pose of the camera "
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
        return float(np.median(self.errors))

    @property
    def score(self) -> tuple[int, float]:
        """Larger is better: number of inliers, then the negative median error."""
        return int(self.inliers.sum()), -float(np.median(np.where(np.isfinite(self.errors), self.errors, 1e9)))


class _Problem:
    """Views of one calibration."""

    def __init__(
        self, views: list[HandEyeView], boards: list[BoardPose], camera: Intrinsics, mount: str, noise: NoiseModel
    ):
        self.views, self.boards, self.camera, self.mount, self.noise = views, boards, camera, mount, noise
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
        used = list(np.flatnonzero(estimate.inliers))
        solution = self._refine(arms, estimate, used, robot_errors=True)
        vector, covariance = solution.shared[:6], solution.covariance
        final = self._evaluate(pose_from_vector(vector), pose_from_vector(solution.shared[6:]), arms)
        to_camera = final.x[:3, :3].T
        rotation = to_camera @ rotation_jacobian(vector)
        return HandEye(
            mount=self.mount,
            camera=final.x,
            board=final.b,
            sigma_m=np.sqrt(np.diag(to_camera @ covariance[3:6, 3:6] @ to_camera.T)),
            sigma_deg=np.degrees(np.sqrt(np.diag(rotation @ covariance[:3, :3] @ rotation.T))),
            rms=float(np.sqrt((final.errors[used] ** 2).mean())),
            used=tuple(self.views[number].name for number in used),
            rejected={self.views[n].name: float(final.errors[n]) for n in np.flatnonzero(~estimate.inliers)},
        )

    def _closed_form(self, arms: list[np.ndarray], sample: list[int]) -> _Estimate:
        """Return the best of OpenCV's closed forms over some of the views, evaluated on all views."""
        grippers, boards = [invert(arms[i]) for i in sample], [self.boards[i].pose for i in sample]
        gripper_r, gripper_t = [p[:3, :3] for p in grippers], [p[:3, 3] for p in grippers]
        board_r, board_t = [p[:3, :3] for p in boards], [p[:3, 3] for p in boards]
        estimates = []
        for method in CLOSED_FORMS:
            try:
                r, t = cv2.calibrateHandEye(gripper_r, gripper_t, board_r, board_t, method=method)
            except cv2.error:  # a subset without enough motion
                continue
            x = np.eye(4)
            x[:3, :3], x[:3, 3] = r, t.ravel()
            if np.isfinite(x).all() and abs(np.linalg.det(r) - 1) <= 0.1:
                b = mean_pose([gripper @ x @ board for gripper, board in zip(grippers, boards, strict=True)])
                estimates.append(self._evaluate(x, b, arms))
        if not estimates:
            return _Estimate(np.eye(4), np.eye(4), np.full(len(arms), np.inf), np.zeros(len(arms), bool))
        return max(estimates, key=lambda estimate: estimate.score)

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
