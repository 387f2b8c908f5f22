"""From a clip to VPN: missing joints, absent bodies, other people, clips that do not fit."""

import numpy as np
import pytest
import torch

import actrec_models.networks
from actrec import features
from actrec.utils.errors import InputError

SMALL = {"frames": 16, "size": 64, "poses": 8, "width": 0.125, "embedding_size": 16}


def network(**options):
    torch.manual_seed(1)
    return actrec_models.networks.create("vpn_i3d", num_classes=5, **{**SMALL, **options})


def clip_of(frames=16, joints=25, bodies=1):
    rng = np.random.default_rng(1)
    return {
        "bodies": rng.normal(0, 0.3, (bodies, frames, joints, 3)).astype(np.float32),
        "pixels": rng.uniform(40, 200, (bodies, frames, joints, 2)).astype(np.float32),
        "color": rng.integers(0, 255, (frames, 240, 320, 3), dtype=np.uint8),
    }


@pytest.mark.parametrize(
    "lost", [np.s_[:, 3:7], np.s_[:, :, [7, 11, 20]], np.s_[:, :, [0, 4, 8, 12, 16, 20]], np.s_[:]]
)
def test_vpn_missing_joints_and_bodies_give_finite_inputs(lost):
    net = network().eval()
    clip = clip_of()
    clip["bodies"][lost] = np.nan
    clip["pixels"][lost] = np.nan
    inputs = {k: torch.from_numpy(v)[None] for k, v in features.inputs(clip, net.input_specs).items()}
    assert all(bool(torch.isfinite(x).all()) for x in inputs.values())
    assert bool(torch.isfinite(net(**inputs)).all())
    label = {"label": torch.tensor([0])}
    assert all(bool(torch.isfinite(x).all()) for x in net.losses({**inputs, **label}).values())


def test_vpn_further_bodies_are_ignored():
    specs = network().input_specs
    clip = clip_of(bodies=3)
    alone = {**clip, "bodies": clip["bodies"][:1], "pixels": clip["pixels"][:1]}
    for name, value in features.inputs(clip, specs).items():
        np.testing.assert_array_equal(value, features.inputs(alone, specs)[name])


@pytest.mark.parametrize(
    "clip, message",
    [
        (clip_of(joints=20), r"20.* 25 joints \(kinect_v2_25\)"),
        (clip_of(frames=6), r"(at least 8 frames|16 images)"),
        ({"bodies": clip_of()["bodies"]}, "needs '(pixels|color)'"),
        ({k: v for k, v in clip_of().items() if k != "bodies"}, "needs 'bodies'"),
    ],
)
def test_vpn_unsuited_clips_refused(clip, message):
    with pytest.raises(InputError, match=message):
        features.inputs(clip, network().input_specs)


def test_vpn_window_gives_maximum_over_clips():
    window = network(frames=64, poses=20).window
    assert (window.clip_frames, window.combine) == (64, "max")
    assert window.starts == (0, 32, 64)
    assert window.seconds == pytest.approx(128 / 30)
