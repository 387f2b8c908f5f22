"""Options that make each network small but structurally complete, for the suite over all of them."""

from typing import Any

SMALL: dict[str, dict[str, Any]] = {
    "deepacts_graph": {"width": 8, "frames": 16},
    "p_i3d": {"frames": 8, "size": 32, "width": 0.05, "hidden": 8, "pose_frames": 4, "attention_units": 8},
    "vpn_i3d": {"frames": 16, "size": 64, "poses": 8, "width": 0.125, "embedding_size": 16},
    "vpn_resnext101": {"frames": 16, "size": 64, "poses": 8, "width": 0.125, "embedding_size": 16},
}
