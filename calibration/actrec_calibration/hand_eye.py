"""The camera's place on a robot, from pictures of a board and the robot's own poses.

Two ways to mount it:

- `hand`: the camera rides on the gripper, the board lies still in the robot's base frame. Found: camera → gripper.
- `base`: the camera stands still beside the robot, the board is held by the gripper. Found: camera → base.

"camera → gripper" is the 4×4 that carries a point from the camera's optical frame into the gripper's, which is the pose
of the camera in the gripper's frame, which is what a static transform with parent gripper and child camera says. The
robot's poses are gripper → base alike: the pose of the gripper in the base, what robots display and
`tf2_echo base gripper` prints.

With A the gripper → base of each picture for `base`, and its inverse for `hand`, X the camera's place sought and B the
board's on the other side: board → camera = X⁻¹ A B (Shah 2013 writes A B = X C). A closed form starts; then all
corners of all pictures decide together, each picture with a small error of the robot of its own.

Whether a hand moved enough, and in enough ways, for its camera's place to follow.

A robot's poses, one a picture, from a file.

CSV with a header: `image,x,y,z,qx,qy,qz,qw`, or `image,x,y,z,rx,ry,rz` with a rotation vector in radians (what a UR
prints). YAML: a list of `{image, translation: {x, y, z}, rotation: {x, y, z, w}}` (what tf2_echo and geometry_msgs
have), or of `{image, pose: [16 numbers, row by row]}`. Each is gripper → base: the gripper's pose in the base frame.
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from actrec.types import Intrinsics
from actrec.utils.calibration_files import rigid, rotation_matrix, unit_quaternion
from actrec.utils.errors import DeviceError, InputError
from actrec_calibration import solver
from actrec_calibration.solver import (
    BoardPose,
    apply,
    board_pose,
    inverse,
    mean,
    pose_of,
    projected,
    turn,
    turns,
    vector_of,
)

LEAST_TURN = 10.0  # degrees that two pictures must differ by

LEAST_SECOND = 4.0  # degrees about axes other than the main one, root mean square

MAX_REACH = 20.0  # metres; farther away than any arm: the poses are in millimetres


def check_motion(poses: list[np.ndarray], what: str) -> None:
    """Looks at how the poses turn from one another.

    A hand that only shifts, or turns about one axis alone (a wrist, a mobile base), leaves the camera's place along
    that axis open, whatever the number of pictures.

    Raises:
        InputError: Turns are too small, or all about one axis (it is named); or translations cannot be metres.
    """
    places = np.array([pose[:3, 3] for pose in poses])
    if np.abs(places).max() > MAX_REACH:
        raise InputError(
            f"a pose of {what} is {np.abs(places).max():.0f} m from the base: are they millimetres? add --unit mm"
        )
    # In degrees about the axes of the base.
    turns = np.array([np.degrees(turn(b[:3, :3] @ a[:3, :3].T)) for i, a in enumerate(poses) for b in poses[i + 1 :]])
    largest = float(np.linalg.norm(turns, axis=1).max())
    if largest < LEAST_TURN:
        raise InputError(
            f"{what} turns by {largest:.1f}° at most between the pictures: turn it by 20° to 60° about two axes or more"
        )
    spread, axes = np.linalg.eigh(turns.T @ turns / len(turns))
    if np.sqrt(max(spread[1], 0)) < LEAST_SECOND:
        axis = ", ".join(f"{value:+.2f}" for value in axes[:, 2])
        raise InputError(
            f"{what} turns about one axis alone ({axis} of the base frame), which leaves the camera's place along it "
            "open: tilt about a second axis as well, by 20° or more"
        )


MOUNTS = ("hand", "base")

LEAST_VIEWS = 5

METHODS = (cv2.CALIB_HAND_EYE_PARK, cv2.CALIB_HAND_EYE_HORAUD, cv2.CALIB_HAND_EYE_DANIILIDIS)

_SAMPLES = 60  # subsets of views tried against wrong ones

_SAMPLE_VIEWS = 4


@dataclass(frozen=True)
class HandEyeView:
    """One picture.

    Attributes:
        name: Of its file, for messages.
        points: [N, 3] metres on the board.
        pixels: [N, 2] where they are seen.
        gripper: [4, 4] gripper → base when it was taken.
    """

    name: str
    points: np.ndarray
    pixels: np.ndarray
    gripper: np.ndarray


@dataclass(frozen=True)
class Errors:
    """What is expected to be inexact, one standard deviation each.

    Attributes:
        pixels: Of a corner, px.
        metres, degrees: Of the robot's pose: its repeatability and what its kinematics are off by.
    """

    pixels: float = 0.2
    metres: float = 1e-4
    degrees: float = 0.02


@dataclass(frozen=True)
class HandEye:
    """What was found.

    Attributes:
        mount: "hand" or "base".
        camera: [4, 4] camera → gripper (hand) or camera → base (base).
        board: [4, 4] board → base (hand) or board → gripper (base).
        sigma_m, sigma_deg: [3] standard deviations of the camera's place, in metres along and degrees about its own
            axes.
        rms: px of all corners of the views kept, the robot taken at its word.
        kept: Names of the views that agree.
        rejected: Names of those left out, with their rms in px.
    """

    mount: str
    camera: np.ndarray
    board: np.ndarray
    sigma_m: np.ndarray
    sigma_deg: np.ndarray
    rms: float
    kept: tuple[str, ...]
    rejected: dict[str, float]


def calibrate(views: list[HandEyeView], camera: Intrinsics, mount: str, errors: Errors | None = None) -> HandEye:
    """Finds the camera's place.

    Args:
        views: Pictures of one board, with the robot's poses in metres.
        camera: Intrinsics of the pictures.
        mount: One of `MOUNTS`.
        errors: What to expect of the corners and of the robot.

    Raises:
        InputError: Too few views, motion that leaves something undetermined (it says which), poses the wrong way round,
            or poses that do not belong to the pictures.
    """
    if mount not in MOUNTS:
        raise InputError(f"mount is '{mount}', expected {' or '.join(MOUNTS)}")
    errors = errors or Errors()
    if len(views) < LEAST_VIEWS:
        raise InputError(
            f"{len(views)} views of the board are too few for hand-eye: take {LEAST_VIEWS} at least, 15 to be exact"
        )
    seen = [board_pose(view.points, view.pixels, camera) for view in views]
    check_motion([view.gripper for view in views], "the robot's hand")
    problem = _Problem(views, seen, camera, mount, errors)
    arms = [_arm(view.gripper, mount) for view in views]
    found = problem.solve(arms)
    problem.refuse_inverted(found, arms)
    if found.kept.sum() < max(LEAST_VIEWS, 0.6 * len(views)):
        raise InputError(
            f"only {found.kept.sum()} of {len(views)} views agree on one place of the camera "
            f"(rms {found.typical:.1f} px): check that each pose belongs to its picture, that the board did not slip, "
            "the order of quaternions (x, y, z, w), and the accuracy stated for the robot (--robot-mm)"
        )
    return problem.result(found, arms)


def _arm(gripper: np.ndarray, mount: str) -> np.ndarray:
    return inverse(gripper) if mount == "hand" else gripper


@dataclass(frozen=True)
class _Start:
    """A place found in closed form: X, B, rms px of each view under them, and the views that agree."""

    x: np.ndarray
    b: np.ndarray
    away: np.ndarray
    kept: np.ndarray

    @property
    def typical(self) -> float:
        return float(np.median(self.away))


class _Problem:
    """The views of one calibration."""

    def __init__(self, views: list[HandEyeView], seen: list[BoardPose], camera: Intrinsics, mount: str, errors: Errors):
        self.views, self.seen, self.camera, self.mount, self.errors = views, seen, camera, mount, errors
        near = float(np.median([pose.pose[2, 3] for pose in seen]))
        # What a right view may be off by, px: the corners, and the robot's error as it shows at that distance.
        robot = camera.fx * (errors.metres / near + np.radians(errors.degrees) * 2)
        corners = max(errors.pixels, float(np.median([pose.rms for pose in seen])))
        self.allowed = 4 * float(np.hypot(corners, robot))

    def solve(self, arms: list[np.ndarray]) -> _Start:
        """The start that most views agree on, made exact with those alone."""
        clear = [i for i, pose in enumerate(self.seen) if not pose.ambiguous]
        best = self._start(arms, clear if len(clear) >= LEAST_VIEWS else list(range(len(arms))))
        if not best.kept.all():
            random = np.random.default_rng(0)
            for _ in range(_SAMPLES):
                some = random.choice(len(arms), min(_SAMPLE_VIEWS, len(arms)), replace=False)
                best = max(best, self._start(arms, list(some)), key=_agreement)
        for _ in range(4):
            kept = np.flatnonzero(best.kept) if best.kept.sum() >= LEAST_VIEWS else np.argsort(best.away)[:LEAST_VIEWS]
            exact = self._refined(arms, best, list(kept), slack=False)
            again = self._judged(pose_of(exact.shared[:6]), pose_of(exact.shared[6:]), arms)
            if (again.kept == best.kept).all() or _agreement(again) < _agreement(best):
                return max(again, best, key=_agreement)
            best = again
        return best

    def refuse_inverted(self, found: _Start, arms: list[np.ndarray]) -> None:
        """Poses written base → gripper, or the other mount, fit far better upside down: say so."""
        if found.typical <= self.allowed:
            return
        turned = self.solve([inverse(arm) for arm in arms])
        if not turned.typical * 5 < found.typical:
            return
        other = "base" if self.mount == "hand" else "hand"
        raise InputError(
            f"the robot's poses fit {found.typical / turned.typical:.0f} times better inverted "
            f"({turned.typical:.2f} px against {found.typical:.1f} px): either they are base → gripper where "
            "gripper → base (the pose of the gripper in the base frame) is expected: add --inverted; or the camera is "
            f"mounted the other way: --mount {other}"
        )

    def result(self, found: _Start, arms: list[np.ndarray]) -> HandEye:
        """The exact solution over the views kept, each with its own small error of the robot."""
        kept = list(np.flatnonzero(found.kept))
        exact = self._refined(arms, found, kept, slack=True)
        final = self._judged(pose_of(exact.shared[:6]), pose_of(exact.shared[6:]), arms)
        rejected = {
            view.name: float(away)
            for view, away, keep in zip(self.views, final.away, found.kept, strict=True)
            if not keep
        }
        return HandEye(
            self.mount,
            final.x,
            final.b,
            *_own_axes(exact.shared[:6], exact.covariance[:6, :6]),
            float(np.sqrt((final.away[kept] ** 2).mean())),
            tuple(self.views[i].name for i in kept),
            rejected,
        )

    def _start(self, arms: list[np.ndarray], some: list[int]) -> _Start:
        """Of OpenCV's closed forms over some of the views, the one that all views like best."""
        starts = [self._judged(*found, arms) for method in METHODS if (found := self._closed(arms, some, method))]
        if not starts:
            identity = np.eye(4)
            return _Start(identity, identity, np.full(len(arms), np.inf), np.zeros(len(arms), bool))
        return max(starts, key=_agreement)

    def _closed(self, arms: list[np.ndarray], some: list[int], method: int) -> tuple[np.ndarray, np.ndarray] | None:
        grippers, boards = [inverse(arms[i]) for i in some], [self.seen[i].pose for i in some]
        try:
            r, t = cv2.calibrateHandEye(
                [g[:3, :3] for g in grippers],
                [g[:3, 3] for g in grippers],
                [b[:3, :3] for b in boards],
                [b[:3, 3] for b in boards],
                method=method,
            )
        except cv2.error:  # a subset without enough motion
            return None
        x = np.eye(4)
        x[:3, :3], x[:3, 3] = r, t.ravel()
        if not np.isfinite(x).all() or abs(np.linalg.det(r) - 1) > 0.1:
            return None
        return x, mean([g @ x @ b for g, b in zip(grippers, boards, strict=True)])

    def _judged(self, x: np.ndarray, b: np.ndarray, arms: list[np.ndarray]) -> _Start:
        away = np.array([self._rms(x, arm @ b, view) for arm, view in zip(arms, self.views, strict=True)])
        return _Start(x, b, away, away <= self.allowed)

    def _rms(self, x: np.ndarray, board: np.ndarray, view: HandEyeView) -> float:
        points = apply(inverse(x) @ board, view.points)
        if not (points[:, 2] > 1e-3).all():
            return float("inf")
        return float(np.sqrt(((projected(points, self.camera) - view.pixels) ** 2).sum(1).mean()))

    def _refined(self, arms: list[np.ndarray], start: _Start, kept: list[int], slack: bool) -> solver.Bundle:
        robot = np.repeat([np.radians(self.errors.degrees), self.errors.metres], 3)

        def residuals(shared: np.ndarray, own: np.ndarray, number: int) -> np.ndarray:
            view, arm = self.views[kept[number]], arms[kept[number]]
            if slack:  # in the gripper's own axes
                arm = pose_of(own) @ arm if self.mount == "hand" else arm @ pose_of(own)
            pose = inverse(pose_of(shared[:6])) @ arm @ pose_of(shared[6:])
            away = (projected(apply(pose, view.points), self.camera) - view.pixels).ravel() / self.errors.pixels
            return np.concatenate([away, own / robot]) if slack else away

        shared = np.concatenate([vector_of(start.x), vector_of(start.b)])
        return solver.solve(residuals, shared, np.zeros((len(kept), 6 if slack else 0)))


def _agreement(start: _Start) -> tuple[int, float]:
    away = np.where(np.isfinite(start.away), start.away, 1e9)
    return int(start.kept.sum()), -float(np.median(away))


def _own_axes(vector: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standard deviations in metres along and degrees about the camera's axes, of a covariance of six numbers."""
    own = pose_of(vector)[:3, :3].T
    about = own @ turns(vector)
    metres = np.sqrt(np.diag(own @ covariance[3:, 3:] @ own.T))
    return metres, np.degrees(np.sqrt(np.diag(about @ covariance[:3, :3] @ about.T)))


UNITS = {"m": 1.0, "mm": 0.001}


def read(path: str | Path, unit: str = "m", inverted: bool = False) -> dict[str, np.ndarray]:
    """Poses [4, 4] gripper → base by picture's name.

    Args:
        path: CSV or YAML.
        unit: Of the translations, one of `UNITS`.
        inverted: The file has base → gripper.

    Raises:
        DeviceError: There is no such file.
        InputError: A row is no pose, or a picture has two.
    """
    path = Path(path).expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig")  # tables saved by Excel begin with a mark
    except OSError as error:
        raise DeviceError(f"cannot read poses '{path}': {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"'{path}' is no text: give poses as CSV or YAML") from error
    rows = _csv(path, text) if path.suffix.lower() == ".csv" else _yaml(path, text)
    poses: dict[str, np.ndarray] = {}
    for number, row in enumerate(rows, 1):
        try:
            name, pose = _pose(row)
        except (KeyError, TypeError, ValueError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise InputError(f"'{path}' pose {number}: {what}; expected image, x, y, z and qx, qy, qz, qw") from error
        if name in poses:
            raise InputError(f"'{path}' pose {number}: '{name}' has a pose already; give one a picture")
        pose[:3, 3] *= UNITS[unit]
        poses[name] = inverse(pose) if inverted else pose
    if not poses:
        raise InputError(f"'{path}' holds no poses; expected a header image,x,y,z,qx,qy,qz,qw and a row a picture")
    return poses


def _csv(path: Path, text: str) -> list[dict[str, Any]]:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    try:
        return list(csv.DictReader(lines, skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise InputError(f"'{path}' is no CSV: {error}; is a quotation mark left open?") from error


def _yaml(path: Path, text: str) -> list[dict[str, Any]]:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"'{path}' is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, list):
        raise InputError(f"'{path}' is no list of poses; expected - {{image, translation, rotation}} for each picture")
    return content


def _pose(row: dict[str, Any]) -> tuple[str, np.ndarray]:
    if None in row:  # DictReader's key for them
        raise ValueError("more values than the header has names: write decimals with a point")
    name = str(row["image"]).strip()
    if "pose" in row:
        return name, rigid(np.array(row["pose"], np.float64).reshape(4, 4))
    if "translation" in row:
        row = {**row["translation"], **{f"q{axis}": row["rotation"][axis] for axis in "xyzw"}}
    pose = np.eye(4)
    if "qw" in row:
        pose[:3, :3] = rotation_matrix(*unit_quaternion([row[f"q{axis}"] for axis in "xyzw"]))
    else:
        vector = np.array([float(row[f"r{axis}"]) for axis in "xyz"])
        if not np.linalg.norm(vector) < 2 * np.pi + 0.01:
            raise ValueError("a rotation vector longer than a full turn: give radians")
        pose[:3, :3] = pose_of(np.concatenate([vector, np.zeros(3)]))[:3, :3]
    pose[:3, 3] = [float(row[axis]) for axis in "xyz"]
    return name, rigid(pose)
