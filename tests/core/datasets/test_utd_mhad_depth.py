import numpy as np
import pytest
from scipy.io import savemat

from actrec.datasets.utd_mhad import UtdMhad
from actrec.skeleton.layouts import KINECT_V2_25
from actrec.utils.errors import InputError
from actrec.utils.geometry import project


def test_utd_mhad_depth_aligned_with_joints(data_root, tmp_path):
    for folder in ("depth", "skeleton"):  # as published, without the archive beside them
        (tmp_path / folder).symlink_to(data_root / "utd_mhad" / folder)
    source = UtdMhad(tmp_path)
    entries = [entry for entry in source.entries() if "depth" in entry.files]
    assert len(entries) == 14
    entry = entries[0]
    clip, frames = source.read(entry), list(source.frames(entry))
    assert [frame.stamp_ns for frame in frames] == clip.stamps_ns.tolist()
    trunk = [KINECT_V2_25.index[joint] for joint in ("spine_base", "spine_mid", "spine_shoulder", "head")]
    limbs = [
        KINECT_V2_25.index[f"{joint}_{side}"] for joint in ("elbow", "knee", "wrist") for side in ("left", "right")
    ]
    for t in range(0, len(frames), 10):
        frame, body = frames[t], clip.bodies[0, t]
        assert frame.color is None and frame.depth is not None and frame.depth.dtype == np.float32
        pixels = np.round(project(body, frame.intrinsics)).astype(int)
        seen = frame.depth[pixels[:, 1], pixels[:, 0]]
        inside = body[trunk, 2] - seen[trunk]  # a joint lies within the body, behind its surface
        assert np.isfinite(inside).all() and (inside > -0.05).all() and (inside < 0.3).all()
        assert np.isfinite(seen[limbs]).mean() > 0.5


@pytest.mark.parametrize(("value", "message"), [
    ({"d_depth": np.zeros((240, 320, 9), np.uint16)}, r"has 9 frames but its skeleton 10"),
    ({"d_depth": np.zeros((320, 240, 10), np.uint16)}, r"d_depth is uint16\[320, 240, 10\]"),
    ({"d_skel": np.zeros(3)}, "holds no 'd_depth' but d_skel"),
])  # fmt: skip
def test_utd_mhad_invalid_depth_raises(tmp_path, value, message):
    joints = np.random.default_rng(0).uniform(0.5, 1, (20, 3, 10))
    savemat(tmp_path / "a1_s1_t1_skeleton.mat", {"d_skel": joints})
    savemat(tmp_path / "a1_s1_t1_depth.mat", value)
    source = UtdMhad(tmp_path)
    with pytest.raises(InputError, match=rf"a1_s1_t1_depth\.mat'.*{message}"):
        source.frames(source.entries()[0])
    (tmp_path / "a1_s1_t1_depth.mat").write_bytes(b"MATLAB")
    with pytest.raises(InputError, match=r"a1_s1_t1_depth\.mat' is corrupt"):
        source.frames(source.entries()[0])
    (tmp_path / "a1_s1_t1_depth.mat").unlink()
    with pytest.raises(InputError, match="no camera frames"):
        source.frames(UtdMhad(tmp_path).entries()[0])
