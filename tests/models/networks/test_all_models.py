"""What every network of `list_models()` must satisfy, each in a small but structurally complete form (`small.py`)."""

import dataclasses
import re

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.torch
import torch

import actrec_models.networks
from actrec import features
from actrec.features.clips import example_clip, window_inputs
from actrec.utils.errors import ConfigError
from actrec_models.export import exporter, onnx_graph, precision
from actrec_models.export.onnx_graph import example_inputs
from actrec_models.networks.base import Network
from tests.core.inference.tensorrt import rtx
from tests.models.small import SMALL

CLASSES = 5
HALF_PRECISION = 0.1
"""Largest difference of a float16 graph's logits, relative to the spread of the float32 ones: at the
edge of a mask of joints, rounding decides."""
STEP = 0.01
"""Share of the loss by which a step is to lower it, if the loss were linear."""
LEFT_OUT = {"p_i3d": r"parts\.\w+\.logits\.|pose\.classifier\."}
"""Parameters that a network has for the earlier stages of its training alone."""

pytestmark = pytest.mark.parametrize("name", actrec_models.networks.list_models())


def small(name: str, seed: int = 1) -> Network:
    torch.manual_seed(seed)
    return actrec_models.networks.create(name, num_classes=CLASSES, **SMALL[name])


@pytest.fixture(scope="module")
def batches() -> dict[str, dict[str, torch.Tensor]]:
    """Inputs by network, made once: image inputs take longest."""
    return {}


@pytest.fixture
def batch(name: str, batches: dict[str, dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    if name not in batches:
        batches[name] = {**example_inputs(small(name), 4), "label": torch.arange(4) % CLASSES}
    return dict(batches[name])


def inputs_of(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in batch.items() if key != "label"}


def settled(name: str, batch: dict[str, torch.Tensor]) -> Network:
    """In evaluation mode, with statistics of normalization that fit the inputs, as a trained network has them."""
    network = small(name)
    norms = [m for m in network.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None  # the mean over the passes that follow
    network.train()
    with torch.no_grad():
        for _ in range(2):
            network(**inputs_of(batch))
    for norm in norms:
        # Over four clips a channel's variance can be all but zero; dividing by it would blow rounding errors up.
        norm.running_var += 0.3 * norm.running_var.mean()
    return network.eval()


def test_forward_gives_finite_logits_per_clip(name, batch):
    with torch.no_grad():
        logits = settled(name, batch)(**inputs_of(batch))
    assert logits.shape == (4, CLASSES)
    assert torch.isfinite(logits).all()
    assert (logits[0] != logits[1]).any(), "two different clips give the same logits"


def test_input_specs_match_features(name):
    network = small(name)
    specs, window = network.input_specs, network.window
    assert len({spec.name for spec in specs}) == len(specs)
    bodies = getattr(network.config, "bodies", 1)
    clip = example_clip(specs, window.frames, bodies, seed=3)
    made = window_inputs(clip, specs, window)
    assert len(made) == len(window.starts) >= 1
    for spec in specs:
        assert features.FEATURES.get(spec.modality), spec.modality
        for inputs in made:
            assert inputs[spec.name].shape == spec.shape, spec.name
            assert inputs[spec.name].dtype == np.float32, spec.name
            assert np.isfinite(inputs[spec.name]).all(), spec.name


def test_features_missing_joints_give_finite_inputs(name):
    network = small(name)
    specs, window = network.input_specs, network.window
    clip = example_clip(specs, window.frames, getattr(network.config, "bodies", 1), seed=4)
    for key in ("bodies", "pixels", "hands", "hand_pixels", "face", "face_pixels", "motion"):
        if key in clip:
            clip[key][:, : window.frames // 2, ..., 0:2, :] = np.nan
    clip["bodies"][:, 1] = np.nan
    for inputs in window_inputs(clip, specs, window):
        assert all(np.isfinite(value).all() for value in inputs.values())


def test_losses_reach_every_parameter(name, batch):
    network = small(name).train()
    left_out = re.compile(LEFT_OUT.get(name, "$^"))
    trained = {n: p for n, p in network.named_parameters() if p.requires_grad and not left_out.match(n)}
    losses = []
    for _ in range(2):
        torch.manual_seed(7)  # the same dropout before and after the step
        parts = network.losses(batch)
        losses.append(parts["loss"])
        assert parts["logits"].shape == (4, CLASSES)
        network.zero_grad()
        parts["loss"].backward()
        assert [n for n, p in trained.items() if p.grad is None or not torch.isfinite(p.grad).all()] == []
        steepness = sum((float(p.grad.square().sum()) for p in trained.values()), 0.0)
        optimizer = torch.optim.SGD(trained.values(), STEP * parts["loss"].item() / steepness)
        optimizer.step()
    # After one step, so that what begins at zero has let gradients through.
    assert [n for n, p in trained.items() if not p.grad.any()] == []
    assert losses[1] < losses[0]
    assert [n for n, p in network.named_parameters() if left_out.match(n) and p.grad is not None] == []


def test_losses_ignore_outliers(name, batch):
    network = small(name).eval()
    with torch.no_grad():
        alone = network.losses({key: value[:2] for key, value in batch.items()})["loss"]
        label = torch.cat([batch["label"][:2], torch.tensor([-1, -1])])
        beside = network.losses({**batch, "label": label})
    assert torch.isfinite(beside["loss"])
    assert beside["logits"].shape == (4, CLASSES)
    if type(network).losses is Network.losses:  # others also have terms that need no label
        torch.testing.assert_close(alone, beside["loss"])


def test_training_same_seed_gives_same_weights(name, batch):
    weights = []
    for _ in range(2):
        network = small(name, seed=5).train()
        torch.manual_seed(6)
        optimizer = torch.optim.SGD(network.parameters(), 1e-3)
        network.losses(batch)["loss"].backward()
        optimizer.step()
        weights.append(network.state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_evaluation_is_deterministic(name, batch):
    network = small(name).eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with torch.no_grad():
        first, second = (network(**inputs_of(batch)) for _ in range(2))
        alone = network(**{key: value[:1] for key, value in inputs_of(batch).items()})
    assert torch.equal(first, second)
    scale = max(1.0, float(first.abs().max()))
    assert float((alone - first[:1]).abs().max()) <= 1e-4 * scale, "a clip's logits depend on its neighbors"
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_weights_round_trip_through_safetensors(name, batch, tmp_path):
    network = settled(name, batch)
    (tmp_path / "model.safetensors").write_bytes(exporter.weights_bytes(network))
    other = small(name, seed=9).eval()
    other.load_state_dict(safetensors.torch.load_file(tmp_path / "model.safetensors"))
    with torch.no_grad():
        assert torch.equal(network(**inputs_of(batch)), other(**inputs_of(batch)))


def test_graph_parses_in_tensorrt(name, batch):
    """All networks together take 49 s of CPU time."""
    content = onnx_graph.trace(small(name), {key: value[:2] for key, value in inputs_of(batch).items()})
    assert rtx.parse(onnx_graph.simplify(content)) > 5


@pytest.mark.slow
def test_export_onnx_graph_agrees(name, batch):
    """Parity to 1e-4, dynamic batch, static rest, operators that TensorRT parses, sanity in half precision."""
    network = settled(name, batch)
    content = onnx_graph.to_onnx(network)  # refuses what differs by more than 1e-4 at batch 1 and 3
    model = onnx.load_model_from_string(content)
    onnx.checker.check_model(model)
    assert onnx_graph.tensorrt_problems(model) == []
    assert rtx.refused(content) == ""
    assert {node.op_type for node in model.graph.node} <= onnx_graph.SUPPORTED
    shapes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.input}
    assert shapes == {spec.name: ["batch", *spec.shape] for spec in network.input_specs}
    output = [d.dim_param or d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim]
    assert output == ["batch", CLASSES]
    inputs = inputs_of(batch)
    with torch.no_grad():
        expected = network(**inputs).numpy()
    found = run(content, inputs)
    spread = float(np.ptp(expected, axis=1).max())
    assert np.abs(found - expected).max() <= 1e-3 * spread, "1e-4 holds only because the logits are tiny"
    half = run(precision.round_to_float16(model).SerializeToString(), inputs)
    assert np.isfinite(half).all()
    assert np.abs(half - expected).max() <= HALF_PRECISION * max(spread, 1e-3)
    converts(content, {key: value.numpy() for key, value in inputs.items()})


def converts(content: bytes, inputs: dict[str, np.ndarray]) -> None:
    """The float16 graph agrees, has the same inputs and outputs, and holds its weights in float16."""
    made, difference = precision.to_float16(content, inputs)  # refuses what differs by more than its limit
    assert difference <= precision.MAX_FLOAT16_DIFFERENCE
    before, after = onnx.load_model_from_string(content), onnx.load_model_from_string(made)
    assert (before.graph.input, before.graph.output) == (after.graph.input, after.graph.output)
    assert onnx_graph.tensorrt_problems(after) == []
    assert rtx.refused(made) == ""
    halves, floats = (
        sum(np.prod(t.dims) for t in after.graph.initializer if t.data_type == kind)
        for kind in (onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT)
    )
    assert halves > 1000 and floats < 0.01 * halves, "weights stayed in float32"


def run(content: bytes, inputs: dict[str, torch.Tensor]) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, {key: value.numpy() for key, value in inputs.items()})[0]


def test_create_unknown_option_refused(name):
    with pytest.raises(ConfigError, match=r"unknown option color_of_hair of \w+; known: .*num_classes"):
        actrec_models.networks.create(name, num_classes=CLASSES, color_of_hair="red")


def test_options_have_descriptions(name):
    for field in dataclasses.fields(small(name).config):
        assert field.metadata.get("description"), field.name
