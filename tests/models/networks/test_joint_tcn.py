import numpy as np
import pytest
import torch

import actrec_models.networks
from actrec import features
from actrec.features.clips import example_clip
from actrec.skeleton.layouts import KINECT_V2_25
from actrec.utils.errors import ConfigError
from benchmarks.networks import complexity

SMALL = {"frames": 16, "width": 8, "dilations": (1, 2)}


def network(**options):
    torch.manual_seed(1)
    return actrec_models.networks.create("joint_tcn", num_classes=5, **{**SMALL, **options}).eval()


def scores(made, bodies):
    inputs = features.inputs({"bodies": bodies}, made.input_specs)
    with torch.no_grad():
        return made(**{name: torch.from_numpy(value)[None] for name, value in inputs.items()}).numpy()


def test_joint_tcn_has_a_million_parameters():
    found = complexity(actrec_models.networks.create("joint_tcn", num_classes=50))
    assert found.parameters == pytest.approx(0.98e6, rel=0.02)
    assert found.multiply_adds == pytest.approx(39e6, rel=0.05)


def test_joint_tcn_reads_only_joints_of_every_layout():
    """Hands and feet, which not every sensor finds, change nothing."""
    made = network()
    bodies = example_clip(made.input_specs, 16)["bodies"]
    without = bodies.copy()
    for joint in ("hand", "hand_tip", "thumb", "foot"):
        for side in ("left", "right"):
            without[:, :, KINECT_V2_25.index[f"{joint}_{side}"]] = np.nan
    np.testing.assert_allclose(scores(made, without), scores(made, bodies), atol=1e-5)


def test_joint_tcn_lengths_of_limbs_change_nothing():
    made = network()
    bodies = example_clip(made.input_specs, 16)["bodies"]
    longer = bodies.copy()
    for side in ("left", "right"):
        elbow, wrist = (KINECT_V2_25.index[f"{joint}_{side}"] for joint in ("elbow", "wrist"))
        longer[:, :, wrist] += 0.3 * (bodies[:, :, wrist] - bodies[:, :, elbow])
    np.testing.assert_allclose(scores(made, longer), scores(made, bodies), atol=1e-4)
    own = network(lengths="own")
    assert np.abs(scores(own, longer) - scores(own, bodies)).max() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": 4}, "kernel is 4"),
        ({"dilations": ()}, "dilations are"),
        ({"dilations": (1, 0)}, "dilations are"),
        ({"frames": 4}, "span is 4, but a clip has 4 frames"),
        ({"members": ()}, "members are"),
        ({"members": ("all", "speed")}, "members are.*all, bones, motion"),
    ],
)
def test_joint_tcn_invalid_options_raise(options, message):
    with pytest.raises(ConfigError, match=message):
        network(**options)


def test_joint_tcn_members_are_averaged_and_trained_alone():
    made = network(members=("all", "bones", "motion"))
    body = torch.randn(4, 1, 3, 16, 25)
    found = made.losses({"body": body, "label": torch.tensor([0, 1, 2, 3])})
    torch.testing.assert_close(found["logits"], made(body=body))
    each = []
    for k in range(3):
        alone = network(members=("all", "bones", "motion"))
        only = torch.zeros(3)
        only[k] = 3
        alone.fc.weight.data *= only.repeat_interleave(alone.fc.in_features // 3)
        each.append(torch.nn.functional.cross_entropy(alone(body=body), torch.tensor([0, 1, 2, 3])))
    torch.testing.assert_close(found["loss"], torch.stack(each).mean())


@pytest.mark.parametrize(("member", "static"), [("all", False), ("bones", False), ("motion", True)])
def test_joint_tcn_member_of_motion_ignores_a_constant_offset_of_a_joint(member, static):
    made = network(members=(member,), lengths="own")
    body = torch.randn(2, 1, 3, 16, 25)
    moved = body.clone()
    moved[..., KINECT_V2_25.index["wrist_left"]] += 0.5
    assert torch.allclose(made(body=moved), made(body=body), atol=1e-5) == static
