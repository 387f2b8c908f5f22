import numpy as np
import torch
from torch.nn import functional

from actrec_models.layers.cnn3d import C3D_STAGES, C3d, boosted

CONVOLUTIONS = [name for names in C3D_STAGES for name in names]


def small(classes=5, **options):
    torch.manual_seed(1)
    return C3d(classes, **{"size": 32, "width": 4, "fc": 16, **options}).eval()


def size_of(module):
    return sum(p.numel() for p in module.parameters())


def test_c3d_has_published_sizes():
    with torch.device("meta"):
        assert size_of(C3d(101)) == 78_409_573  # the 78.4 M that its ports state are for UCF-101
        assert size_of(C3d(487)) == 79_991_015  # Sports-1M


def test_c3d_has_published_layers():
    """Feature sizes of Tran et al., Fig. 3, from 3×16×112×112 to fc6's 8192 inputs."""
    seen = {}
    with torch.device("meta"):
        network = C3d(487)
        for name in [*CONVOLUTIONS, "pool5", "fc6", "fc7", "fc8"]:
            network.get_submodule(name).register_forward_hook(
                lambda module, inputs, output, name=name: seen.update({name: tuple(output.shape[1:])})
            )
        network(torch.zeros(2, 3, 16, 112, 112))
    assert network.fc6.in_features == 8192
    assert seen == {
        "conv1": (64, 16, 112, 112), "conv2": (128, 16, 56, 56), "conv3a": (256, 8, 28, 28), "conv3b": (256, 8, 28, 28),
        "conv4a": (512, 4, 14, 14), "conv4b": (512, 4, 14, 14), "conv5a": (512, 2, 7, 7), "conv5b": (512, 2, 7, 7),
        "pool5": (512, 1, 4, 4), "fc6": (4096,), "fc7": (4096,), "fc8": (487,),
    }  # fmt: skip


def test_c3d_has_names_of_ports():
    layers = [*CONVOLUTIONS, "fc6", "fc7", "fc8"]
    assert set(small().state_dict()) == {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}
    assert CONVOLUTIONS == ["conv1", "conv2", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b"]


def test_c3d_without_classes_returns_fc7():
    network = small(classes=0)
    assert network(torch.zeros(1, 3, 16, 32, 32)).shape == (1, 16)
    assert not any(name.startswith("fc8") for name in network.state_dict())


def test_c3d_masks_follow_every_convolution():
    """The whole network once more, function by function, with Eq. 4 after each convolution."""
    network = small()
    clip = torch.randn(2, 3, 16, 32, 32)
    sizes = [(16, 32), (16, 16), (8, 8), (4, 4), (2, 2)]
    masks = [torch.rand(2, 1, frames, width, width) for frames, width in sizes]
    with torch.no_grad():
        f = clip
        for stage, names in enumerate(C3D_STAGES):
            for name in names:
                weight, bias = network.state_dict()[f"{name}.weight"], network.state_dict()[f"{name}.bias"]
                y = functional.conv3d(f, weight, bias, padding=1).clamp(min=0)
                f = y + masks[stage].expand_as(y) * y
            kernel = (1, 2, 2) if stage == 0 else (2, 2, 2)
            f = functional.max_pool3d(f, kernel, kernel, ceil_mode=True)
        f = f.reshape(2, -1)
        for name in ("fc6", "fc7"):
            f = functional.linear(f, *network.get_submodule(name).parameters()).clamp(min=0)
        expected = functional.linear(f, *network.fc8.parameters())
        torch.testing.assert_close(network(clip, masks), expected, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(network(clip), expected, atol=1e-3)


def test_boosted_equals_equation_4():
    y, m = torch.randn(2, 3, 4, 5, 5), torch.rand(2, 1, 4, 5, 5)
    expected = np.zeros(y.shape, np.float32)
    for n, c, frame, i, j in np.ndindex(*y.shape):
        expected[n, c, frame, i, j] = (1 + m[n, 0, frame, i, j]) * y[n, c, frame, i, j]
    np.testing.assert_allclose(boosted(y, m), expected, rtol=1e-6)


def test_boosted_mask_scales_gradient():
    """∂F/∂θ = (1 + M) ∂Y/∂θ for every weight θ of a convolution and every element of F."""
    x, mask = torch.randn(1, 1, 2, 3, 3), torch.rand(1, 1, 2, 3, 3)

    def y(theta):
        return functional.conv3d(x, theta, padding=1)

    theta = torch.randn(2, 1, 3, 3, 3)
    of_y = torch.autograd.functional.jacobian(y, theta)  # [1, 2, 2, 3, 3] × θ
    of_f = torch.autograd.functional.jacobian(lambda t: boosted(y(t), mask), theta)
    expected = (1 + mask.numpy())[..., None, None, None, None, None] * of_y.numpy()
    np.testing.assert_allclose(of_f, expected, rtol=1e-5)
