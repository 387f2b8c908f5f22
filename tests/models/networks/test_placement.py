"""Pixels meet joints: a moving hand is where its joint is, in every network's inputs and for every image size."""

import pytest

import actrec_models
from tests.models.networks.placement import CAMERAS, inputs_of, live, measure, offline, shot

PLACED = {
    "c3d_flow", "c3d_flow_at1", "c3d_flow_at2", "flow_skeleton", "p_i3d", "vpn_i3d", "vpn_resnext101",
    "deepacts", "deepacts_cnn", "deepacts_graph", "deepacts_multi",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("camera", CAMERAS)
def test_moving_hand_is_at_its_joint_in_the_inputs_of_every_network(camera: str) -> None:
    found = {}
    for name in actrec_models.list_models():
        specs, window = inputs_of(name)
        for make in (offline, live) if specs else ():
            for key, (error, width) in measure(shot(camera), specs, make(shot(camera), specs, window)).items():
                found[name, key, make.__name__] = error, width
    assert {name for name, *_ in found} == PLACED
    assert {key: error for key, (error, _) in found.items() if not error <= 1.0} == {}  # px of 112
    assert {key: width for key, (_, width) in found.items() if not 0.92 < width < 1.08} == {}
