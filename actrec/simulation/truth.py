"""Exact joints as the data contract wants them, with what the camera can see of them."""

import numpy as np

from actrec.frames import Body, Hand, Intrinsics
from actrec.geometry import project
from actrec.simulation import rig
from actrec.simulation.appearance import Appearance
from actrec.simulation.renderer import Rendering
from actrec.simulation.rig import ActorPose
from actrec.skeleton.layouts import KINECT_V2_25

HIDDEN_SCORE = 0.5
"""Score of a joint that is known but hidden or outside the image, as a Kinect scores an inferred one."""

# How deep under the skin each joint lies at most, metres (kinect_v2_25 order).
_DEPTHS = {
    "spine_base": 0.16, "spine_mid": 0.15, "spine_shoulder": 0.13, "neck": 0.11, "head": 0.13, "shoulder": 0.09,
    "elbow": 0.07,
    "wrist": 0.06, "hand": 0.05, "hand_tip": 0.04, "thumb": 0.04, "hip": 0.14, "knee": 0.09, "ankle": 0.08,
    "foot": 0.07,
}  # fmt: skip
_UNDER_SKIN = np.array([_DEPTHS[j.replace("_left", "").replace("_right", "")] for j in KINECT_V2_25.joints])
_UNDER_SKIN_HAND = 0.04


def body_truth(index: int, pose: ActorPose, rendering: Rendering, intrinsics: Intrinsics) -> Body:
    """Exact joints of actor `index` as a body "actor_<index + 1>"."""
    positions = pose.joints.astype(np.float32)
    pixels = project(positions, intrinsics)
    visible = visibility(index, positions, pixels, _UNDER_SKIN, rendering)
    scores = np.where(visible, 1.0, HIDDEN_SCORE).astype(np.float32)
    return Body(f"actor_{index + 1}", KINECT_V2_25.name, positions, pixels, scores)


def hand_truth(
    index: int, pose: ActorPose, appearance: Appearance, rendering: Rendering, intrinsics: Intrinsics
) -> list[Hand]:
    """Exact joints of both hands, left first."""
    hands = []
    for side, joints in zip(rig.SIDES, rig.hand_joints(pose, appearance.hand_length), strict=True):
        positions = joints.astype(np.float32)
        pixels = project(positions, intrinsics)
        visible = visibility(index, positions, pixels, np.full(21, _UNDER_SKIN_HAND), rendering)
        scores = np.where(visible, 1.0, HIDDEN_SCORE).astype(np.float32)
        hands.append(Hand(f"actor_{index + 1}", "hand_21", positions, pixels, scores, side=side))
    return hands


def visibility(
    index: int, positions: np.ndarray, pixels: np.ndarray, under_skin: np.ndarray, rendering: Rendering
) -> np.ndarray:
    """Whether each joint's own flesh is what the camera sees at its pixel.

    Args:
        index: Which actor.
        positions: [V, 3] metres.
        pixels: [V, 2], NaN behind the camera.
        under_skin: [V] how far before a joint its own skin can be, metres.
        rendering: The frame.

    Returns:
        [V] bool.
    """
    height, width = rendering.depth.shape
    u, v = np.nan_to_num(np.round(pixels), nan=-1, posinf=-1, neginf=-1).T
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    u, v = np.where(inside, u, 0).astype(int), np.where(inside, v, 0).astype(int)
    own = rendering.owner_at(v, u) == index
    return inside & own & (positions[:, 2] - rendering.depth[v, u] < under_skin)
