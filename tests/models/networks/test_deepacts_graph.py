import io

import numpy as np
import onnx
import pytest
import torch

import actrec_models.networks
from actrec.skeleton import layouts
from actrec.utils.errors import ConfigError, PackageError
from actrec_models.export import onnx_graph
from actrec_models.layers.st_gcn import GraphConvolution, partition
from actrec_models.training import checkpoints


def network(**options):
    torch.manual_seed(1)
    small = {"width": 8, "modalities": ("body", "bones")}
    return actrec_models.networks.create("deepacts_graph", num_classes=10, **{**small, **options})


def batch_for(model, size=4):
    rng = torch.Generator().manual_seed(2)
    inputs = {s.name: torch.randn(size, *s.shape, generator=rng) for s in model.input_specs}
    return {**inputs, "label": torch.arange(size) % 10}


def test_create_unknown_network_refused():
    assert "deepacts_graph" in actrec_models.networks.list_models()
    with pytest.raises(ConfigError, match=r"unknown network 'lstm'; known: .*deepacts_graph"):
        actrec_models.networks.create("lstm", num_classes=3)
    with pytest.raises(ConfigError, match="unknown option depth"):
        network(depth=3)


def test_deepacts_graph_has_published_size():
    # ST-GCN has 3.1 M parameters; two branches, without the classes of Kinetics.
    model = actrec_models.networks.create("deepacts_graph", num_classes=60, modalities=("body", "bones"))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(2 * 3.1e6, rel=0.02)


def test_graph_convolution_equals_equation_3():
    """f_out = Σ_k W_k (f_in A_k) ∘ M_k, one output element at a time."""
    torch.manual_seed(3)
    adjacency = partition("kinect_v2_25")
    layer = GraphConvolution(3, 4, adjacency)
    with torch.no_grad():
        layer.mask.uniform_(0.5, 1.5)
        f_in = torch.randn(2, 3, 5, 25)
        found = layer(f_in).numpy()
    weight = layer.weight.weight.detach().numpy().reshape(3, 4, 3)  # K, C_out, C_in
    bias = layer.weight.bias.detach().numpy().reshape(3, 4)
    masked = (adjacency * layer.mask).detach().numpy()
    expected = np.zeros((2, 4, 5, 25))
    for k in range(3):
        projected = np.einsum("oc,nctv->notv", weight[k], f_in.numpy()) + bias[k][None, :, None, None]
        for w in range(25):
            expected[..., w] += sum(projected[..., v] * masked[k, v, w] for v in range(25))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("layout", ["kinect_v2_25", "hand_21", "face_68"])
def test_partition_contains_each_edge_once(layout):
    parts = partition(layout).numpy()
    linked = np.eye(len(layouts.get(layout)), dtype=bool)
    for a, b in layouts.get(layout).edges:
        linked[a, b] = linked[b, a] = True
    assert ((parts != 0).sum(axis=0) == linked).all()
    np.testing.assert_allclose(parts.sum(axis=(0, 1)), 1.0, atol=1e-6)
    np.testing.assert_array_equal(parts[1] != 0, (parts[2] != 0).T)


def test_deepacts_graph_same_seed_gives_same_step():
    losses = []
    for _ in range(2):
        model = network()
        batch = batch_for(model)
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        first = model.losses(batch)["loss"]
        first.backward()
        optimizer.step()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
        losses.append((first.item(), model.losses(batch)["loss"].item()))
    assert losses[0] == losses[1]
    assert losses[0][1] < losses[0][0]


def test_deepacts_graph_sums_branch_scores():
    model = network().eval()
    batch = batch_for(model)
    inputs = {n: batch[n] for n in ("body", "bones")}
    with torch.no_grad():
        parts = [model.branches[n](inputs[n]) for n in inputs]
        torch.testing.assert_close(model(**inputs), parts[0] + parts[1])


@pytest.mark.parametrize("options", [{}, {"bodies": 2}, {"modalities": ("bones",)}])
def test_deepacts_graph_export_has_static_shapes(options):
    model = network(**options)
    for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.running_mean.uniform_(-0.2, 0.2)
    graph = onnx.load(io.BytesIO(onnx_graph.to_onnx(model))).graph
    for value, spec in zip(graph.input, model.input_specs, strict=True):
        sizes = [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        assert sizes == ["batch", *spec.shape]


def test_export_disagreement_refused(monkeypatch):
    model = network()
    monkeypatch.setattr(onnx_graph, "PARITY", 0.0)
    with pytest.raises(PackageError, match="not written"):
        onnx_graph.to_onnx(model)


def test_open_checkpoint_foreign_file_refused(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "boom"), "w"))

    torch.save({"hyper_parameters": Bomb()}, tmp_path / "bomb.ckpt")
    torch.save({"weights": torch.zeros(2)}, tmp_path / "foreign.ckpt")
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    for name in ("bomb", "foreign", "text", "missing"):
        with pytest.raises(PackageError, match=f"{name}.ckpt"):
            checkpoints.open_checkpoint(tmp_path / f"{name}.ckpt")
    assert not (tmp_path / "boom").exists()
