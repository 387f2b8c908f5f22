"""Views with known truth: what boards, arms and floors would give, with corners and depth as noisy as sensors are.

Corners are projected and shifted at random instead of being found in a picture; depth is that of the exact planes,
through the simulated camera's sensor model.
"""

from dataclasses import dataclass

import numpy as np

from actrec.simulation.noise import SENSORS, SensorNoise
from actrec.types import Intrinsics
from actrec_calibration.board import Board, Detection
from actrec_calibration.depth import Pair, plane_depth
from actrec_calibration.floor import Lying
from actrec_calibration.hand_eye import HandEyeView
from actrec_calibration.solver import apply, image_rays, inverse, pose_of, projected, rays

BACKGROUND = 4.0
"""Metres to the wall behind a board."""


@dataclass(frozen=True)
class Rig:
    """A color and a depth camera.

    Attributes:
        color, depth: Intrinsics.
        to_color: [4, 4] depth → color.
        scale, bias: True depth = scale · reading + bias, metres.
        sensor: A name in `actrec.simulation.noise.SENSORS`.
        corner_px: Standard deviation of a corner.
    """

    color: Intrinsics
    depth: Intrinsics
    to_color: np.ndarray
    scale: float = 1.0
    bias: float = 0.0
    sensor: str = "time_of_flight"
    corner_px: float = 0.15


def kinect(**options: float | str) -> Rig:
    """Much like a Kinect v2: 52 mm apart, turned by less than a degree."""
    color = Intrinsics(960, 540, 525.0, 526.0, 478.0, 271.0, (0.05, -0.08, 0.0005, -0.0005, 0.0))
    depth = Intrinsics(512, 424, 366.0, 366.0, 255.0, 208.0, (0.09, -0.26, 0.0, 0.0, 0.09))
    to_color = pose_of(np.array([0.007, -0.014, 0.005, -0.052, 0.001, 0.003]))
    return Rig(color, depth, to_color, **options)  # type: ignore[arg-type]


def held(
    board: Board, camera: Intrinsics, random: np.random.Generator, near: float, far: float, tilt: float
) -> np.ndarray:
    """[4, 4] board → camera as a person holds one: its middle anywhere in the middle half of the picture.

    Args:
        board: The board.
        camera: That sees it.
        random: Draws.
        near, far: Metres.
        tilt: Most degrees about each axis.
    """
    pose = pose_of(np.concatenate([np.radians(random.uniform(-tilt, tilt, 3)), np.zeros(3)]))
    pixel = random.uniform(0.25, 0.75, 2) * [camera.width, camera.height]
    middle = rays(pixel[None], camera)[0] * random.uniform(near, far)
    pose[:3, 3] = middle - pose[:3, :3] @ np.array([*board.size, 0.0]) / 2
    return pose


def corners(board: Board, camera: Intrinsics, pose: np.ndarray, sigma: float, random: np.random.Generator) -> Detection:
    """The board's corners in the picture, each off by `sigma` px in u and v."""
    points = apply(pose, board.points)
    pixels = projected(points, camera) + random.normal(0, sigma, (len(points), 2))
    inside = (points[:, 2] > 0) & ((pixels > 3) & (pixels < [camera.width - 4, camera.height - 4])).all(1)
    return Detection(np.flatnonzero(inside), pixels[inside])


def depth_of_board(board: Board, rig: Rig, pose: np.ndarray, noise: SensorNoise, number: int) -> np.ndarray:
    """[H, W] metres as read, of a board (pose in the depth camera) before a wall."""
    directions = image_rays(actor.depth).reshape(-1, 3)
    true = plane_depth(pose, directions)
    on = apply(inverse(pose), directions * true[:, None])[:, :2]
    seen = (true > 0) & ((on > 0) & (on < board.size)).all(1)
    facing = np.where(seen, np.abs(directions @ pose[:3, 2]) / np.linalg.norm(directions, axis=1), 1.0)
    return _read(np.where(seen, true, BACKGROUND), facing, rig, noise, number)


def pairs(board: Board, rig: Rig, count: int, seed: int, infrared: bool = True, tilt: float = 40.0) -> list[Pair]:
    """Views of a board held 0.55 to 1.6 m away."""
    random = np.random.default_rng(seed)
    noise = SensorNoise(SENSORS.create(actor.sensor), actor.depth, seed)
    found: list[Pair] = []
    while len(found) < count:
        pose = held(board, actor.color, random, 0.55, 1.6, tilt)
        in_depth = inverse(actor.to_color) @ pose
        seen = corners(board, actor.color, pose, actor.corner_px, random)
        other = corners(board, actor.depth, in_depth, actor.corner_px, random)
        if min(len(seen), len(other)) < len(board.points) / 2:
            continue
        depth = depth_of_board(board, rig, in_depth, noise, len(found))
        found.append(Pair(f"{len(found)}.png", seen, depth, other if infrared else None))
    return found


@dataclass(frozen=True)
class Arm:
    """A robot arm with a camera and a board; `camera` and `board` as in `hand_eye.HandEye`."""

    mount: str
    camera: np.ndarray
    board: np.ndarray

    @staticmethod
    def drawn(mount: str, seed: int) -> "Arm":
        """Somewhere: the hand's camera or board within 0.2 m of the gripper, the other within a metre of the base."""
        random = np.random.default_rng([seed, 1])
        on_hand, on_base = (
            pose_of(np.concatenate([random.normal(0, 1, 3), random.uniform(-reach, reach, 3)])) for reach in (0.15, 0.8)
        )
        return Arm(mount, on_hand, on_base) if mount == "hand" else Arm(mount, on_base, on_hand)

    def gripper(self, pose: np.ndarray) -> np.ndarray:
        """[4, 4] gripper → base at which the camera sees the board at `pose`."""
        arm = self.camera @ pose @ inverse(self.board)
        return inverse(arm) if self.mount == "hand" else arm


def shaken(pose: np.ndarray, random: np.random.Generator, metres: float, degrees: float) -> np.ndarray:
    """A robot's pose as it says it: off by so much along and about each axis."""
    error = np.concatenate([np.radians(random.normal(0, degrees, 3)), random.normal(0, metres, 3)])
    return pose @ pose_of(error)


def arm_views(
    arm: Arm, board: Board, camera: Intrinsics, count: int, seed: int, corner_px: float = 0.2
) -> list[HandEyeView]:
    """Pictures from an arm with a repeatability of 0.1 mm and 0.02°, the board 0.4 to 0.7 m away."""
    random = np.random.default_rng(seed)
    views: list[HandEyeView] = []
    while len(views) < count:
        pose = held(board, camera, random, 0.4, 0.7, 35.0)
        seen = corners(board, camera, pose, corner_px, random)
        if len(seen) >= len(board.points) / 2:
            gripper = shaken(arm.gripper(pose), random, 1e-4, 0.02)
            views.append(HandEyeView(f"{len(views)}.png", board.points[seen.ids], seen.pixels, gripper))
    return views


@dataclass(frozen=True)
class Room:
    """A robot's camera over a floor with a board on it, and a wall ahead.

    Attributes:
        camera: [4, 4] camera → base, whose origin is on the floor.
        lying: The board.
        wall: Metres from the base's origin, ahead.
    """

    camera: np.ndarray
    lying: Lying
    wall: float = 3.0

    @staticmethod
    def drawn(board: Board, seed: int) -> "Room":
        """The camera 0.5 to 1.2 m up, looking down by 25° to 45°; the board in the lower half of its picture."""
        random = np.random.default_rng([seed, 2])
        height, pitch = random.uniform(0.5, 1.2), np.radians(random.uniform(25, 45))
        roll, yaw = np.radians(random.uniform(-4, 4)), np.radians(random.uniform(-20, 20))
        camera = _turned(2, yaw) @ _turned(1, pitch) @ _OPTICAL @ _turned(2, roll)
        camera[:3, 3] = random.uniform(0, 0.3), random.uniform(-0.1, 0.1), height
        # Seen as many degrees below the horizon as it looks down, and 8 more.
        ahead = height / np.tan(pitch + np.radians(8))
        top_left = apply(_turned(2, yaw), np.array([ahead + board.size[1] / 2, board.size[0] / 2, 0.0]))[:2]
        x, y = camera[:2, 3] + top_left
        return Room(camera, Lying(float(x), float(y), float(-90 + np.degrees(yaw) + random.uniform(-8, 8))))

    def board(self) -> np.ndarray:
        """[4, 4] board → camera."""
        return inverse(self.camera) @ self.lying.pose(0.0)

    def depth(self, rig: Rig, seed: int, number: int = 0) -> np.ndarray:
        """[H, W] metres as read in picture `number`."""
        to_depth = inverse(self.camera @ actor.to_color)
        directions = image_rays(actor.depth).reshape(-1, 3)
        wall = _turned(1, np.pi / 2)
        wall[0, 3] = self.wall
        planes = [to_depth @ np.eye(4), to_depth @ wall]
        z = np.stack([plane_depth(plane, directions) for plane in planes])
        z = np.where(z > 0, z, np.inf)
        first = z.argmin(0)
        normals = np.stack([plane[:3, 2] for plane in planes])[first]
        facing = np.abs((directions * normals).sum(1)) / np.linalg.norm(directions, axis=1)
        noise = SensorNoise(SENSORS.create(actor.sensor), actor.depth, seed)
        return _read(np.minimum(z.min(0), 50.0), facing, rig, noise, number)


_OPTICAL = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


def _turned(axis: int, radians: float) -> np.ndarray:
    vector = np.zeros(6)
    vector[axis] = radians
    return pose_of(vector)


def _read(true: np.ndarray, facing: np.ndarray, rig: Rig, noise: SensorNoise, number: int) -> np.ndarray:
    shape = actor.depth.height, actor.depth.width
    exact = ((true - actor.bias) / actor.scale).astype(np.float32).reshape(shape)
    return noise.depth(exact, facing.astype(np.float32).reshape(shape), number)
