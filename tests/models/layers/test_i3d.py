import numpy as np
import pytest
import torch
from torch.nn import functional

from actrec.utils.errors import ConfigError
from actrec_models.layers.cnn3d import ENDPOINTS, InceptionI3d, MaxPool3dSame, Unit3d, average_pool, image_spec

UNITS = {"Conv3d_1a_7x7": (3, 64, 7), "Conv3d_2b_1x1": (64, 64, 1), "Conv3d_2c_3x3": (64, 192, 3)}
BLOCKS = {
    "Mixed_3b": (192, 64, 96, 128, 16, 32, 32),
    "Mixed_3c": (256, 128, 128, 192, 32, 96, 64),
    "Mixed_4b": (480, 192, 96, 208, 16, 48, 64),
    "Mixed_4c": (512, 160, 112, 224, 24, 64, 64),
    "Mixed_4d": (512, 128, 128, 256, 24, 64, 64),
    "Mixed_4e": (512, 112, 144, 288, 32, 64, 64),
    "Mixed_4f": (528, 256, 160, 320, 32, 128, 128),
    "Mixed_5b": (832, 256, 160, 320, 32, 128, 128),
    "Mixed_5c": (832, 384, 192, 384, 48, 128, 128),
}


def published():
    """Names and shapes in `rgb_imagenet.pt`, written out from Inception-V1's table."""
    units = dict(UNITS)
    for name, (c, b0, b1a, b1b, b2a, b2b, b3b) in BLOCKS.items():
        branches = {"b0": (c, b0, 1), "b1a": (c, b1a, 1), "b1b": (b1a, b1b, 3), "b2a": (c, b2a, 1)}
        branches |= {"b2b": (b2a, b2b, 3), "b3b": (c, b3b, 1)}
        units |= {f"{name}.{branch}": shape for branch, shape in branches.items()}
    shapes = {"logits.conv3d.weight": (400, 1024, 1, 1, 1), "logits.conv3d.bias": (400,)}
    for name, (before, after, k) in units.items():
        shapes[f"{name}.conv3d.weight"] = (after, before, k, k, k)
        shapes |= {f"{name}.bn.{v}": (after,) for v in ("weight", "bias", "running_mean", "running_var")}
    return shapes


def small(**options):
    torch.manual_seed(1)
    return InceptionI3d(5, 0.125, **options).eval()


def test_i3d_has_published_parameter_names_and_shapes():
    found = {k: tuple(v.shape) for k, v in InceptionI3d().state_dict().items() if not k.endswith("num_batches_tracked")}
    assert found == published()


def test_i3d_has_published_size():
    # 12.3 M without, 12.7 M with Kinetics' 400 classes.
    assert sum(p.numel() for p in InceptionI3d(0).parameters()) == 12_287_264
    assert sum(p.numel() for p in InceptionI3d().parameters()) == 12_697_264


def test_i3d_feature_maps_have_published_shapes():
    with torch.device("meta"):
        network = InceptionI3d(0)
        x = torch.empty(2, 3, 64, 224, 224)
        assert network.forward_features(x, until="MaxPool3d_5a_2x2").shape == (2, 832, 8, 7, 7)
        assert network.forward_features(x).shape == (2, 1024, 8, 7, 7)
    assert network.channels["Mixed_5c"] == 1024 and network.channels["Mixed_4f"] == 832


def same_by_hand(x, kernel, stride):
    """TensorFlow: ⌈n / s⌉ outputs; zeros beyond both ends, one more at the end if their number is odd."""
    pads = []
    for n, k, s in zip(x.shape[2:], kernel, stride, strict=True):
        over = max((-(-n // s) - 1) * s + k - n, 0)
        pads = [over // 2, over - over // 2, *pads]
    return functional.pad(x, pads)


@pytest.mark.parametrize("shape", [(8, 10, 12), (7, 9, 11), (4, 5, 6), (1, 1, 2)])
@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 1), (1, 1)])
def test_unit_3d_pads_as_tensorflow(shape, kernel, stride):
    torch.manual_seed(2)
    unit = Unit3d(2, 3, kernel, stride, logits=True)
    x = torch.randn(2, 2, *shape)
    padded = same_by_hand(x, (kernel,) * 3, (stride,) * 3)
    expected = functional.conv3d(padded, unit.conv3d.weight, unit.conv3d.bias, stride)
    torch.testing.assert_close(unit(x), expected)
    assert expected.shape[2:] == tuple(-(-n // stride) for n in shape)


@pytest.mark.parametrize("shape", [(8, 10, 12), (7, 9, 11), (4, 5, 6), (1, 1, 2)])
@pytest.mark.parametrize(
    ("kernel", "stride"),
    [((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (2, 2, 2)), ((2, 2, 2), (2, 2, 2)), ((3, 3, 3), (1, 1, 1))],
)
def test_max_pool_pads_as_tensorflow(shape, kernel, stride):
    torch.manual_seed(3)
    x = torch.randn(2, 2, *shape).relu()
    expected = functional.max_pool3d(same_by_hand(x, kernel, stride), kernel, stride)
    torch.testing.assert_close(MaxPool3dSame(kernel, stride)(x), expected)


def test_unit_3d_equals_reference():
    """Convolution, batch norm with ε = 0.001, ReLU, one output element at a time."""
    torch.manual_seed(4)
    unit = Unit3d(2, 3, 3).eval()
    with torch.no_grad():
        for values in (unit.bn.weight, unit.bn.bias, unit.bn.running_mean, unit.bn.running_var):
            values.uniform_(0.2, 1.0)
        x = torch.randn(1, 2, 3, 4, 5)
        found = unit(x)[0].numpy()
    weight, bn = unit.conv3d.weight.detach().numpy(), {k: v.numpy() for k, v in unit.bn.state_dict().items()}
    padded = np.pad(x[0].numpy(), ((0, 0), (1, 1), (1, 1), (1, 1)))
    for c, t, h, w in np.ndindex(*found.shape):
        total = (weight[c] * padded[:, t : t + 3, h : h + 3, w : w + 3]).sum()
        normed = (total - bn["running_mean"][c]) / np.sqrt(bn["running_var"][c] + 1e-3)
        assert found[c, t, h, w] == pytest.approx(max(normed * bn["weight"][c] + bn["bias"][c], 0), abs=1e-5)


def test_average_pool_spans_image_and_two_steps():
    x = torch.randn(2, 4, 8, 7, 7)
    torch.testing.assert_close(average_pool(x), functional.avg_pool3d(x, (2, 7, 7), stride=1))
    assert average_pool(x[:, :, :1]).shape == (2, 4, 1, 1, 1)


def test_i3d_logits_are_averaged_over_time():
    network, x = small(), torch.randn(2, 3, 32, 32, 32)
    with torch.no_grad():
        pooled = functional.avg_pool3d(network.forward_features(x), (2, 1, 1), stride=1)
        weight, bias = network.logits.conv3d.weight.reshape(5, -1), network.logits.conv3d.bias
        steps = torch.stack([pooled[:, :, t, 0, 0] @ weight.T + bias for t in range(pooled.shape[2])])
        torch.testing.assert_close(network(x), steps.mean(dim=0))


@pytest.mark.parametrize("at", ["Conv3d_2c_3x3", "Mixed_4c", "MaxPool3d_5a_2x2", "Mixed_5c"])
def test_forward_features_in_two_parts_gives_same_output(at):
    network, x = small(), torch.randn(1, 3, 8, 32, 32)
    rest = InceptionI3d(5, 0.125, network.channels[at], after=at).eval()
    rest.load_state_dict({k: v for k, v in network.state_dict().items() if k in rest.state_dict()})
    with torch.no_grad():
        whole, half = network.forward_features(x), network.forward_features(x, until=at)
        torch.testing.assert_close(rest.forward_features(half), whole)
        torch.testing.assert_close(rest(half), network(x))
    assert [name for name, _ in rest.named_children() if name in ENDPOINTS] == list(
        ENDPOINTS[ENDPOINTS.index(at) + 1 :]
    )


def test_forward_features_unknown_endpoint_refused():
    with pytest.raises(ConfigError, match="no endpoint 'Mixed_6a'; known: Conv3d_1a_7x7, "):
        small().forward_features(torch.zeros(1, 3, 8, 32, 32), until="Mixed_6a")


def test_i3d_other_inputs_and_widths_work():
    flow = InceptionI3d(5, 0.125, in_channels=2).eval()
    assert flow(torch.zeros(1, 2, 8, 33, 47)).shape == (1, 5)
    assert flow.channels["Mixed_5c"] == 128
    assert image_spec("body_crop", 64, 224).shape == (3, 64, 224, 224)
