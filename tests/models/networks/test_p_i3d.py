import dataclasses
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import actrec_models.networks
from actrec import datasets, features
from actrec.features.clips import each_clip, example_clip
from actrec.features.skeleton import PosePreprocessing, normalize
from actrec.utils.errors import ConfigError, InputError
from actrec_models.export import onnx_graph
from actrec_models.layers.cnn3d import InceptionI3d, average_pool
from actrec_models.training import checkpoints, initial_weights, recipe, trainer
from actrec_models.training.module import RecognitionModule

SMALL = {"frames": 8, "size": 32, "width": 0.05, "hidden": 6, "pose_frames": 4, "attention_units": 5}
K = 3


def network(seed=1, **options):
    torch.manual_seed(seed)
    return actrec_models.networks.create("p_i3d", num_classes=4, **{**SMALL, **options})


def batch_for(model, size=4):
    rng = torch.Generator().manual_seed(2)
    inputs = {s.name: torch.randn(size, *s.shape, generator=rng) for s in model.input_specs}
    return {**inputs, "label": torch.arange(size) % 4}


def inputs_of(batch):
    return {name: value for name, value in batch.items() if name != "label"}


def unequal(model):
    """Give the network random attention weights, as after training."""
    torch.manual_seed(7)
    with torch.no_grad():
        model.attention.w_s.weight.normal_()
        model.attention.w_s.bias.normal_()
        model.attention.w_h.bias.normal_()
    return model


def numpy_of(module):
    return {name: value.detach().double().numpy() for name, value in module.state_dict().items()}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def hidden_states(p, x, units):
    """h^s of one sample: the last of three LSTM layers at every time step; x [t_p][J·3]."""
    for layer in range(3):
        h, c, out = np.zeros(units), np.zeros(units), []
        for x_t in x:
            gates = p[f"weight_ih_l{layer}"] @ x_t + p[f"bias_ih_l{layer}"]
            gates = gates + p[f"weight_hh_l{layer}"] @ h + p[f"bias_hh_l{layer}"]
            i, f, g, o = gates.reshape(4, units)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            out.append(h)
        x = out
    return np.concatenate(x)


def attention_by_hand(model, pose):
    """Eq. 2 and 3, sample by sample."""
    lstm, attention, alphas = numpy_of(model.pose.lstm), numpy_of(model.attention), []
    for sample in pose.double().numpy():
        x = [np.concatenate([sample[:, t, j] for j in range(25)]) for t in range(sample.shape[1])]
        h_s = hidden_states(lstm, x, model.config.hidden)
        inner = np.tanh(attention["w_h.weight"] @ h_s + attention["w_h.bias"])
        s = attention["w_s.weight"] @ inner + attention["w_s.bias"]
        alphas.append([np.exp(s[k]) / sum(np.exp(s[i]) for i in range(K)) for k in range(K)])
    return np.array(alphas)


def logits_by_hand(model, batch, alpha):
    """Eq. 1 and 4, then I3D's last layers."""
    with torch.no_grad():
        g = [model.parts[part].forward_features(batch[part]).double().numpy() for part in model.config.parts]
    f = sum(alpha[:, k, None, None, None, None] * g[k] for k in range(K))
    pooled = f.mean(axis=(3, 4))
    steps = f.shape[2]
    if steps > 1:
        pooled = np.stack([(pooled[:, :, t] + pooled[:, :, t + 1]) / 2 for t in range(steps - 1)], axis=2)
    last = numpy_of(model.second)
    weight, bias = last["logits.conv3d.weight"][:, :, 0, 0, 0], last["logits.conv3d.bias"]
    return np.mean([pooled[:, :, t] @ weight.T + bias for t in range(pooled.shape[2])], axis=0)


@pytest.mark.parametrize("frames", [8, 24])
def test_p_i3d_equals_equations_1_to_4(frames):
    model = unequal(network(frames=frames)).eval()
    batch = batch_for(model, 2)
    with torch.no_grad():
        alpha, logits = model.attend(batch["pose"]).numpy(), model(**inputs_of(batch)).numpy()
    expected = attention_by_hand(model, batch["pose"])
    np.testing.assert_allclose(alpha, expected, atol=1e-5)
    assert np.ptp(alpha) > 0.1
    np.testing.assert_allclose(logits, logits_by_hand(model, batch, expected), atol=1e-5)


def test_p_i3d_loss_equals_equation_5():
    model = unequal(network(lambda_1=0.3, lambda_2=0.02)).eval()
    batch = {**batch_for(model), "label": torch.tensor([2, 0, -1, 3])}  # the third clip has no class
    found = {name: value.detach().double().numpy() for name, value in model.losses(batch).items()}
    alpha = attention_by_hand(model, batch["pose"])
    logits = logits_by_hand(model, batch, alpha)
    y_hat = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    entropy = -np.mean([np.log(y_hat[n, label]) for n, label in ((0, 2), (1, 0), (3, 3))])
    uneven = np.mean([sum((1 - alpha[n, k]) ** 2 for k in range(K)) for n in range(4)])
    unused = ("pose.classifier", *(f"parts.{part}.logits" for part in model.config.parts))
    squares = sum(
        (p.detach().double() ** 2).sum().item()
        for name, p in model.named_parameters()
        if p.ndim > 1 and not name.startswith(unused)
    )
    assert found["cross_entropy"] == pytest.approx(entropy, abs=1e-5)
    assert found["attention_regularizer"] == pytest.approx(uneven, abs=1e-5)
    assert found["weight_regularizer"] == pytest.approx(np.sqrt(squares), rel=1e-5)
    assert found["loss"] == pytest.approx(entropy + 0.3 * uneven + 0.02 * np.sqrt(squares), abs=1e-4)


def test_p_i3d_initial_attention_is_equal():
    model = network(hidden=16).train()
    alpha = model.attend(batch_for(model)["pose"])
    assert torch.equal(alpha, torch.full((4, K), 1 / 3))
    w_h = model.attention.w_h.weight
    assert w_h.std().item() == pytest.approx(w_h.shape[1] ** -0.5, rel=0.2)  # the other weights are Gaussian


TRAINED = {
    "parts": ("parts.",),
    "right_hand_crop": ("parts.right_hand_crop.",),
    "pose": ("pose.",),
    "attention": ("pose.lstm.", "attention.", "second."),
    "joint": ("parts.", "attention.", "second."),
    "": ("parts.", "pose.lstm.", "attention.", "second."),
}


@pytest.mark.parametrize("stage", TRAINED)
@pytest.mark.parametrize("aggregation", ["sum_0", "sum_2"])
def test_p_i3d_stage_trains_own_parameters_only(stage, aggregation):
    model = network(aggregation=aggregation)
    if stage:
        model.stage(stage)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=0.01)
    for _ in range(2):  # W_s is zero at first, so earlier layers get gradients in the second step
        optimizer.zero_grad()
        model.losses(batch_for(model))["loss"].backward()
        assert all(p.grad is not None for p in trained)
        optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    behind = ("Mixed_5b", "Mixed_5c") if aggregation == "sum_2" else ()
    unused = (
        ()
        if stage in ("parts", "right_hand_crop")
        else tuple(f"parts.{p}.{e}" for p in model.config.parts for e in (*behind, "logits"))
    )
    named = {name for name in before if name.startswith(TRAINED[stage]) and not name.startswith(unused)}
    assert changed <= named
    assert {name for name, p in model.named_parameters() if name in named} <= changed
    for prefix in TRAINED[stage]:
        assert any(name.startswith(prefix) for name in changed)


def test_p_i3d_frozen_parts_are_in_evaluation_mode():
    model = network()
    expected = {
        "parts": {"parts"},
        "pose": {"pose"},
        "attention": {"pose", "attention", "second"},
        "joint": {"parts", "attention", "second"},
    }
    for stage, modules in expected.items():
        model.train()
        model.stage(stage)
        assert {name for name, module in model.named_children() if module.training} == modules
        model.eval()
        assert not any(module.training for module in model.modules())
    model.train()
    model.stage("body_crop")  # the other I3Ds keep their statistics
    assert [name for name, part in model.parts.items() if part.training] == ["body_crop"]


def test_p_i3d_stage_without_name_trains_as_new_network():
    stages = [{"name": "parts"}, {"name": "pose"}, {}]
    chosen = recipe.Recipe(model="p_i3d", options=SMALL, stages=stages)
    module = RecognitionModule(chosen.as_dict(), list("abcd"))

    def state():
        trained = [name for name, p in module.network.named_parameters() if p.requires_grad]
        return trained, [spec.name for spec in module.network.stage_input_specs], [m.training for m in module.modules()]

    new = state()
    for stage in chosen.plan():
        module.enter(stage)
        assert (state() == new) == (not stage.name)


def test_p_i3d_pretraining_losses_are_cross_entropy():
    model = network().eval()
    batch, label = batch_for(model), torch.arange(4)
    model.stage("parts")
    scores = [model.parts[part](batch[part]) for part in model.config.parts]
    found = model.losses(batch)
    torch.testing.assert_close(found["loss"], sum(-s.log_softmax(1)[label, label].mean() for s in scores))
    torch.testing.assert_close(found["logits"], sum(scores) / 3)
    model.stage("right_hand_crop")
    assert [spec.name for spec in model.stage_input_specs] == ["right_hand_crop"]
    found = model.losses({"right_hand_crop": batch["right_hand_crop"], "label": label})
    torch.testing.assert_close(found["logits"], scores[1])
    torch.testing.assert_close(found["loss"], -scores[1].log_softmax(1)[label, label].mean())
    model.stage("pose")
    found = model.losses(batch)
    scores = model.pose.classifier(model.pose(batch["pose"]))
    torch.testing.assert_close(found["logits"], scores)
    torch.testing.assert_close(found["loss"], -scores.log_softmax(1)[label, label].mean())


def test_p_i3d_every_stage_lowers_loss():
    """With fixed statistics of normalization; the ones of four clips make the loss jump by more than a step does."""
    model = network(width=0.1, dropout=0.0)
    batch = batch_for(model)
    for stage in model.stages:
        model.stage(stage)
        model.train()
        for layer in model.modules():
            if isinstance(layer, torch.nn.BatchNorm3d):
                layer.eval()
        optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=5e-4)
        losses = []
        for _ in range(4):
            optimizer.zero_grad()
            loss = model.losses(batch)["loss"]
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0], stage


@pytest.mark.slow
def test_p_i3d_recipe_runs_all_stages(root, tmp_path, monkeypatch):
    """The shipped recipe on a few short clips: each stage starts from the weights of the one before."""
    shipped = recipe.read(root / "models/recipes/papers/p_i3d_ntu60.yaml")
    assert ["parts", *(stage.name for stage in shipped.plan())] == list(network().stages)
    assert [stage.epochs for stage in shipped.plan()[-2:]] == [10, 25]  # N1, N2
    small = dataclasses.replace(
        shipped,
        options={**SMALL, "clips": 2},
        stages=[{"name": stage.name, "epochs": 1, "learning_rate": 1e-3} for stage in shipped.plan()],
        batch=2,
        precision="32-true",
    )
    monkeypatch.setattr(datasets, "create", lambda *_, **__: recorded(4))
    trainer.train(small, "", tmp_path, progress=False, threads=1)
    names = [stage.name for stage in shipped.plan()]
    folders = [*(f"stage_{number}_{name}" for number, name in enumerate(names[:-1], start=1)), ""]
    learnt = [checkpoints.read(tmp_path / folder / "last.ckpt")["state_dict"] for folder in folders]
    for before, after, name in zip(learnt, learnt[1:], names[1:], strict=False):
        changed = {k.removeprefix("network.") for k, v in after.items() if not torch.equal(v, before[k])}
        assert changed and all(k.startswith(TRAINED.get(name, f"parts.{name}.")) for k in changed), name


def recorded(count):
    """Clips with color, as a dataset yields them."""
    clips = []
    for n in range(count):
        held = dict(example_clip(network().input_specs, 12, seed=n))
        stamps = np.arange(12, dtype=np.int64) * 33_000_000
        clips.append(datasets.Clip(f"clip {n}", n % 2, stamps, held.pop("bodies"), held))
    return datasets.ClipDataset(clips, ["one", "other"])


def test_p_i3d_stages_depend_on_options():
    crops = ("parts", "left_hand_crop", "right_hand_crop", "body_crop")
    assert network().stages == (*crops, "pose", "attention", "joint")
    plain = network(attention=False)
    assert plain.stages == (*crops, "joint")
    assert network(attention=False, parts=("image",)).stages == ("parts",)
    with pytest.raises(ConfigError, match="no stage 'pose'; it has: parts, left_hand_crop, right_hand_crop, body_crop"):
        plain.stage("pose")


ABLATIONS = [
    {"attention": False},
    {"attention": False, "aggregation": "sum_1"},
    {"attention": False, "aggregation": "sum_2"},
    {"attention": False, "aggregation": "concat_0"},
    {"aggregation": "sum_2"},
    {"aggregation": "concat_0"},
    *({"attention": False, "parts": (part,)} for part in ("image", "body_crop", "left_hand_crop", "right_hand_crop")),
]


@pytest.mark.parametrize("options", ABLATIONS)
def test_p_i3d_ablations_differ(options):
    model, full = network(**options).eval(), network().eval()
    batch = batch_for(model)
    parts = options.get("parts", full.config.parts)
    assert [s.name for s in model.input_specs] == [*parts, *(["pose"] if model.config.attention else [])]
    losses = model.losses(batch)
    assert losses["logits"].shape == (4, 4) and losses["loss"].isfinite()
    assert ("attention_regularizer" in losses) == model.config.attention
    assert shapes(model) != shapes(full)


def shapes(model):
    return {name: value.shape for name, value in model.state_dict().items()}


def test_p_i3d_without_attention_adds_parts():
    model = network(attention=False).eval()
    batch = batch_for(model)
    with torch.no_grad():
        found = model(**inputs_of(batch)).numpy()
    np.testing.assert_allclose(found, logits_by_hand(model, batch, np.ones((4, K))), atol=1e-5)


def test_p_i3d_sum_2_aggregates_after_seven_blocks():
    model = network(attention=False, aggregation="sum_2").eval()
    batch = batch_for(model)
    with torch.no_grad():
        half = sum(model.parts[p].forward_features(batch[p], "MaxPool3d_5a_2x2") for p in model.config.parts)
        pooled = average_pool(model.second.Mixed_5c(model.second.Mixed_5b(half)))
        expected = model.second.logits(pooled).mean(dim=(2, 3, 4))
        torch.testing.assert_close(model(**inputs_of(batch)), expected)


def test_p_i3d_concatenation_keeps_channels():
    model = network(attention=False, aggregation="concat_0").eval()
    batch = batch_for(model)
    weight = model.second.logits.conv3d.weight.detach()[:, :, 0, 0, 0]
    with torch.no_grad():
        pooled = [model.parts[p].forward_features(batch[p]).mean(dim=(2, 3, 4)) for p in model.config.parts]
        expected = torch.cat(pooled, dim=1) @ weight.T + model.second.logits.conv3d.bias
        torch.testing.assert_close(model(**inputs_of(batch)), expected)


@pytest.mark.parametrize("aggregation", ["sum_0", "sum_1"])
def test_p_i3d_kinetics_weights_fill_every_part(tmp_path, aggregation):
    torch.manual_seed(5)
    kinetics = InceptionI3d(400, SMALL["width"]).state_dict()
    torch.save(kinetics, tmp_path / "rgb_imagenet.pt")
    model = network(aggregation=aggregation)
    initial_weights.load(model, "p_i3d", tmp_path / "rgb_imagenet.pt")
    filled = [*model.parts.values(), *([model.second] if aggregation == "sum_1" else [])]
    for module in filled:
        found = {k: v for k, v in module.state_dict().items() if not k.startswith("logits")}
        assert found and all(torch.equal(kinetics[k], v) for k, v in found.items())


def test_p_i3d_defaults_are_published():
    model: Any = actrec_models.networks.create("p_i3d", num_classes=60)
    assert model.config.parts == ("left_hand_crop", "right_hand_crop", "body_crop")
    i3d = 12_287_264 + 60 * 1024 + 60
    lstm = 4 * 512 * (75 + 512 + 2) + 2 * 4 * 512 * (512 + 512 + 2)
    assert sum(p.numel() for p in model.parts.parameters()) == 3 * i3d
    assert sum(p.numel() for p in model.pose.lstm.parameters()) == lstm
    assert model.input_specs[0].shape == (3, 64, 224, 224)
    assert model.input_specs[-1].shape == (3, 20, 25)
    window = model.window
    assert (window.clip, window.combine, len(window.starts), window.starts[-1] + 64) == (64, "logits", 5, window.frames)
    assert window.seconds == pytest.approx(window.frames / 30)
    options = {"hidden": 128, "pose_frames": 5, "lambda_1": 1e-4, "width": 0.05}
    nucla: Any = actrec_models.networks.create("p_i3d", num_classes=10, **options)
    assert nucla.pose.lstm.hidden_size == 128 and nucla.input_specs[-1].shape == (3, 5, 25)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": ()}, "allowed: one or more of left_hand_crop, right_hand_crop, body_crop, image"),
        ({"parts": ("foot",)}, r"parts is \['foot'\]"),
        ({"parts": ("image", "image")}, "each once"),
        ({"parts": ("image",)}, "image alone leaves nothing to weigh or join: set attention to false"),
        ({"parts": ("image",), "attention": False, "aggregation": "sum_1"}, "aggregation to sum_0"),
        ({"pose_frames": 9, "poses": "even"}, r"pose_frames is 9, allowed: 1 to 8 \(frames"),
        ({"aggregation": "concat_1"}, "allowed: sum_0, sum_1, sum_2, concat_0"),
    ],
)
def test_p_i3d_contradicting_options_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        network(**options)


@pytest.mark.parametrize(("poses", "frames"), [("segments", [1, 4, 7, 10]), ("even", [1, 3, 5, 7])])
def test_p_i3d_poses_are_of_window_or_clip(poses, frames):
    """Live, segments are of the window of all clips; even poses are of each clip."""
    model = network(poses=poses, clips=2, frames=8)
    window = dataclasses.replace(model.window, frames=12, stride=4)
    clip = example_clip(model.input_specs, window.frames)
    made = list(each_clip(clip, model.input_specs, window))
    assert len(made) == 2
    whole = normalize(clip["bodies"], PosePreprocessing())[0]
    if poses == "segments":
        np.testing.assert_allclose(made[0]["pose"], whole[frames].transpose(2, 0, 1), atol=1e-5)
        assert made[1]["pose"] is made[0]["pose"]
    else:
        first = normalize(clip["bodies"][:, :8], PosePreprocessing())[0]
        np.testing.assert_allclose(made[0]["pose"], first[frames].transpose(2, 0, 1), atol=1e-5)


def test_p_i3d_clip_gives_logits():
    model = network().eval()
    clip = example_clip(model.input_specs, 8)
    made = features.inputs(clip, model.input_specs)
    with torch.no_grad():
        logits = model(**{name: torch.from_numpy(value)[None] for name, value in made.items()})
    assert logits.isfinite().all()
    without = {name: value for name, value in clip.items() if not name.startswith("hand")}
    assert set(features.inputs(without, model.input_specs)) == set(made)
    with pytest.raises(InputError, match="needs 'color'"):
        features.inputs({name: value for name, value in clip.items() if name != "color"}, model.input_specs)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"aggregation": "sum_2"}, {"attention": False, "aggregation": "concat_0"}])
def test_p_i3d_ablations_are_exported(options):
    graph = onnx.load_from_string(onnx_graph.to_onnx(network(**options))).graph  # parity is checked inside
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("LSTM") == (3 if options.get("attention", True) else 0)
    assert kinds.count("Pad") == 3  # one constant padding per I3D, at its first convolution
