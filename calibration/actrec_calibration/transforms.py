"""Rigid transforms as 4×4 matrices, and as six numbers for those who search among them."""

import cv2
import numpy as np
from scipy.spatial.transform import Rotation


def pose_of(vector: np.ndarray) -> np.ndarray:
    """[4, 4] of a rotation vector in radians and a translation in metres, [6]."""
    pose = np.zeros((4, 4))
    pose[:3, :3] = cv2.Rodrigues(np.asarray(vector[:3], np.float64))[0]
    pose[:3, 3] = vector[3:]
    pose[3, 3] = 1
    return pose


def vector_of(pose: np.ndarray) -> np.ndarray:
    """[6] rotation vector in radians and translation in metres of a [4, 4]."""
    return np.concatenate([turn(pose), pose[:3, 3]])


def turn(pose: np.ndarray) -> np.ndarray:
    """[3] rotation vector in radians of a [3, 3] or [4, 4]; exact also where OpenCV's says 0 (below 1e-5 rad)."""
    return np.asarray(Rotation.from_matrix(pose[:3, :3]).as_rotvec())


def inverse(pose: np.ndarray) -> np.ndarray:
    """The transform back, exactly rigid where `pose` is."""
    back = np.zeros((4, 4))
    back[:3, :3] = pose[:3, :3].T
    back[:3, 3] = -back[:3, :3] @ pose[:3, 3]
    back[3, 3] = 1
    return back


def apply(pose: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points [..., 3] carried by a [4, 4]."""
    return np.asarray(points @ pose[:3, :3].T + pose[:3, 3])


def turns(vector: np.ndarray) -> np.ndarray:
    """[3, 3] radians about the axes of the frame that a transform [6] leads to, by each number of its rotation vector.

    Of a small rotation that is the identity. A camera's pose on a robot is a third of a turn and more, and the numbers
    of its rotation vector are no angles about anybody's axes.
    """
    back, step = pose_of(vector)[:3, :3].T, 1e-6
    return np.stack([turn(pose_of(vector + step * unit)[:3, :3] @ back) / step for unit in np.eye(6)[:3]], axis=1)


def turn_deviations(vector: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """[3] standard deviations in degrees about those axes, of the rotation vector's covariance [3, 3]."""
    about = turns(vector)
    return np.asarray(np.degrees(np.sqrt(np.maximum(np.diag(about @ covariance @ about.T), 0))))


def apart(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Distance in metres between the origins of two transforms, and the angle in degrees between their axes."""
    turned = np.linalg.norm(turn(a[:3, :3].T @ b[:3, :3]))
    return float(np.linalg.norm(a[:3, 3] - b[:3, 3])), float(np.degrees(turned))


def angles(pose: np.ndarray) -> tuple[float, float, float]:
    """Roll, pitch and yaw in degrees: fixed axes x, y, z in that order, as ROS's static transforms take them."""
    r = pose[:3, :3]
    pitch = np.arctan2(-r[2, 0], np.hypot(r[0, 0], r[1, 0]))
    roll, yaw = np.arctan2(r[2, 1], r[2, 2]), np.arctan2(r[1, 0], r[0, 0])
    return float(np.degrees(roll)), float(np.degrees(pitch)), float(np.degrees(yaw))


def mean(poses: list[np.ndarray]) -> np.ndarray:
    """The [4, 4] nearest to all: mean translation, and the rotation nearest to the mean of the matrices."""
    total = np.mean(poses, axis=0)
    u, _, vt = np.linalg.svd(total[:3, :3])
    total[:3, :3] = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
    return total
