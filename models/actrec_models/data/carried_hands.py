"""Recorded bodies as hand clips: what a real arm does, with a hand of one pose carried at its end.

No dataset here shows hands doing anything but the gestures that are taught. Recordings of whole bodies tell where hands
really go and how they turn while people walk, sit down, box or drink; the fingers do not move, which is what is missing
against a recording of hands.
"""

import numpy as np

from actrec.skeleton.layouts import HAND_22, KINECT_V2_25
from actrec_models.data.clips import Clip, ClipDataset
from actrec_models.data.outliers import rotations

_ELBOW, _WRIST = (KINECT_V2_25.index[f"{joint}_right"] for joint in ("elbow", "wrist"))
_FROM, _TO = HAND_22.index["wrist"], HAND_22.index["middle_base"]


def carried_hands(clips: ClipDataset, poses: ClipDataset) -> ClipDataset:
    """The right hands of clips of bodies (`kinect_v2_25`) as clips of `hand_22`.

    Args:
        clips: Bodies.
        poses: Hands; each clip gets the first pose of one of them, in turn, turned as its forearm turns.
    """
    step = max(len(poses) // max(len(clips), 1), 1)
    hands = [carried_hand(clips[i], poses[i * step % len(poses)].bodies[0, 0]) for i in range(len(clips))]
    return ClipDataset(hands, clips.classes, "hand_22")


def carried_hand(clip: Clip, pose: np.ndarray) -> Clip:
    """The right hand of a clip's first body; NaN where its elbow or wrist is not seen.

    Args:
        clip: Of bodies [M, T, 25, 3] metres.
        pose: [22, 3] metres, of a right hand.
    """
    wrist = clip.bodies[0, :, _WRIST].astype(np.float64)
    forearm = _unit(wrist - clip.bodies[0, :, _ELBOW])
    pose = np.where(np.isnan(pose), np.nanmean(pose, axis=0), pose) if np.isnan(pose).any() else pose
    turned = (pose - pose[_FROM]) @ _shortest_turns(_unit(pose[_TO] - pose[_FROM]), forearm).transpose(0, 2, 1)
    return Clip(clip.name, clip.label, clip.stamps_ns, (turned + wrist[:, None])[None].astype(np.float32))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6))


def _shortest_turns(start: np.ndarray, goals: np.ndarray) -> np.ndarray:
    """[T, 3, 3] the shortest rotations of direction `start` [3] to `goals` [T, 3]."""
    axis = np.cross(start, goals)
    angle = np.arctan2(np.linalg.norm(axis, axis=1), goals @ start)
    return rotations(_unit(axis) * angle[:, None])
