"""Joints of UTD-MHAD, which lie on the body in the published depth maps: their axes and sides are right."""

import numpy as np
from scipy.io import loadmat

from actrec.datasets.utd_mhad import UtdMhad
from actrec.skeleton.layouts import KINECT_V2_25
from actrec.types import Intrinsics
from actrec.utils.camera_model import project

DEPTH_CAMERA = Intrinsics(320, 240, 285.63, 285.63, 159.5, 119.5)
"""Nominal intrinsics of the Kinect v1; a fit to 14 recordings gives a focal length of 284 px and a center at 161."""


def test_utd_mhad_joints_lie_behind_the_surface_of_the_body(data_root, tmp_path):
    (tmp_path / "skeleton").symlink_to(data_root / "utd_mhad/skeleton")  # as published, without the archive beside it
    source = UtdMhad(tmp_path)
    entry = source.entries()[0]
    clip = source.read(entry)
    # (240, 320, T) mm, 0 on the background, mirrored
    depth = loadmat(data_root / f"utd_mhad/depth/{entry.name}_depth.mat")["d_depth"][:, ::-1].astype(np.float32) / 1000
    depth[depth == 0] = np.nan
    assert depth.shape[2] == len(clip.stamps_ns)
    trunk = [KINECT_V2_25.index[joint] for joint in ("spine_base", "spine_mid", "spine_shoulder", "head")]
    limbs = [
        KINECT_V2_25.index[f"{joint}_{side}"] for joint in ("elbow", "knee", "wrist") for side in ("left", "right")
    ]
    for t in range(0, depth.shape[2], 10):
        body = clip.bodies[0, t]
        pixels = np.round(project(body, DEPTH_CAMERA)).astype(int)
        seen = depth[pixels[:, 1], pixels[:, 0], t]
        inside = body[trunk, 2] - seen[trunk]  # a joint lies within the body, behind its surface
        assert np.isfinite(inside).all() and (inside > -0.05).all() and (inside < 0.3).all()
        assert np.isfinite(seen[limbs]).mean() > 0.5
