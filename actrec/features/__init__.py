"""From the data contract to network inputs. Training and the live nodes both call these functions.

A network states its inputs as `InputSpec`s; each names a modality, and each modality is one feature here. A feature is
made from a clip: a mapping with the keys of `actrec.types.KEYS`.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from actrec.features.base import Feature, FrameFeature, View
from actrec.features.specs import InputSpec
from actrec.types import Clip
from actrec.utils.registry import Registry

__all__ = ["FEATURES", "Clip", "Feature", "FrameFeature", "View", "feature", "inputs", "modalities", "streams"]

FEATURES = Registry(
    "modality",
    {
        "body": "actrec.features.skeleton:BodyFeature",
        "bones": "actrec.features.skeleton:BonesFeature",
        "body_motion": "actrec.features.skeleton:BodyMotionFeature",
        "bones_motion": "actrec.features.skeleton:BonesMotionFeature",
        "pose": "actrec.features.skeleton:PoseFeature",
        "hands": "actrec.features.keypoints:HandsFeature",
        "face": "actrec.features.keypoints:FaceFeature",
        "motion": "actrec.features.keypoints:MotionFeature",
        "body_stamp": "actrec.features.stamps:BodyStamp",
        "bones_stamp": "actrec.features.stamps:BonesStamp",
        "hands_stamp": "actrec.features.stamps:HandsStamp",
        "face_stamp": "actrec.features.stamps:FaceStamp",
        "motion_stamp": "actrec.features.stamps:MotionStamp",
        "joint_map": "actrec.features.joint_map:JointMap",
        "joint_pixels": "actrec.features.scene_flow:JointPixels",
        "flow_rgb": "actrec.features.scene_flow:FlowRgb",
        "image": "actrec.features.crops:Image",
        "body_crop": "actrec.features.crops:BodyCrop",
        "left_hand_crop": "actrec.features.crops:LeftHandCrop",
        "right_hand_crop": "actrec.features.crops:RightHandCrop",
        "voxel_features": "actrec.features.voxels:VoxelFeatures",
        "voxel_neighbors": "actrec.features.voxels:VoxelNeighbors",
        "voxel_sums": "actrec.features.voxels:VoxelSums",
        "voxel_times": "actrec.features.voxels:VoxelTimes",
        "voxel_cells": "actrec.features.voxels:VoxelCells",
    },
)


def feature(modality: str) -> Feature:
    """The feature of a modality.

    Raises:
        ConfigError: Unknown modality; the known ones are listed.
    """
    made: Feature = FEATURES.create(modality)
    return made


def inputs(clip: Clip, specs: Iterable[InputSpec]) -> dict[str, np.ndarray]:
    """Every input of a network, by name.

    Args:
        clip: See `actrec.types.KEYS`; NaN for what is missing.
        specs: The network's inputs.

    Returns:
        Input name to float32 of the spec's shape, without the batch axis.

    Raises:
        InputError: The clip lacks what an input is made of, or shapes disagree; both are named.
    """
    memo: dict[Any, Any] = {}
    return {spec.name: feature(spec.modality).make(clip, spec, memo) for spec in specs}


def modalities(specs: Iterable[InputSpec]) -> list[str]:
    """What a network looks at, as papers count its input streams: the points and tables of voxels are one of them."""
    return list(dict.fromkeys(feature(spec.modality).part_of or spec.modality for spec in specs))


def streams(specs: Iterable[InputSpec]) -> dict[str, bool]:
    """The streams ("bodies", "hands", "face", "flow", "color") of these inputs, and whether each must be there.

    Bodies always count: a window belongs to a body.
    """
    needed = {"bodies": True}
    for spec in specs:
        for stream, required in feature(spec.modality).streams.items():
            needed[stream] = needed.get(stream, False) or required
    return needed
