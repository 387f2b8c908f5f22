"""Network inputs from clips, used by training and by the live nodes.

A network declares its inputs as `InputSpec`s. Each one names a modality, and each modality has a `Feature`, which is
computed from a clip: a mapping with the keys of `actrec.types.KEYS`.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from actrec.features.leveling import level_clip
from actrec.features.specs import Feature, FrameFeature, InputSpec
from actrec.types import Clip
from actrec.utils.registry import Registry

__all__ = ["FEATURES", "Clip", "Feature", "FrameFeature", "feature", "inputs", "modalities", "streams"]

FEATURES = Registry(
    "modality",
    {
        "body": "actrec.features.skeleton:BodyFeature",
        "bones": "actrec.features.skeleton:BodyFeature",
        "body_motion": "actrec.features.skeleton:BodyFeature",
        "bones_motion": "actrec.features.skeleton:BodyFeature",
        "pose": "actrec.features.skeleton:PoseFeature",
        "hands": "actrec.features.stamps:HandsFeature",
        "face": "actrec.features.stamps:FaceFeature",
        "motion": "actrec.features.stamps:MotionFeature",
        "body_stamp": "actrec.features.stamps:BodyStamp",
        "bones_stamp": "actrec.features.stamps:BonesStamp",
        "hands_stamp": "actrec.features.stamps:HandsStamp",
        "face_stamp": "actrec.features.stamps:FaceStamp",
        "motion_stamp": "actrec.features.stamps:MotionStamp",
        "joint_map": "actrec.features.scene_flow:JointMap",
        "joint_pixels": "actrec.features.scene_flow:JointPixels",
        "flow_rgb": "actrec.features.scene_flow:FlowRgb",
        "image": "actrec.features.crops:WholeImage",
        "body_crop": "actrec.features.crops:BodyCrop",
        "left_hand_crop": "actrec.features.crops:HandCrop",
        "right_hand_crop": "actrec.features.crops:HandCrop",
        "voxel_features": "actrec.features.voxels:VoxelFeatures",
        "voxel_neighbors": "actrec.features.voxels:VoxelTable",
        "voxel_sums": "actrec.features.voxels:VoxelTable",
        "voxel_times": "actrec.features.voxels:VoxelTable",
        "voxel_cells": "actrec.features.voxels:VoxelTable",
    },
)


def feature(modality: str) -> Feature:
    """Return the feature of a modality, or raise `ConfigError` if it is unknown."""
    made: Feature = FEATURES.create(modality)
    return made


def inputs(clip: Clip, specs: Iterable[InputSpec]) -> dict[str, np.ndarray]:
    """Compute all inputs of a network, input name to float32 of the spec's shape, without the batch axis.

    The clip has keys of `actrec.types.KEYS`, NaN for missing values.

    Raises:
        InputError: A key is missing from the clip, or shapes disagree.
    """
    clip, memo = level_clip(clip), dict[Any, Any]()
    return {spec.name: feature(spec.modality).make(clip, spec, memo) for spec in specs}


def modalities(specs: Iterable[InputSpec]) -> list[str]:
    """Return the input streams as papers count them: all voxel inputs together are one."""
    return list(dict.fromkeys(feature(spec.modality).part_of or spec.modality for spec in specs))


def streams(specs: Iterable[InputSpec]) -> dict[str, bool]:
    """Return the streams ("bodies", "hands", "face", "flow", "color") of the inputs, and whether each is required.

    Bodies are always required: a window belongs to a body.
    """
    needed = {"bodies": True}
    for spec in specs:
        for stream, required in feature(spec.modality).streams.items():
            needed[stream] = needed.get(stream, False) or required
    return needed
