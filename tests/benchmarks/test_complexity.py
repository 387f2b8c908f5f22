import pytest
import torch
from torch import nn

import actrec_models.networks
from benchmarks.networks import Complexity, complexity


class OneInput(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)


class Attention(nn.Module):
    def forward(self, x):
        return torch.softmax(x @ x.transpose(-1, -2), dim=-1) @ x


CASES = {
    "linear": (nn.Linear(4, 8), (1, 5, 4), 5 * 4 * 8),
    "grouped convolution": (nn.Conv2d(4, 8, (3, 1), groups=2), (1, 4, 6, 6), 8 * 4 * 6 * 2 * 3),
    "strided 3D convolution": (nn.Conv3d(2, 3, 3, stride=2, padding=1), (1, 2, 4, 4, 4), 3 * 2**3 * 2 * 27),
    "transposed convolution": (nn.ConvTranspose2d(4, 8, 3), (1, 4, 6, 6), 4 * 36 * 8 * 9),
    "two-layer LSTM": (nn.LSTM(8, 16, 2, batch_first=True), (1, 5, 8), 5 * 4 * 16 * (8 + 16 + 16 + 16)),
    "attention": (Attention(), (1, 2, 7, 3), 2 * 2 * 7 * 7 * 3),
}


@pytest.mark.parametrize("name", CASES)
def test_complexity_matches_hand_computation(name):
    module, shape, expected = CASES[name]
    found = complexity(OneInput(module), {"x": torch.zeros(shape)})
    assert found == Complexity(sum(p.numel() for p in module.parameters()), expected)


def test_complexity_from_input_specs_leaves_network_unchanged():
    network = actrec_models.networks.create("deepacts_graph", num_classes=10, width=8, modalities=("body",), frames=16)
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert complexity(network).multiply_adds > 1e6
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    # Two branches cost twice as much as one.
    twice = actrec_models.networks.create(
        "deepacts_graph", num_classes=10, width=8, modalities=("body", "bones"), frames=16
    )
    assert complexity(twice).multiply_adds == 2 * complexity(network).multiply_adds
