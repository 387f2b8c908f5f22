"""Simulated calibration views with known truth and realistic noise.

Corners are projected and perturbed instead of being detected in an image; depth images show exact planes with the
noise of the simulated camera's sensor model.
"""

from dataclasses import dataclass

import numpy as np

from actrec.simulation.noise import SENSORS, SensorNoise
from actrec.types import Intrinsics
from actrec_calibration.board import Board
from actrec_calibration.depth import plane_depth
from actrec_calibration.detection import BoardCorners, RgbdView
from actrec_calibration.floor import FloorBoard
from actrec_calibration.hand_eye import HandEyeView
from actrec_calibration.poses import image_rays, invert, pixel_rays, pose_from_vector, project, transform

BACKGROUND_M = 4.0
"""Distance of the wall behind a board."""


@dataclass(frozen=True)
class Rig:
    """A color and a depth camera.

    Attributes:
        color, depth: Intrinsics.
        to_color: [4, 4] depth → color.
        scale, bias: True depth = scale · reading + bias, m.
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
    """Create a rig similar to a Kinect v2: 52 mm between the cameras, rotated by less than a degree."""
    color = Intrinsics(960, 540, 525.0, 526.0, 478.0, 271.0, (0.05, -0.08, 0.0005, -0.0005, 0.0))
    depth = Intrinsics(512, 424, 366.0, 366.0, 255.0, 208.0, (0.09, -0.26, 0.0, 0.0, 0.09))
    to_color = pose_from_vector(np.array([0.007, -0.014, 0.005, -0.052, 0.001, 0.003]))
    return Rig(color, depth, to_color, **options)  # type: ignore[arg-type]


def sample_pose(
    board: Board, camera: Intrinsics, random: np.random.Generator, near: float, far: float, tilt: float
) -> np.ndarray:
    """Sample board → camera as a person holds a board: its center in the middle half of the image.

    Args:
        board: Board.
        camera: Intrinsics.
        random: Random generator.
        near, far: Range of the distance, m.
        tilt: Maximum rotation about each axis, degrees.
    """
    pose = pose_from_vector(np.concatenate([np.radians(random.uniform(-tilt, tilt, 3)), np.zeros(3)]))
    pixel = random.uniform(0.25, 0.75, 2) * [camera.width, camera.height]
    center = pixel_rays(pixel[None], camera)[0] * random.uniform(near, far)
    pose[:3, 3] = center - pose[:3, :3] @ np.array([*board.size, 0.0]) / 2
    return pose


def simulate_corners(
    board: Board, camera: Intrinsics, pose: np.ndarray, sigma: float, random: np.random.Generator
) -> BoardCorners:
    """Project the board's corners, with noise of `sigma` px in u and v."""
    points = transform(pose, board.points)
    pixels = project(points, camera) + random.normal(0, sigma, (len(points), 2))
    inside = (points[:, 2] > 0) & ((pixels > 3) & (pixels < [camera.width - 4, camera.height - 4])).all(1)
    return BoardCorners(np.flatnonzero(inside), pixels[inside])


def simulate_board_depth(board: Board, rig: Rig, pose: np.ndarray, noise: SensorNoise, number: int) -> np.ndarray:
    """Simulate the readings [H, W] in m of a board (pose in the depth camera) in front of a wall."""
    rays = image_rays(rig.depth).reshape(-1, 3)
    true = plane_depth(pose, rays)
    on_plane = transform(invert(pose), rays * true[:, None])[:, :2]
    on_board = (true > 0) & ((on_plane > 0) & (on_plane < board.size)).all(1)
    facing = np.where(on_board, np.abs(rays @ pose[:3, 2]) / np.linalg.norm(rays, axis=1), 1.0)
    return _add_noise(np.where(on_board, true, BACKGROUND_M), facing, rig, noise, number)


def simulate_rgbd_views(
    board: Board, rig: Rig, count: int, seed: int, infrared: bool = True, tilt: float = 40.0
) -> list[RgbdView]:
    """Simulate views of a board held at 0.55 to 1.6 m."""
    random = np.random.default_rng(seed)
    noise = SensorNoise(SENSORS[rig.sensor], rig.depth, seed)
    views: list[RgbdView] = []
    while len(views) < count:
        pose = sample_pose(board, rig.color, random, 0.55, 1.6, tilt)
        in_depth = invert(rig.to_color) @ pose
        in_color = simulate_corners(board, rig.color, pose, rig.corner_px, random)
        in_infrared = simulate_corners(board, rig.depth, in_depth, rig.corner_px, random)
        if min(len(in_color), len(in_infrared)) < len(board.points) / 2:
            continue
        depth = simulate_board_depth(board, rig, in_depth, noise, len(views))
        views.append(RgbdView(f"{len(views)}.png", in_color, depth, in_infrared if infrared else None))
    return views


@dataclass(frozen=True)
class Arm:
    """A robot arm with a camera and a board; `camera` and `board` as in `hand_eye.HandEye`."""

    mount: str
    camera: np.ndarray
    board: np.ndarray

    @staticmethod
    def random(mount: str, seed: int) -> "Arm":
        """Sample an arm: one of camera and board within 0.15 m of the gripper, the other within 0.8 m of the base."""
        random = np.random.default_rng([seed, 1])
        on_hand, on_base = (
            pose_from_vector(np.concatenate([random.normal(0, 1, 3), random.uniform(-reach, reach, 3)]))
            for reach in (0.15, 0.8)
        )
        return Arm(mount, on_hand, on_base) if mount == "hand" else Arm(mount, on_base, on_hand)

    def gripper(self, pose: np.ndarray) -> np.ndarray:
        """Return gripper → base for which the board's pose in the camera is `pose`."""
        arm = self.camera @ pose @ invert(self.board)
        return invert(arm) if self.mount == "hand" else arm


def add_pose_noise(pose: np.ndarray, random: np.random.Generator, meters: float, degrees: float) -> np.ndarray:
    """Add noise to a robot's pose, along and about each axis."""
    error = np.concatenate([np.radians(random.normal(0, degrees, 3)), random.normal(0, meters, 3)])
    return pose @ pose_from_vector(error)


def simulate_hand_eye_views(
    arm: Arm, board: Board, camera: Intrinsics, count: int, seed: int, corner_px: float = 0.2
) -> list[HandEyeView]:
    """Simulate images from an arm with a repeatability of 0.1 mm and 0.02°, the board at 0.4 to 0.7 m."""
    random = np.random.default_rng(seed)
    views: list[HandEyeView] = []
    while len(views) < count:
        pose = sample_pose(board, camera, random, 0.4, 0.7, 35.0)
        corners = simulate_corners(board, camera, pose, corner_px, random)
        if len(corners) >= len(board.points) / 2:
            gripper = add_pose_noise(arm.gripper(pose), random, 1e-4, 0.02)
            views.append(HandEyeView(f"{len(views)}.png", board.points[corners.ids], corners.pixels, gripper))
    return views


@dataclass(frozen=True)
class Room:
    """A robot's camera above a floor with a board on it, and a wall ahead.

    Attributes:
        camera: [4, 4] camera → base, whose origin is on the floor.
        placed: The board.
        wall: Distance from the base's origin, m.
    """

    camera: np.ndarray
    placed: FloorBoard
    wall: float = 3.0

    @staticmethod
    def random(board: Board, seed: int) -> "Room":
        """Sample a camera at 0.5 to 1.2 m, pitched down by 25° to 45°, and the board in the lower half of its image."""
        random = np.random.default_rng([seed, 2])
        height, pitch = random.uniform(0.5, 1.2), np.radians(random.uniform(25, 45))
        roll, yaw = np.radians(random.uniform(-4, 4)), np.radians(random.uniform(-20, 20))
        camera = _rotation(2, yaw) @ _rotation(1, pitch) @ _OPTICAL @ _rotation(2, roll)
        camera[:3, 3] = random.uniform(0, 0.3), random.uniform(-0.1, 0.1), height
        # 8 degrees below the optical axis.
        ahead = height / np.tan(pitch + np.radians(8))
        top_left = transform(_rotation(2, yaw), np.array([ahead + board.size[1] / 2, board.size[0] / 2, 0.0]))[:2]
        x, y = camera[:2, 3] + top_left
        return Room(camera, FloorBoard(float(x), float(y), float(-90 + np.degrees(yaw) + random.uniform(-8, 8))))

    def board(self) -> np.ndarray:
        """Return board → camera."""
        return invert(self.camera) @ self.placed.pose(0.0)

    def depth(self, rig: Rig, seed: int, number: int = 0) -> np.ndarray:
        """Simulate the readings [H, W] in m of frame `number`."""
        to_depth = invert(self.camera @ rig.to_color)
        rays = image_rays(rig.depth).reshape(-1, 3)
        wall = _rotation(1, np.pi / 2)
        wall[0, 3] = self.wall
        planes = [to_depth, to_depth @ wall]
        z = np.stack([plane_depth(plane, rays) for plane in planes])
        z = np.where(z > 0, z, np.inf)
        normals = np.stack([plane[:3, 2] for plane in planes])[z.argmin(0)]
        facing = np.abs((rays * normals).sum(1)) / np.linalg.norm(rays, axis=1)
        noise = SensorNoise(SENSORS[rig.sensor], rig.depth, seed)
        return _add_noise(np.minimum(z.min(0), 50.0), facing, rig, noise, number)


_OPTICAL = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


def _rotation(axis: int, radians: float) -> np.ndarray:
    return pose_from_vector(radians * np.eye(6)[axis])


def _add_noise(true: np.ndarray, facing: np.ndarray, rig: Rig, noise: SensorNoise, number: int) -> np.ndarray:
    shape = rig.depth.height, rig.depth.width
    exact = ((true - rig.bias) / rig.scale).astype(np.float32).reshape(shape)
    return noise.depth(exact, facing.astype(np.float32).reshape(shape), number)
