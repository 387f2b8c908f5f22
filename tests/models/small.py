"""Options that make each network small but structurally complete, for the suite over all of them."""

from typing import Any

FLOW = {"width": 4, "size": 32, "fc": 32, "scale": 1 / 128}

DEEPACTS_CNN = {"cnn_width": 0.1, "cnn_depth": 0.1, "size": 128}
"""On smaller stamps an untrained network makes so much of so little that half precision is not enough."""

SMALL: dict[str, dict[str, Any]] = {
    "deepacts_graph": {"width": 8, "frames": 16},
    "deepacts_cnn": {"modalities": ("body", "hands"), "frames": 16, **DEEPACTS_CNN},
    "deepacts": {"modalities": ("body", "hands"), "frames": 16, "width": 4, **DEEPACTS_CNN},
    "deepacts_multi": {"modalities": ("body", "hands"), "frames": 16, "width": 4, **DEEPACTS_CNN},
    "p_i3d": {"frames": 8, "size": 32, "width": 0.05, "hidden": 8, "pose_frames": 4, "attention_units": 8},
    "vpn_i3d": {"frames": 16, "size": 64, "poses": 8, "width": 0.125, "embedding_size": 16},
    "vpn_resnext101": {"frames": 32, "size": 64, "poses": 8, "width": 0.125, "embedding_size": 16},
    "res_tcn_bjcn": {"width": 8, "frames": 60},
    "c3d_flow": FLOW,
    "c3d_flow_at1": FLOW,
    "c3d_flow_at2": {**FLOW, "skeleton_width": 8, "map_frames": 144, "skeleton": "joint"},
    "flow_skeleton": {**FLOW, "skeleton_width": 8, "map_frames": 144},
    "joint_tcn": {"frames": 16, "width": 8, "dilations": (1, 2)},
    "sem_net": {"frames": 16, "channels": (8, 16), "strides": (2, 2), "heads": 2, "embedding": 4},
    "spa_net_3p1d": {"frames": 12, "width": 8, "widths": (1, 2), "depths": (1, 1), "kernel": 3},
    "spa_net_4d": {"frames": 8, "width": 8, "widths": (1, 2), "depths": (1, 1), "kernel": 3},
    "sem_spa": {
        "frames": 16,
        "spa_frames": 8,
        "sem_options": {"channels": (8, 16), "strides": (2, 2), "heads": 2, "embedding": 4},
        "spa_options": {"width": 8, "widths": (1, 2), "depths": (1, 1), "kernel": 3},
    },
}
