"""Network inputs of batches of skeletons."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from actrec.features import skeleton
from actrec.features.skeleton import SkeletonPreprocessing
from actrec.features.specs import InputSpec, WindowSpec
from actrec.features.voxels import TABLES, VoxelPreprocessing
from actrec.skeleton import layouts
from actrec.utils import config
from actrec_models.data.batches import joint_map, voxel_tables
from actrec_models.data.batches.normalization import normalize, rotate, stack
from actrec_models.data.batches.resampling import resample
from actrec_models.data.batches.variation import vary_bodies, vary_hands

VOXELS = ("voxel_features", *TABLES)


def uncovered(specs: Iterable[InputSpec], window: WindowSpec, clips: str, layout: str) -> str:
    """Return why `BatchFeatures` does not cover a network's inputs; empty if it does.

    Args:
        specs, window: Inputs and window of the network.
        clips: The recipe's `clips`.
        layout: Joint layout of the dataset.
    """
    for spec in specs:
        if spec.modality not in (*skeleton.MODALITIES, *VOXELS, "joint_map"):
            return f"input '{spec.name}' is not made from joints alone ({spec.modality})"
        if spec.layout != layout:
            return f"input '{spec.name}' is of {spec.layout}, but the clips are of {layout}"
    if layout not in ("kinect_v2_25", "hand_22"):
        return f"the clips are of {layout}"
    if clips == "subsequences" or window.clip_frames != window.frames:
        return "a window holds several clips"
    return ""


def has_voxels(specs: Iterable[InputSpec]) -> bool:
    """Return whether a network takes voxel tables, which a CPU builds faster clip by clip."""
    return any(spec.modality in VOXELS for spec in specs)


class BatchFeatures:
    """Inputs of a network from batches of `collate`, on the device of the batch.

    Args:
        specs: The inputs.
    """

    def __init__(self, specs: Sequence[InputSpec]):
        self.specs = list(specs)
        self.begins = any(spec.modality == "joint_map" for spec in specs)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the inputs by name, float32 of the specs' shapes after the batch axis, and "label"."""
        with torch.no_grad(), torch.autocast(batch["joints"].device.type, enabled=False):
            bodies = resample(batch["joints"], batch["times"], batch["wanted"], batch["gaps"])
            if "noise" in batch:
                held = joint_map.first_visible_frame(bodies) if self.begins else None
                bodies = (vary_hands if "stretch" in batch else vary_bodies)(bodies, batch)
                # As in live windows: a joint map detects the start of a recording by the repeated first pose.
                bodies = bodies if held is None else joint_map.hold_first(bodies, held)
            return {**self._inputs(bodies, batch), "label": batch["label"]}

    def _inputs(self, bodies: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        memo: dict[Any, Any] = {}
        made = {}
        for spec in self.specs:
            padded = _padded(bodies, body_count(spec))
            if spec.modality in VOXELS:
                made[spec.name] = _voxels(padded, spec, memo)
            elif spec.modality == "joint_map":
                made[spec.name] = joint_map.joint_map(padded, spec)
            else:
                options = config.build(SkeletonPreprocessing, spec.preprocessing)
                if options not in memo:
                    joints = normalize(padded, options, spec.layout)
                    memo[options] = rotate(joints, batch["after"]) if "after" in batch else joints
                made[spec.name] = stack(memo[options], spec.modality, spec.layout, options.root_bone)
        return made


def body_count(spec: InputSpec) -> int:
    """Return M, the bodies that an input takes."""
    if spec.modality in VOXELS:
        return int(config.build(VoxelPreprocessing, spec.preprocessing).bodies)
    return spec.shape[0] // (3 * len(layouts.get(spec.layout))) if spec.modality == "joint_map" else spec.shape[0]


def _padded(bodies: Tensor, count: int) -> Tensor:
    """Pad bodies (B, M, 3, T, V) with NaN, as absent."""
    return torch.nn.functional.pad(bodies, (0, 0) * 3 + (0, count - bodies.shape[1]), value=torch.nan)


def _voxels(bodies: Tensor, spec: InputSpec, memo: dict[Any, Any]) -> Tensor:
    options = config.build(VoxelPreprocessing, spec.preprocessing)
    if ("points", options) not in memo:
        memo["points", options] = voxel_tables.points(bodies, options, spec.layout)
    found = memo["points", options]
    if spec.modality == "voxel_features":
        return voxel_tables.features(found, options)
    if ("tables", options) not in memo:
        memo["tables", options] = voxel_tables.tables(found, options)
    name = TABLES[spec.modality][0]
    each = [getattr(level, name) for level in memo["tables", options]]
    return {"tiles": torch.cat, "sums": lambda parts, dim: torch.cat(parts, dim=2)}.get(name, torch.stack)(each, dim=1)
