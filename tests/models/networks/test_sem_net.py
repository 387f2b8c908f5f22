import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

import actrec_models.networks
from actrec.utils.errors import ConfigError
from actrec_models.networks.sem_net import GrCfsa, MultiScaleFeedForward, SemBlock, SemNetConfig
from benchmarks.networks import complexity

SMALL = {"channels": (8, 16), "strides": (2, 1), "heads": 2, "embedding": 4, "frames": 8}
TABLE_1 = {"unified": 39.7, "single_frame": 7.5, "cross_frame": 7.4}
TABLE_2 = {  # kernels, dilations: GFLOPs, million parameters
    ((3,), (1,)): (9.2, 6.4),
    ((9,), (1,)): (13.9, 10.5),
    ((3, 5, 7, 9), (1, 1, 1, 1)): (8.0, 5.3),
    ((3, 3, 3, 3), (1, 3, 5, 7)): (7.4, 4.8),
}


def network(**options):
    torch.manual_seed(1)
    made = actrec_models.networks.create("sem_net", num_classes=5, **{**SMALL, **options}).eval()
    for name, value in made.named_parameters():
        if name.endswith("alpha_hat"):  # as training leaves it
            torch.nn.init.normal_(value)
    return made


def published(**options):
    with torch.device("meta"):  # sizes need no values
        return actrec_models.networks.create("sem_net", num_classes=60, **options)


@pytest.mark.parametrize("attention", TABLE_1)
def test_sem_net_has_gflops_of_table_1(attention):
    found = complexity(published(attention=attention, global_regularization=False))
    assert found.multiply_adds / 1e9 == pytest.approx(TABLE_1[attention], rel=0.10)


def test_sem_net_attention_kinds_have_equal_parameters():
    sizes = {complexity(published(attention=a, global_regularization=False)).parameters for a in TABLE_1}
    assert len(sizes) == 1


@pytest.mark.parametrize("form", TABLE_2)
def test_sem_net_has_gflops_and_parameters_of_table_2(form):
    gflops, million = TABLE_2[form]
    found = complexity(published(kernels=form[0], dilations=form[1]))
    assert found.multiply_adds / 1e9 == pytest.approx(gflops, rel=0.10)
    assert found.parameters / 1e6 == pytest.approx(million, rel=0.05)


def attention_layer(mode, regularized=True, channels=3, joints=5):
    torch.manual_seed(2)
    options = SemNetConfig(heads=2, embedding=4, attention=mode, global_regularization=regularized, beta=1.5)
    layer = GrCfsa(channels, joints, options)
    if regularized:
        torch.nn.init.normal_(layer.alpha_hat)
    return layer


def embeddings(layer, x):
    """f1 and f2 of x [C, T, V] as [S, T, V, C_e], by plain sums."""
    made = []
    for f in (layer.f1, layer.f2):
        weight, bias = f.weight.detach().numpy()[:, :, 0, 0], f.bias.detach().numpy()
        value = np.einsum("ec,ctv->etv", weight, x) + bias[:, None, None]
        made.append(value.reshape(2, 4, *x.shape[1:]).transpose(0, 2, 3, 1))
    return made


def softmax(values):
    raised = np.exp(values - values.max())
    return raised / raised.sum()


def test_attention_unified_equals_equations_2_and_3():
    layer, x = attention_layer("unified", regularized=False), np.random.default_rng(1).normal(size=(3, 4, 5))
    f1, f2 = embeddings(layer, x)
    expected = np.zeros((2, 3, 4, 5))
    for s in range(2):
        for t1 in range(4):
            for n1 in range(5):
                alpha = np.array([[1.5 * f1[s, t1, n1] @ f2[s, t2, n2] for n2 in range(5)] for t2 in range(4)])
                weights = softmax(alpha / np.sqrt(4))
                for t2 in range(4):
                    for n2 in range(5):
                        expected[s, :, t1, n1] += weights[t2, n2] * x[:, t2, n2]
    np.testing.assert_allclose(heads(layer, x), expected, atol=1e-5)


def test_attention_single_frame_equals_equations_4_and_5():
    layer, x = attention_layer("single_frame", regularized=False), np.random.default_rng(2).normal(size=(3, 4, 5))
    f1, f2 = embeddings(layer, x)
    expected = np.zeros((2, 3, 4, 5))
    for s in range(2):
        for t in range(4):
            for n1 in range(5):
                weights = softmax(np.array([1.5 * f1[s, t, n1] @ f2[s, t, n2] for n2 in range(5)]) / np.sqrt(4))
                expected[s, :, t, n1] = sum(weights[n2] * x[:, t, n2] for n2 in range(5))
    np.testing.assert_allclose(heads(layer, x), expected, atol=1e-5)


@pytest.mark.parametrize("regularized", [False, True], ids=["Eq. 6", "Eq. 7"])
def test_attention_cross_frame_equals_equations_6_and_7(regularized):
    """α from the correlations of every two frames; features still come from the same frame (Eq. 4)."""
    layer, x = attention_layer("cross_frame", regularized), np.random.default_rng(3).normal(size=(3, 4, 5))
    f1, f2 = embeddings(layer, x)
    beta = 1.5 / 4**2  # the layer's β is for means over the T = 4 frames instead of sums
    expected = np.zeros((2, 3, 4, 5))
    for s in range(2):
        for n1 in range(5):
            alpha = np.zeros(5)
            for n2 in range(5):
                alpha[n2] = beta * sum(f1[s, t1, n1] @ f2[s, t2, n2] for t1 in range(4) for t2 in range(4))
                if regularized:
                    alpha[n2] += layer.alpha_hat.detach().numpy()[s, n1, n2]
            weights = softmax(alpha / np.sqrt(4))
            for t in range(4):
                expected[s, :, t, n1] = sum(weights[n2] * x[:, t, n2] for n2 in range(5))
    np.testing.assert_allclose(heads(layer, x), expected, atol=1e-5)


def heads(layer, x):
    """[S, C, T, V] of one sample."""
    with torch.no_grad():
        return layer(torch.from_numpy(x[None]).float()).numpy().reshape(2, *x.shape)


@pytest.mark.parametrize("stride", [1, 2])
def test_multi_scale_feed_forward_equals_reference(stride):
    """Fig. 4: split by 1×1, one temporal window a branch, concatenated, added to the input."""
    torch.manual_seed(3)
    layer = MultiScaleFeedForward(4, stride, (3, 5), (1, 3)).eval()
    x = torch.randn(1, 4, 9, 2)
    with torch.no_grad():
        found = layer(x).numpy()[0]
        parts = layer.split(x).numpy()[0]
    outputs = list(range(0, 9, stride))
    assert found.shape == (4, len(outputs), 2)
    for b, (k, d) in enumerate(((3, 1), (5, 3))):
        branch = layer.branches[b]
        weight = branch.conv.weight.detach().numpy()[..., 0]  # (C / B, C / B, k)
        ahead = d * (k - 1) // 2
        for i, t in enumerate(outputs):
            value = branch.conv.bias.detach().numpy()[:, None] * np.ones((1, 2))
            for tap in range(k):
                at = t + ahead - d * (k - 1 - tap)
                if 0 <= at < 9:
                    value = value + weight[:, :, tap] @ parts[2 * b : 2 * b + 2, at]
            value = value / np.sqrt(1 + branch.norm.eps) + x.numpy()[0, 2 * b : 2 * b + 2, t]
            np.testing.assert_allclose(found[2 * b : 2 * b + 2, i], np.maximum(value, 0), atol=1e-5)


def test_sem_block_equals_reference():
    """Fig. 5: heads concatenated, linear, residual; MS-TFF, residual."""
    torch.manual_seed(4)
    options = SemNetConfig(heads=3, embedding=4, kernels=(3, 3), dilations=(1, 2))
    block: Any = SemBlock(6, 8, 1, 5, options).eval()
    x = torch.randn(2, 6, 7, 5)
    with torch.no_grad():
        found = block(x)
        h = block.attention(x)  # (N, S·C, T, V)
        assert h.shape == (2, 18, 7, 5)
        y = torch.zeros(2, 8, 7, 5)
        for (conv, norm), value in ((block.linear, h), (block.shortcut, x)):
            product = torch.einsum("oc,nctv->notv", conv.weight[:, :, 0, 0], value)
            y += (product + conv.bias[:, None, None]) / np.sqrt(1 + norm.eps)
        y = torch.relu(y)
        torch.testing.assert_close(found, block.feed_forward(y), atol=1e-5, rtol=1e-5)
    assert isinstance(SemBlock(8, 8, 1, 5, options).shortcut, torch.nn.Identity)


def test_sem_net_has_streams_of_table_3():
    assert [s.name for s in network(streams="joint").input_specs] == ["body"]
    assert [s.name for s in network(streams="bone").input_specs] == ["bones"]
    assert [s.name for s in network(streams="motion").input_specs] == ["body_motion", "bones_motion"]


@pytest.mark.parametrize(
    ("streams", "names"),
    [("fuse", ["body", "bones"]), ("four", ["body", "bones", "body_motion", "bones_motion"])],
)
def test_sem_net_softmax_is_sum_of_streams(streams, names):
    fused = network(streams=streams)
    assert [s.name for s in fused.input_specs] == names
    clip = {s.name: torch.randn(3, *s.shape) for s in fused.input_specs}
    with torch.no_grad():
        found = torch.softmax(fused(**clip), dim=1)
        scores = sum(torch.softmax(stream(clip[name]), dim=1) for name, stream in fused.streams.items())
        torch.testing.assert_close(found, scores / len(names))
        parts = fused.losses({**clip, "label": torch.tensor([0, 1, -1])})
    torch.testing.assert_close(parts["loss"], sum(parts[name] for name in names))
    assert complexity(fused).parameters == len(names) * complexity(network()).parameters


@pytest.mark.parametrize(
    "options",
    [
        {"attention": "unified"},
        {"attention": "single_frame"},
        {"global_regularization": False},
        {"kernels": (3,), "dilations": (1,)},
        {"kernels": (9,), "dilations": (1,)},
        {"kernels": (3, 5, 7, 9), "dilations": (1, 1, 1, 1)},
    ],
    ids=str,
)
def test_sem_net_every_option_changes_output(options):
    clip = {"body": torch.randn(2, 2, 3, 8, 25)}
    with torch.no_grad():
        plain, varied = network()(**clip), network(**options)(**clip)
    assert varied.shape == plain.shape == (2, 5)
    assert not torch.allclose(plain, varied)


def test_sem_net_hand_layout_works():
    model = network(layout="hand_22", bodies=1)
    (spec,) = model.input_specs
    assert (spec.layout, spec.shape) == ("hand_22", (1, 3, 8, 22))
    assert {spec.preprocessing[name] for name in ("center", "align", "scale")} == {"palm", "none", "hand"}
    assert model(body=torch.randn(2, *spec.shape)).shape == (2, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strides": (2,)}, "channels names 2 blocks and strides 1"),
        ({"dilations": (1, 2)}, "kernels names 4 branches and dilations 2"),
        ({"kernels": (3, 4, 3, 3)}, "kernels are .*odd"),
        ({"channels": (8, 10)}, "10 channels cannot be split into 4 branches"),
        ({"strides": (0, 1)}, "must be 1 and more"),
        ({"layout": "face_68"}, "layout is 'face_68', allowed: kinect_v2_25, hand_22"),
        ({"streams": "both"}, "streams is 'both', allowed: joint, bone, fuse, motion, four"),
    ],
)
def test_sem_net_bad_options_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        network(**options)


def test_sem_net_defaults_are_published():
    found = dataclasses.asdict(SemNetConfig())
    assert (found["bodies"], found["kernels"], found["dilations"]) == (2, (3, 3, 3, 3), (1, 3, 5, 7))
    assert (found["attention"], found["global_regularization"]) == ("cross_frame", True)


def test_sem_net_label_smoothing_applies_to_each_stream():
    torch.manual_seed(0)
    plain, smoothed = network(streams="fuse").eval(), network(streams="fuse", label_smoothing=0.1).eval()
    smoothed.load_state_dict(plain.state_dict())
    batch = {spec.name: torch.randn(3, *spec.shape) for spec in plain.input_specs} | {"label": torch.tensor([0, 2, 4])}
    expected = torch.zeros(())
    for name, stream in plain.streams.items():
        logs = torch.log_softmax(stream(batch[name]), dim=1)
        expected += (-0.9 * logs[range(3), batch["label"]] - 0.1 * logs.mean(dim=1)).mean()
    torch.testing.assert_close(smoothed.losses(batch)["loss"], expected)
    torch.testing.assert_close(smoothed.losses(batch)["logits"], plain.losses(batch)["logits"])
