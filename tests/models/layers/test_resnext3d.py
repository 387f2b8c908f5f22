import numpy as np
import pytest
import torch

from actrec_models.layers import Bottleneck
from actrec_models.layers.cnn3d import RESNEXT_BLOCKS, ResNext3d


def test_resnext3d_has_published_size_and_names():
    with torch.device("meta"):
        shapes = {name: tuple(p.shape) for name, p in ResNext3d(400).state_dict().items()}
    parameters = {k: np.prod(s) for k, s in shapes.items() if not k.endswith(("mean", "var", "num_batches_tracked"))}
    assert sum(parameters.values()) == 48_340_816  # of the port's resnext101 with 400 classes
    assert sum(n for k, n in parameters.items() if not k.startswith("fc.")) == 47_521_216
    assert shapes["conv1.weight"] == (64, 3, 7, 7, 7)
    assert shapes["bn1.running_mean"] == (64,)
    assert shapes["layer1.0.conv1.weight"] == (128, 64, 1, 1, 1)
    assert shapes["layer1.0.conv2.weight"] == (128, 4, 3, 3, 3)  # 32 groups of 4
    assert shapes["layer1.0.downsample.0.weight"] == (256, 64, 1, 1, 1)
    assert shapes["layer1.0.downsample.1.weight"] == (256,)
    assert shapes["layer3.22.conv3.weight"] == (1024, 512, 1, 1, 1)
    assert shapes["layer4.2.conv2.weight"] == (1024, 32, 3, 3, 3)
    assert shapes["fc.weight"] == (400, 2048)
    assert not [k for k in shapes if not k.startswith(("conv1.", "bn1.", "layer", "fc."))]
    assert len({k.split(".")[1] for k in shapes if k.startswith("layer3.")}) == RESNEXT_BLOCKS[2]
    assert sum("downsample.0" in k for k in shapes) == 4


def test_resnext3d_without_classes_has_no_classifier():
    assert not [k for k in ResNext3d(0, width=0.0625).state_dict() if k.startswith("fc.")]


@pytest.mark.parametrize("frames, size", [(64, 112), (17, 50), (16, 33)])
def test_resnext3d_feature_map_has_stated_shape(frames, size):
    net = ResNext3d(0, width=0.0625)
    with torch.no_grad():
        f = net.forward_features(torch.zeros(1, 3, frames, size, size))
    assert tuple(f.shape[1:]) == net.feature_shape(frames, size)


def test_resnext3d_feature_map_has_published_shape():
    with torch.device("meta"):
        assert ResNext3d(0).feature_shape(64, 112) == (2048, 4, 4, 4)


def test_bottleneck_equals_reference():
    """Grouped convolution, batch norms and the shortcut, one output element at a time."""
    torch.manual_seed(1)
    block = Bottleneck(8, 64, 2, axes=3, expansion=2, groups=32).eval()
    assert isinstance(block.downsample, torch.nn.Sequential)
    for bn in (block.bn1, block.bn2, block.bn3, block.downsample[1]):
        torch.nn.init.uniform_(bn.running_mean, -1, 1)
        torch.nn.init.uniform_(bn.running_var, 0.5, 2)
    x = torch.randn(1, 8, 3, 4, 5)
    with torch.no_grad():
        found = block(x)[0].numpy()

    def norm(y, bn):
        mean, var = bn.running_mean.numpy(), bn.running_var.numpy()
        return (y - mean[:, None, None, None]) / np.sqrt(var + bn.eps)[:, None, None, None]

    def weight(conv):
        return conv.weight.detach().numpy().astype(float)

    y = np.tensordot(weight(block.conv1)[:, :, 0, 0, 0], x[0].numpy(), 1)
    y = np.pad(np.maximum(norm(y, block.bn1), 0), ((0, 0), (1, 1), (1, 1), (1, 1)))
    grouped = np.zeros((64, 2, 2, 3))
    for c in range(64):
        first = 2 * (c // 2)  # 32 groups of 2
        for t, h, w in np.ndindex(2, 2, 3):
            patch = y[first : first + 2, 2 * t : 2 * t + 3, 2 * h : 2 * h + 3, 2 * w : 2 * w + 3]
            grouped[c, t, h, w] = (weight(block.conv2)[c] * patch).sum()
    y = np.tensordot(weight(block.conv3)[:, :, 0, 0, 0], np.maximum(norm(grouped, block.bn2), 0), 1)
    shortcut = np.tensordot(weight(block.downsample[0])[:, :, 0, 0, 0], x[0].numpy()[:, ::2, ::2, ::2], 1)
    expected = np.maximum(norm(y, block.bn3) + norm(shortcut, block.downsample[1]), 0)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_resnext3d_input_is_scaled_as_in_port():
    net = ResNext3d(0, width=0.0625).eval()
    gray = torch.full((1, 3, 16, 32, 32), 2 * 100 / 255 - 1)  # level 100 of 0..255 in each channel
    seen = []
    net.conv1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    net.forward_features(gray)
    levels = seen[0][0, :, 0, 0, 0].numpy()
    np.testing.assert_allclose(levels, [100 - 114.7748, 100 - 107.7354, 100 - 99.4750], atol=1e-3)
