"""The camera's own motion in scene flow: found from what stands still, and taken away.

A camera that moves sees everything move. A point at X in the first camera that stands still is at R X + t in the
second; what the flow shows beyond that is the scene's own motion.
"""

from dataclasses import dataclass

import numpy as np

from actrec.types import Intrinsics
from actrec.utils.errors import InputError
from actrec.utils.geometry import image_points


@dataclass(frozen=True)
class CameraMotion:
    """Where the second camera sees what the first one sees, if it stands still.

    Attributes:
        rotation: R, [3, 3].
        translation: t, [3] metres.
    """

    rotation: np.ndarray
    translation: np.ndarray

    @staticmethod
    def none() -> "CameraMotion":
        """Of a camera that stands."""
        return CameraMotion(np.eye(3), np.zeros(3))

    @staticmethod
    def between(first: np.ndarray, second: np.ndarray) -> "CameraMotion":
        """From the camera's poses [4, 4] in a fixed frame, as TF gives them.

        Raises:
            InputError: They are no poses.
        """
        for pose in (first, second):
            if pose.shape != (4, 4) or not np.isfinite(pose).all():
                raise InputError(f"a camera's pose is [4, 4] and finite, got {list(pose.shape)}")
        moved = np.linalg.inv(second) @ first
        return CameraMotion(moved[:3, :3], moved[:3, 3])


def own_motion(
    flow: np.ndarray, depth: np.ndarray, intrinsics: Intrinsics, dt: float, camera: CameraMotion
) -> np.ndarray:
    """Scene flow less what the camera's motion alone would show: velocities in the first camera's frame.

    Args:
        flow: [H, W, 3] m/s, of the first image's pixels.
        depth: [H, W] metres of the first image.
        intrinsics: Of both.
        dt: Seconds between the images.
        camera: How the camera moved.
    """
    points = image_points(depth, intrinsics)
    # Back in the first camera's frame, a point that stands still is where it was.
    moved = (points + flow * np.float32(dt) - camera.translation.astype(np.float32)) @ camera.rotation.astype(
        np.float32
    )
    return ((moved - points) / np.float32(dt)).astype(np.float32)


def estimate(
    flow: np.ndarray, depth: np.ndarray, intrinsics: Intrinsics, dt: float, *, close_m: float = 0.02, seed: int = 0
) -> CameraMotion | None:
    """The motion of a camera before which the greater part of what it sees stands still.

    RANSAC over triples of points, then least squares of those that agree, thrice.

    Args:
        flow, depth, intrinsics, dt: As `own_motion` takes them.
        close_m: How near a point must come to where it is seen, to count as standing still.
        seed: Of the draws.

    Returns:
        The motion; None where fewer than a third of the points agree on one.
    """
    known = np.isfinite(flow).all(axis=-1) & np.isfinite(depth)
    rng = np.random.default_rng(seed)
    pixels = np.flatnonzero(known)
    if len(pixels) < _LEAST:
        return None
    chosen = rng.choice(pixels, min(_SAMPLE, len(pixels)), replace=False)
    before = image_points(depth, intrinsics).reshape(-1, 3)[chosen].astype(np.float64)
    after = before + flow.reshape(-1, 3)[chosen].astype(np.float64) * dt
    best = _most_agreed(before, after, close_m, rng)
    for _ in range(3):
        if best.sum() < max(_LEAST, len(chosen) / 3):
            return None
        rotation, translation = rigid(before[best], after[best])
        best = np.linalg.norm(before @ rotation.T + translation - after, axis=1) < close_m
    return CameraMotion(rotation, translation)


_SAMPLE, _TRIALS, _LEAST = 1500, 64, 50


def _most_agreed(before: np.ndarray, after: np.ndarray, close_m: float, rng: np.random.Generator) -> np.ndarray:
    """Which points move as the triple of them does with which most agree; standing still is tried first."""
    still = np.linalg.norm(after - before, axis=1) < close_m
    threes = rng.integers(0, len(before), (_TRIALS, 3))
    rotations, translations = rigid(before[threes], after[threes])
    moved = before @ rotations.swapaxes(1, 2) + translations[:, None]
    agree = np.square(moved - after).sum(axis=-1) < close_m**2
    best = agree[agree.sum(axis=1).argmax()]
    return best if best.sum() > still.sum() else still


def rigid(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """R [..., 3, 3] and t [..., 3] that bring points [..., N, 3] nearest to others, in least squares (Kabsch 1976)."""
    a, b = before.mean(axis=-2, keepdims=True), after.mean(axis=-2, keepdims=True)
    u, _, vt = np.linalg.svd((after - b).swapaxes(-1, -2) @ (before - a))
    u[..., 2] *= np.where(np.linalg.det(u @ vt) < 0, -1.0, 1.0)[..., None]
    rotation = u @ vt
    return rotation, (b - a @ rotation.swapaxes(-1, -2))[..., 0, :]
