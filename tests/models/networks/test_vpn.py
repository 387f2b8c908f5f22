from pathlib import Path

import numpy as np
import pytest
import torch

import actrec_models.networks
from actrec.skeleton import layouts
from actrec.utils.errors import ConfigError
from actrec_models.export import onnx_graph
from actrec_models.layers.cnn3d import InceptionI3d, ResNext3d
from actrec_models.networks import vpn
from actrec_models.networks.vpn import (
    Attention,
    PoseGraphs,
    SpatialEmbedding,
    VpnI3d,
    VpnLayer,
    VpnLayerConfig,
    VpnResnext101,
)
from actrec_models.training import initial_weights

LAYOUT = "kinect_v2_25"
SMALL = {"frames": 16, "size": 64, "poses": 8, "width": 0.125, "embedding_size": 16}
NAMES = ("vpn_i3d", "vpn_resnext101")
SHAPE = (6, 3, 2, 4)  # c, t_c, m, n


def network(name="vpn_i3d", **options):
    torch.manual_seed(1)
    return actrec_models.networks.create(name, num_classes=5, **{**SMALL, **options})


def batch_for(net, size=3):
    rng = torch.Generator().manual_seed(2)
    batch = {s.name: torch.randn(size, *s.shape, generator=rng) for s in net.input_specs}
    return {**batch, "label": torch.arange(size) % 5}


def layer(**options):
    torch.manual_seed(3)
    return VpnLayer(SHAPE, VpnLayerConfig(**{"poses": 8, "embedding_size": 5, **options}), LAYOUT).eval()


def feature_map_and_poses(size=2):
    rng = torch.Generator().manual_seed(4)
    return torch.randn(size, *SHAPE, generator=rng).relu(), torch.randn(size, 3, 8, 25, generator=rng)


def numpy_of(module):
    return {name: value.detach().double().numpy() for name, value in module.state_dict().items()}


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


# --- attention network ---


def test_pose_graphs_equal_equation_1():
    """Eq. 1, one joint and one pose at a time."""
    alpha, beta = 5.0, 2.0
    parents = layouts.get(LAYOUT).parents
    E = np.zeros((25, 25))
    for i, j in np.ndindex(25, 25):
        connected = parents[i] == j or parents[j] == i
        E[i, j] = 0 if i == j else alpha if connected else beta
    degree = [sum(E[i, j] + (i == j) for j in range(25)) for i in range(25)]
    graphs = PoseGraphs(vpn.normalized_adjacency(LAYOUT, alpha, beta), poses=4)
    P = torch.randn(2, 3, 4, 25, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = graphs(P).numpy()
    W = graphs.weight.detach().numpy()
    assert len({W_t.tobytes() for W_t in W}) == 4  # each pose has its own W_t
    expected = np.zeros((2, 64, 4, 25))
    for n, t, i in np.ndindex(2, 4, 25):
        gathered = sum((E[i, j] + (i == j)) / np.sqrt(degree[i] * degree[j]) * P[n, :, t, j].numpy() for j in range(25))
        expected[n, :, t, i] = gathered @ W[t]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_attention_network_equals_equation_2():
    net = layer()
    _, P = feature_map_and_poses()
    with torch.no_grad():
        z_1, A_S, A_T = net.attention(P)
        h = net.attention.backbone(P).double().numpy()
    w = numpy_of(net.attention)
    z = [
        np.tanh(h @ w[f"{r}.0.weight"].T + w[f"{r}.0.bias"]) @ w[f"{r}.2.weight"].T + w[f"{r}.2.bias"]
        for r in ("spatial", "temporal")
    ]
    np.testing.assert_allclose(z_1, z[0], atol=1e-5)
    np.testing.assert_allclose(A_S, 1 / (1 + np.exp(-z[0])), atol=1e-5)
    np.testing.assert_allclose(A_T, softmax(z[1]), atol=1e-5)
    assert A_S.shape == (2, 2 * 4) and A_T.shape == (2, 3)


def test_vpn_layer_coupled_equals_reference():
    """f′ = f + A_ST·f, A_ST = inflate(A_S) ∘ inflate(A_T), one element at a time."""
    net = layer()
    f, P = feature_map_and_poses()
    with torch.no_grad():
        modulated, attention = net(f, P)
    A_S, A_T = attention.A_S.reshape(2, 2, 4), attention.A_T
    expected = np.zeros(f.shape)
    for n, c, t, i, j in np.ndindex(*f.shape):
        expected[n, c, t, i, j] = f[n, c, t, i, j] * (1 + A_S[n, i, j] * A_T[n, t])
    np.testing.assert_allclose(modulated, expected, atol=1e-5)


def test_vpn_layer_dissociated_and_spatial_equal_reference():
    f, P = feature_map_and_poses()
    with torch.no_grad():
        both, attention = layer(attention="dissociated")(f, P)
        spatial, only = layer(attention="spatial")(f, P)
    A_S = attention.A_S.reshape(2, 1, 1, 2, 4)
    assert both.shape == (2, 12, 3, 2, 4)
    np.testing.assert_allclose(both[:, :6], f * (1 + A_S), atol=1e-6)
    np.testing.assert_allclose(both[:, 6:], f * (1 + attention.A_T.reshape(2, 1, 3, 1, 1)), atol=1e-6)
    assert only.A_T is None
    np.testing.assert_allclose(spatial, f * (1 + only.A_S.reshape(2, 1, 1, 2, 4)), atol=1e-6)


def test_gcn_backbone_equals_reference():
    """[f⁺] + residual, then three convolutions (64, 64, 128) with batch norm and ReLU, pooled after the last two."""
    backbone = layer().attention.backbone
    P = feature_map_and_poses()[1]
    w = numpy_of(backbone)
    assert [w[f"convolutions.{i}.weight"].shape[:2] for i in (0, 3, 7)] == [(64, 64), (64, 64), (128, 64)]
    with torch.no_grad():
        x = backbone.graphs(P).double().numpy()
        found = backbone(P).numpy()
    residual = np.tensordot(P.numpy(), w["residual.weight"][:, :, 0, 0], (1, 1)).transpose(0, 3, 1, 2)
    x = x + residual + w["residual.bias"][:, None, None]
    for i, pooled in ((0, False), (3, True), (7, True)):
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        kernel, (t, v) = w[f"convolutions.{i}.weight"], x.shape[2:]
        x = w[f"convolutions.{i}.bias"][:, None, None] + sum(
            np.einsum("oc,nctv->notv", kernel[:, :, a, b], padded[:, :, a : a + t, b : b + v])
            for a, b in np.ndindex(3, 3)
        )
        x = np.maximum(x / np.sqrt(1 + 1e-5), 0)  # fresh statistics: mean 0, variance 1
        if pooled:
            t, v = t // 2, v // 2
            x = x[:, :, : 2 * t, : 2 * v].reshape(2, -1, t, 2, v, 2).max(axis=(3, 5))
    np.testing.assert_allclose(found, x.reshape(2, -1), atol=1e-4)


def test_lstm_backbone_returns_states_of_all_poses():
    net = layer(pose_backbone="lstm")
    lstm = net.attention.backbone.lstm
    assert (lstm.input_size, lstm.hidden_size, lstm.num_layers) == (75, 512, 3)
    P = feature_map_and_poses()[1]
    with torch.no_grad():
        h = net.attention.backbone(P)
        later = P.clone()
        later[:, :, 5:] += 1
        changed = net.attention.backbone(later)
    assert h.shape == (2, 8 * 512)
    np.testing.assert_array_equal(h[:, : 5 * 512], changed[:, : 5 * 512])
    assert not torch.allclose(h[:, 5 * 512 :], changed[:, 5 * 512 :])


# --- spatial embedding ---


def literal_embedding(embedding, f, z_1):
    """Eq. 3 in numpy: f_e and P_e with matrices of unit norm."""
    w = numpy_of(embedding)
    T_v, T_p = (T / np.linalg.svd(T, compute_uv=False)[0] for T in (w["visual"], w["pose"]))
    f_s = np.stack([sum(clip[:, t] for t in range(clip.shape[1])).reshape(-1) for clip in f.double().numpy()])
    return f_s @ T_v.T, z_1.double().numpy() @ T_p.T


def test_spatial_embedding_equals_equations_3_and_4():
    embedding = layer().embedding
    f, z_1 = feature_map_and_poses()[0], torch.randn(2, 8)
    f_e, P_e = literal_embedding(embedding, f, z_1)
    with torch.no_grad():
        found = embedding(f, z_1)
        loss = embedding.loss(f, z_1)
    np.testing.assert_allclose(found[0], f_e, atol=1e-5)
    np.testing.assert_allclose(found[1], P_e, atol=1e-5)
    hats = [e / np.linalg.norm(e, axis=1, keepdims=True) for e in (f_e, P_e)]
    expected = np.mean([np.sum((a - b) ** 2) for a, b in zip(*hats, strict=True)])
    assert float(loss) == pytest.approx(expected, abs=1e-5)
    assert 0 <= float(loss) <= 4


def test_spatial_embedding_kl_equals_reference():
    """Table 3: D_KL(p‖q) = Σ p log (p / q) of the softmax distributions."""
    f, z_1 = feature_map_and_poses()[0], torch.randn(2, 8)
    found = {}
    for kind in ("kl_visual_pose", "kl_pose_visual", "kl_bidirectional"):
        embedding = layer(embedding=kind).embedding
        with torch.no_grad():
            found[kind] = float(embedding.loss(f, z_1))
    p, q = (softmax(e) for e in literal_embedding(embedding, f, z_1))
    expected = np.mean((p * np.log(p / q)).sum(axis=1)), np.mean((q * np.log(q / p)).sum(axis=1))
    assert found["kl_visual_pose"] == pytest.approx(expected[0], abs=1e-5)
    assert found["kl_pose_visual"] == pytest.approx(expected[1], abs=1e-5)
    assert found["kl_bidirectional"] == pytest.approx(sum(expected), abs=1e-5)


@pytest.mark.parametrize("shape", [(5, 48), (48, 5), (7, 7)])
def test_unit_norm_divides_by_largest_singular_value(shape):
    T = torch.randn(shape, generator=torch.Generator().manual_seed(5), requires_grad=True)
    unit = vpn.unit_norm(T)
    assert float(torch.linalg.matrix_norm(unit.detach(), 2)) == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_allclose(vpn.unit_norm(10 * T).detach(), unit.detach(), atol=1e-6)
    unit.sum().backward()
    # The norm is taken out of the gradient: a longer T is the same T / ‖T‖.
    assert float((T.grad * T.detach()).sum()) == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize(
    "kind, visual, pose",
    [
        ("euclidean", True, True),
        ("kl_visual_pose", False, True),
        ("kl_pose_visual", True, False),
        ("kl_bidirectional", True, True),
    ],
)
def test_spatial_embedding_gradients_follow_kind(kind, visual, pose):
    net = network(embedding=kind)
    net.losses(batch_for(net))["embedding"].backward()

    def taught(module):
        return any(p.grad is not None and bool(p.grad.abs().max() > 0) for p in module.parameters())

    assert taught(net.visual) is visual
    assert taught(net.vpn.attention.backbone) is pose
    assert not taught(net.fc)


# --- losses ---


def test_attention_regularizer_equals_equation_6():
    rng = np.random.default_rng(1)
    A_S, A_T = rng.uniform(0, 1, (2, 6)), softmax(rng.normal(size=(2, 3)))
    expected = np.mean([sum(abs(a) for a in A_S[n]) + sum((1 - a) ** 2 for a in A_T[n]) for n in range(2)])
    spatial = np.mean(A_S.sum(axis=1))
    made = [torch.from_numpy(x) for x in (A_S, A_S, A_T)]
    assert float(vpn.attention_regularizer(Attention(*made))) == pytest.approx(expected)
    assert float(vpn.attention_regularizer(Attention(made[0], made[1], None))) == pytest.approx(spatial)


@pytest.mark.parametrize("name", NAMES)
def test_vpn_loss_equals_equation_5(name):
    net = network(name, lambda_1=0.7, lambda_2=0.01).eval()
    batch = batch_for(net)
    with torch.no_grad():
        parts = net.losses(batch)
    logits = parts["logits"].double().numpy()
    L_C = np.mean([-np.log(softmax(row)[label]) for row, label in zip(logits, batch["label"], strict=True)])
    assert float(parts["classification"]) == pytest.approx(L_C, rel=1e-4)
    expected = 0.7 * L_C + 0.3 * float(parts["embedding"]) + 0.01 * float(parts["attention"])
    assert float(parts["loss"]) == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(net(**{s.name: batch[s.name] for s in net.input_specs}).detach(), logits, atol=1e-5)


def test_vpn_losses_of_ablations_are_consistent():
    """Without embedding the loss is L_C + λ2·L_a, of the visual backbone alone L_C."""
    for attention, parts in (("coupled", 2), ("none", 1)):
        net = network(attention=attention, embedding="none", lambda_2=0.5).eval()
        with torch.no_grad():
            found = {k: float(v) for k, v in net.losses(batch_for(net)).items() if k != "logits"}
        assert found["embedding"] == 0
        expected = found["classification"] + 0.5 * found["attention"]
        assert found["loss"] == pytest.approx(expected if parts == 2 else found["classification"])
        assert (found["attention"] > 0) is (parts == 2)


def test_vpn_outliers_are_ignored_in_classification():
    net = network().eval()
    batch = batch_for(net)
    batch["label"][0] = -1
    with torch.no_grad():
        parts = net.losses(batch)
    logits = parts["logits"].double().numpy()
    expected = np.mean([-np.log(softmax(logits[i])[batch["label"][i]]) for i in (1, 2)])
    assert float(parts["classification"]) == pytest.approx(expected, rel=1e-4)


# --- the networks ---


def test_vpn_has_published_shapes_and_sizes():
    with torch.device("meta"):
        sizes = {name: actrec_models.networks.create(name, num_classes=60) for name in NAMES}
        large = actrec_models.networks.create("vpn_i3d", num_classes=60, poses=30)
    i3d, resnext = sizes["vpn_i3d"], sizes["vpn_resnext101"]
    assert isinstance(i3d, VpnI3d) and isinstance(resnext, VpnResnext101)
    assert {s.name: s.shape for s in i3d.input_specs} == {"body_crop": (3, 64, 224, 224), "pose": (3, 20, 25)}
    assert {s.name: s.shape for s in resnext.input_specs} == {"body_crop": (3, 64, 112, 112), "pose": (3, 20, 25)}
    assert {s.name: s.shape for s in large.input_specs}["pose"] == (3, 30, 25)
    assert (i3d.vpn.m, i3d.vpn.n, i3d.vpn.steps, i3d.fc.in_features) == (7, 7, 8, 1024)
    assert (resnext.vpn.m, resnext.vpn.n, resnext.vpn.steps, resnext.fc.in_features) == (4, 4, 4, 2048)
    assert i3d.vpn.embedding.visual.shape == (256, 7 * 7 * 1024)

    def live(net):
        return sum(p.numel() for name, p in net.named_parameters() if "embedding" not in name)

    # "One-third parameters compared to [7]": P-I3D has three I3D of 12.3 M each, and its attention.
    assert live(i3d) == pytest.approx(3 * 12.3e6 / 3, rel=0.2)
    assert live(resnext) == pytest.approx(47.5e6, rel=0.05)


LSTM = {"pose_backbone": "lstm", "lstm_units": 32}
ABLATIONS = {
    "l1": {"attention": "none", "embedding": "none"},
    "l2": {"embedding": "none"},
    "l3": {},
    "l4": {**LSTM, "attention": "dissociated"},
    "l5": {"attention": "dissociated"},
    "l6": LSTM,
    "table 4, LSTM": {**LSTM, "attention": "spatial", "embedding": "none"},
    "table 4, GCN": {"attention": "spatial"},
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("frames, size, poses", [(27, 70, 5), (40, 48, 30)])
def test_vpn_other_sizes_work(name, frames, size, poses):
    net = network(name, frames=frames, size=size, poses=poses)
    assert net.losses(batch_for(net, 2))["logits"].shape == (2, 5)


@pytest.mark.slow
def test_vpn_ablations_differ_and_learn():
    counts, losses = {}, {}
    for row, options in ABLATIONS.items():
        net = network(**options)
        batch = batch_for(net)
        parts = net.losses(batch)
        parts["loss"].backward()
        assert all(p.grad is not None for p in net.parameters()), row
        counts[row] = sum(p.numel() for p in net.parameters())
        losses[row] = float(parts["loss"])
    assert len(set(counts.values())) == len(set(losses.values())) == len(ABLATIONS)
    assert [s.name for s in network(**ABLATIONS["l1"]).input_specs] == ["body_crop"]


@pytest.mark.parametrize(
    "name, options",
    [("vpn_i3d", ABLATIONS["l4"]), ("vpn_i3d", ABLATIONS["table 4, LSTM"]), ("vpn_resnext101", ABLATIONS["l1"])],
)
def test_vpn_ablations_are_exported(name, options):
    onnx_graph.to_onnx(network(name, **options))


@pytest.mark.parametrize("name, port", [("vpn_i3d", InceptionI3d), ("vpn_resnext101", ResNext3d)])
def test_vpn_loads_kinetics_checkpoints(tmp_path, name, port):
    torch.manual_seed(7)
    kinetics = port(400, width=SMALL["width"]).state_dict()
    torch.save({"state_dict": {f"module.{key}": value for key, value in kinetics.items()}}, tmp_path / "kinetics.pth")
    net = network(name)
    report = initial_weights.load(net, name, tmp_path / "kinetics.pth")
    found = net.visual.state_dict()
    assert report.missing == report.reshaped == report.unfit == ()
    assert len(report.loaded) == len(found)
    assert all(key.startswith(("fc.", "logits.")) for key in report.unexpected)
    for key, value in found.items():
        torch.testing.assert_close(value, kinetics[key])


def test_vpn_exported_graph_has_no_embedding():
    net = network()
    assert b"vpn.embedding" not in onnx_graph.to_onnx(net)
    before = net.eval()(**(inputs := onnx_graph.example_inputs(net, 1)))
    torch.nn.init.zeros_(net.vpn.embedding.visual)
    torch.testing.assert_close(net(**inputs), before)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"poses": 20, "frames": 16}, "poses is 20, but a clip has 16 frames"),
        ({"attention": "none"}, "no z_1 to embed"),
        ({"embedding": "cosine"}, "VpnConfig.embedding is 'cosine', allowed: euclidean"),
        ({"pose_backbone": "gru"}, "allowed: gcn, lstm"),
        ({"poses": 2}, "allowed: 4 to 64"),
        ({"coupler": False}, "unknown option coupler"),
    ],
)
def test_vpn_bad_options_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        network(**options)


def test_vpn_layer_accepts_any_layout():
    options = VpnLayerConfig(poses=8)
    for layout, joints in (("kinect_v1_20", 20), ("mediapipe_33", 33)):
        f, _ = feature_map_and_poses()
        modulated, _ = VpnLayer(SHAPE, options, layout)(f, torch.randn(2, 3, 8, joints))
        assert modulated.shape == f.shape
    assert isinstance(layer().embedding, SpatialEmbedding)


@pytest.mark.parametrize("options", [{}, {"attention": "dissociated", "embedding": "kl_visual_pose"}])
def test_vpn_stage_visual_trains_backbone_alone(options):
    net = network(dropout=0.0, **options).eval()
    batch, before = batch_for(net), {name: p.requires_grad for name, p in net.named_parameters()}
    net.stage("visual")
    assert [spec.name for spec in net.stage_input_specs] == ["body_crop"]
    found = net.losses({"body_crop": batch["body_crop"], "label": batch["label"]})
    pooled = net.visual.forward_features(batch["body_crop"]).mean(dim=(2, 3, 4))
    copies = 2 if options else 1
    torch.testing.assert_close(found["logits"], net.fc(torch.cat([pooled] * copies, dim=1)))
    torch.testing.assert_close(found["loss"], torch.nn.functional.cross_entropy(found["logits"], batch["label"]))
    found["loss"].backward()
    learnt = {name for name, p in net.named_parameters() if p.grad is not None}
    assert learnt == {name for name, p in net.named_parameters() if p.requires_grad}
    assert all(name.startswith(("visual.", "fc.")) for name in learnt)
    net.stage("joint")
    assert {name: p.requires_grad for name, p in net.named_parameters()} == before
    assert len(net.stage_input_specs) == 2
    with pytest.raises(ConfigError, match="VPN has no stage 'parts'; it has: visual, joint"):
        net.stage("parts")


def test_vpn_on_nucla_takes_the_backbone_of_ntu(caplog):
    ntu, nucla = network(poses=8), actrec_models.networks.create("vpn_i3d", num_classes=3, **{**SMALL, "poses": 5})
    weights = initial_weights.WeightFile(Path("stage_1_visual/last.ckpt"), ntu.state_dict(), "vpn_i3d", 5)
    initial_weights.load(nucla, "vpn_i3d", weights)
    for name, value in ntu.visual.state_dict().items():
        assert torch.equal(nucla.visual.state_dict()[name], value)
