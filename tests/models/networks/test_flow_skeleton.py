import numpy as np
import pytest
import torch

import actrec_models.networks
from actrec import features
from actrec.features.clips import example_clip
from actrec.utils.errors import ConfigError, InputError
from actrec_models.layers.cnn3d import C3d
from actrec_models.layers.res_tcn import LAYERS, Branch, Pooling, ResTcn, TwoBranches, Unit, informativeness
from actrec_models.networks import flow_skeleton
from actrec_models.networks.flow_skeleton import JointMasks, areas, between, binary, weighted
from tests.models.small import SMALL

FUSED = ("c3d_flow_at2", "flow_skeleton")


def network(name, **options):
    torch.manual_seed(1)
    return actrec_models.networks.create(name, num_classes=5, **{**SMALL[name], **options})


def batch_for(model, size=2):
    rng = torch.Generator().manual_seed(2)
    inputs = {s.name: torch.randn(size, *s.shape, generator=rng) for s in model.input_specs}
    if "joint_pixels" in inputs:
        inputs["joint_pixels"] = torch.rand(inputs["joint_pixels"].shape, generator=rng) * model.config.size
    return {**inputs, "label": torch.arange(size) % 5}


def logits(model, batch):
    with torch.no_grad():
        return model.eval()(**{s.name: batch[s.name] for s in model.input_specs})


def with_random_norms(module):
    """Give batch norms random statistics and weights, as after training; return the module in evaluation mode."""
    for norm in (m for m in module.modules() if isinstance(m, torch.nn.BatchNorm1d)):
        norm.running_mean.uniform_(-0.3, 0.3)
        norm.running_var.uniform_(0.5, 1.5)
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        torch.nn.init.uniform_(norm.bias, -0.3, 0.3)
    return module.eval()


# -- Eq. 1: the skeleton model -----------------------------------------------------------------------------------------


def convolve(x, filters, stride=1):
    """Convolve x [C, L] element by element; a filter of length f starts (f − 1) // 2 elements before its output."""
    weight, bias = filters.weight.detach().numpy(), filters.bias.detach().numpy()
    length, reach = weight.shape[2], (weight.shape[2] - 1) // 2
    out = np.zeros((len(weight), x.shape[1] // stride))
    for t in range(out.shape[1]):
        for f in range(length):
            at = t * stride + f - reach
            if 0 <= at < x.shape[1]:
                out[:, t] += weight[:, :, f] @ x[:, at]
    return out + bias[:, None]


def activated(x, norm):
    mean, var = norm.running_mean.numpy()[:, None], norm.running_var.numpy()[:, None]
    weight, bias = norm.weight.detach().numpy()[:, None], norm.bias.detach().numpy()[:, None]
    return np.maximum(0, (x - mean) / np.sqrt(var + norm.eps) * weight + bias)


@pytest.mark.parametrize("kernel", [8, 1])
def test_res_tcn_equals_equation_1(kernel):
    """X^(N) = X^(1) + Σ W^i * max(0, X^(i−1)), X^(1) = W_1 X^(0)."""
    torch.manual_seed(3)
    branch = with_random_norms(Branch(6, 4, kernel, dropout=0.5))
    x0 = torch.randn(1, 6, 20)
    found = [x[0].detach().numpy() for x in branch(x0)[:4]]
    expected = [convolve(x0[0].numpy(), branch.first.filters)]
    total = expected[0].copy()
    for unit in branch.units[:3]:
        total = total + convolve(activated(expected[-1], unit.norm), unit.conv.filters)
        expected.append(total)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("kernel", [8, 1])
def test_res_tcn_doubled_filters_adapt_residual(kernel):
    torch.manual_seed(3)
    unit = with_random_norms(Unit(4, 8, kernel, stride=2, dropout=0.5))
    x = torch.randn(1, 4, 20)
    expected = convolve(x[0].numpy(), unit.downsample.filters, 2)
    expected += convolve(activated(x[0].numpy(), unit.norm), unit.conv.filters, 2)
    np.testing.assert_allclose(unit(x)[0].detach(), expected, atol=1e-5)


def test_two_branches_have_expected_shapes():
    """Fig. 1 at full size: 150 joint coordinates over 300 frames."""
    model, x0 = TwoBranches(150, 300), torch.zeros(2, 150, 300)
    with torch.no_grad():
        shapes = [[tuple(x.shape[1:]) for x in layers] for layers in (model.res_tcn.tcn(x0), model.joints(x0))]
        assert model(x0)[0].shape == (2, 768)
    assert shapes[0] == [(64, 300)] * 4 + [(128, 150)] * 3 + [(256, 75)] * 3
    assert shapes[1] == [(128, 150)] * 4 + [(256, 75)] * 3 + [(512, 38)] * 3  # twice the filters
    assert model.bjcn.first.filters.weight.shape == (128, 60, 1)  # every fifth frame; filter size 1
    assert (model.fc_tcn.out_features, model.fc_bjcn.out_features) == (256, 512)


def branch_size(channels, width, kernel):
    total, before = channels * width * kernel + width, width
    for multiple, stride in LAYERS[1:]:
        after = width * multiple
        total += 2 * before + before * after * kernel + after
        total += before * after + after if stride == 2 else 0
        before = after
    return total + 2 * before


def test_two_branches_have_expected_parameters():
    def parameters(**options):
        return sum(
            p.numel() for p in actrec_models.networks.create("res_tcn_bjcn", num_classes=60, **options).parameters()
        )

    tcn = branch_size(150, 64, 8)
    fully_connected = 256 * 256 + 256 + 512 * 512 + 512 + 768 * 60 + 60
    assert parameters(bjcn=False) == tcn + 256 * 60 + 60
    assert parameters() == tcn + branch_size(60, 128, 1) + 2 + fully_connected


def test_res_bjcn_shares_filters_across_joints():
    torch.manual_seed(3)
    model = with_random_norms(TwoBranches(150, 40, width=4))
    x0 = torch.randn(1, 150, 40)
    order = torch.randperm(150)
    for layer, exchanged in zip(model.joints(x0)[:4], model.joints(x0[:, order])[:4], strict=True):
        torch.testing.assert_close(exchanged, layer[:, :, order], atol=1e-5, rtol=1e-5)
    first = convolve(x0[0, :, ::5].T.numpy(), model.bjcn.first.filters)
    np.testing.assert_allclose(model.joints(x0)[0][0].detach(), first, atol=1e-5)


def test_two_branches_fc_512_ends_in_softmax():
    model = with_random_norms(TwoBranches(150, 40, width=4))
    found, _ = model(torch.randn(3, 150, 40))
    assert found.shape == (3, 16 + 32)
    torch.testing.assert_close(found[:, 16:].sum(dim=1), torch.ones(3))
    assert (found[:, :16] >= 0).all()


# -- Eq. 2: the score --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["1", "2", "3", "4", "sum"])
def test_informativeness_equals_equation_2(layer):
    layers = [torch.randn(2, 8, 150, generator=torch.Generator().manual_seed(n)) for n in range(4)]
    x0 = torch.ones(2, 150, 10)
    x0[1, 75:] = 0  # one person
    found = informativeness(layers, layer, x0).numpy()
    for n, detected in ((0, range(50)), (1, range(25))):
        score = np.zeros(50)
        for k in range(50):
            for i in range(3 * k, 3 * k + 3):
                for j in range(8):
                    chosen = range(4) if layer == "sum" else [int(layer) - 1]
                    score[k] += sum(float(layers[at][n, j, i]) for at in chosen)
        low, high = min(score[k] for k in detected), max(score[k] for k in detected)
        np.testing.assert_allclose(found[n], np.clip((score - low) / (high - low), 0, 1), atol=1e-4)
        assert found[n][detected].min() == 0 and found[n][detected].max() == pytest.approx(1, abs=1e-4)
    assert found.shape == (2, 50)


def test_informativeness_equal_joints_gives_zero():
    for x0 in (torch.ones(1, 75, 10), torch.zeros(1, 75, 10)):
        assert (informativeness([torch.ones(1, 4, 75)] * 4, "sum", x0) == 0).all()
    assert (informativeness([torch.randn(1, 4, 75)] * 4, "sum", torch.zeros(1, 75, 10)) == 0).all(), "no joint"


def test_two_branches_have_dropout_after_the_last_activations():
    """Res-TCN as published has none before its average pooling."""
    model = TwoBranches(150, 40, width=4)
    pools = [each for each in model.modules() if isinstance(each, Pooling)]
    assert [pool.dropout.p for pool in pools] == [0.5, 0.5]
    assert ResTcn(150, 4).pool_tcn.dropout.p == 0.0


def test_c3d_pool5_has_the_windows_of_caffe():
    """The first begins at the first row; the last lies half outside."""
    pool = C3d(3, width=4, fc=8).pool5
    x = torch.arange(49.0).reshape(1, 1, 1, 7, 7).expand(1, 1, 2, 7, 7)
    rows = (1, 3, 5, 6)  # of the largest values
    torch.testing.assert_close(pool(x)[0, 0, 0], torch.tensor([[7.0 * r + c for c in rows] for r in rows]))


# -- Eqs. 3 and 5: the masks -------------------------------------------------------------------------------------------


def on_grid(joint, size, width):
    """Return the pixel of a feature, `width` wide, that contains a joint of the image; pixel centers are integers."""
    return [int(np.floor((float(c) + 0.5) * width / size)) for c in joint]


@pytest.mark.parametrize("width", [28, 14, 7])
def test_masks_equal_equations_3_and_5(width):
    size, radius = 112, 0.05 * width
    joints = torch.rand(2, 3, 6, 2, generator=torch.Generator().manual_seed(4)) * size
    joints[0, 0, 1] = joints[0, 0, 0] + 1.0  # two that overlap
    score = torch.rand(2, 6, generator=torch.Generator().manual_seed(5))
    found = areas(joints, size, width, radius)
    once, scored = np.zeros((2, 3, width, width)), np.zeros((2, 3, width, width))
    for n, frame, j, i in np.ndindex(once.shape):
        inside = []
        for k in range(6):
            a, b = on_grid(joints[n, frame, k], size, width)
            if (i - a) ** 2 + (j - b) ** 2 <= radius**2:
                inside.append(float(score[n, k]))
        if inside:
            once[n, frame, j, i] = 1
            scored[n, frame, j, i] = 1 + np.mean(inside)
    np.testing.assert_array_equal(binary(found), once)
    np.testing.assert_allclose(weighted(found, score), scored, atol=1e-6)
    assert once.sum() > 0
    assert (once.sum() > 6 * 3 * 2) == (radius >= 1)  # a smaller area is the pixel of the joint alone


def test_joint_masks_fit_every_stage():
    joints = torch.rand(2, 16, 50, 2, generator=torch.Generator().manual_seed(6)) * 112
    masks = JointMasks(16, 112, 0.05)(joints)
    shapes = [(16, 112), (16, 56), (8, 28), (4, 14), (2, 7)]
    assert [tuple(m.shape) for m in masks] == [(2, 1, frames, width, width) for frames, width in shapes]
    middle = joints.numpy()
    for mask, (frames, width) in zip(masks, shapes, strict=True):
        if frames < middle.shape[1]:
            middle = np.stack([(middle[:, 2 * t] + middle[:, 2 * t + 1]) / 2 for t in range(frames)], axis=1)
        expected = binary(areas(torch.from_numpy(middle), 112, width, 0.05 * width))
        torch.testing.assert_close(mask[:, 0], expected)


def test_joint_masks_absent_joints_are_ignored():
    joints = torch.full((1, 16, 50, 2), -56.0)
    assert all((mask == 0).all() for mask in JointMasks(16, 112, 0.05)(joints))
    assert all((mask == 0).all() for mask in JointMasks(16, 112, 0.05)(joints, torch.ones(1, 50)))
    visible_twice = torch.tensor([[[[-56.0, -56.0]], [[40.0, 60.0]], [[30.0, 10.0]], [[-56.0, -56.0]]]])  # (1, 4, 1, 2)
    found = between(visible_twice, flow_skeleton.LOST * 112)
    assert found.tolist() == [[[[40.0, 60.0]], [[30.0, 10.0]]]]
    assert between(found, flow_skeleton.LOST * 112).tolist() == [[[[35.0, 35.0]]]]


def test_joint_masks_and_feature_agree_on_absence():
    model = network("c3d_flow_at1")
    specs = model.input_specs
    clip = example_clip(specs, 16, 1)
    clip["pixels"] = np.full_like(clip["pixels"], np.nan)
    made = features.inputs(clip, specs)["joint_pixels"]
    assert (made < flow_skeleton.LOST * model.config.size).all()
    assert all((mask == 0).all() for mask in model.masks(torch.from_numpy(made)[None]))


# -- the rows of Tables 1 to 3 -----------------------------------------------------------------------------------------


def test_c3d_flow_attention_changes_logits():
    plain, first = network("c3d_flow"), network("c3d_flow_at1")
    second = network("c3d_flow_at2")
    for model in (first, second):
        model.c3d.load_state_dict(plain.c3d.state_dict())
    batch = batch_for(second)
    found = [logits(model, batch) for model in (plain, first, second)]
    assert not torch.allclose(found[0], found[1], atol=1e-4)
    assert not torch.allclose(found[1], found[2], atol=1e-4)
    batch["joint_pixels"] = torch.full_like(batch["joint_pixels"], -0.5 * second.config.size)
    for model in (first, second):
        torch.testing.assert_close(logits(model, batch), found[0])


@pytest.mark.parametrize("name", FUSED)
def test_c3d_flow_at2_layers_give_different_scores(name):
    rows = [network(name, layer=layer) for layer in ("1", "2", "3", "4", "sum")]
    for model in rows[1:]:
        model.load_state_dict(rows[0].state_dict())
    batch = batch_for(rows[0])
    found = [logits(model, batch) for model in rows]
    for i, j in np.argwhere(np.triu(np.ones((5, 5)), 1)):
        assert not torch.allclose(found[i], found[j], atol=1e-6)


@pytest.mark.parametrize("name", FUSED)
def test_flow_skeleton_frozen_skeleton_keeps_weights(name):
    model = network(name, skeleton="frozen").train()
    before = {k: v.clone() for k, v in model.skeleton.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.05)
    found = model.losses(batch_for(model))
    found["loss"].backward()
    optimizer.step()
    assert "l1" not in found
    assert all(p.grad is None for p in model.skeleton.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.skeleton.state_dict().items())
    assert not model.skeleton.training


@pytest.mark.parametrize("name", FUSED)
def test_flow_skeleton_joint_skeleton_learns_through_mask(name):
    """Without the skeleton model's features, its bottom layers get gradients through the mask alone (φ in Eq. 6)."""
    model = network(name, skeleton="joint", l1=0.0).train()
    if name == "flow_skeleton":
        torch.nn.init.zeros_(model.fc_fused.weight[:, model.config.fc :])
    batch = batch_for(model)
    model.losses(batch)["loss"].backward()
    bottom = model.skeleton.bjcn.first.filters.weight
    assert bottom.grad.abs().max() > 0
    bottom.grad = None
    batch["joint_pixels"] = torch.full_like(batch["joint_pixels"], -0.5 * model.config.size)  # no mask, no gradient
    model.losses(batch)["loss"].backward()
    assert bottom.grad is None or (bottom.grad == 0).all()


def test_flow_skeleton_fusion_concatenates_features():
    with torch.device("meta"):
        full = actrec_models.networks.create("flow_skeleton", num_classes=60)
    assert full.fc_fused.in_features == 4096 + 768
    model = network("flow_skeleton")
    batch = batch_for(model)
    with torch.no_grad():
        skeleton, layers = model.eval().skeleton(batch["joint_map"])
        masks = model.masks(batch["joint_pixels"], informativeness(layers, "sum", batch["joint_map"]))
        expected = model.fc_fused(torch.cat([model.c3d(batch["flow_rgb"], masks), skeleton], dim=1))
    torch.testing.assert_close(logits(model, batch), expected)


@pytest.mark.parametrize(
    ("name", "part", "unfit"),
    [
        ("flow_skeleton", "res_tcn_bjcn", {"fc_skeleton"}),
        ("flow_skeleton", "c3d_flow_at2", {"c3d.fc8"}),
        ("c3d_flow_at2", "c3d_flow", set()),
    ],
)
def test_flow_skeleton_accepts_checkpoints_of_parts(name, part, unfit):
    whole = network(name).state_dict()
    state = network(part, **({"frames": 144} if part == "res_tcn_bjcn" else {})).state_dict()
    assert {k.rsplit(".", 1)[0] for k, v in state.items() if k not in whole or v.shape != whole[k].shape} == unfit


def test_c3d_flow_at2_accepts_trained_skeleton():
    skeleton, model = network("res_tcn_bjcn", frames=144), network("c3d_flow_at2")
    wanted = set(model.skeleton.state_dict())
    assert wanted <= set(skeleton.skeleton.state_dict())
    model.skeleton.load_state_dict({k: v for k, v in skeleton.skeleton.state_dict().items() if k in wanted})
    x0 = batch_for(skeleton)["joint_map"]
    with torch.no_grad():
        scores = [informativeness(m.eval().skeleton.joints(x0), "sum", x0) for m in (skeleton, model)]
    torch.testing.assert_close(scores[0], scores[1])


@pytest.mark.parametrize("name", ["res_tcn_bjcn", "flow_skeleton"])
def test_flow_skeleton_loss_includes_l1_norm(name):
    model = network(name)
    found = model.losses(batch_for(model))
    weights = [m.weight for m in model.skeleton.modules() if isinstance(m, torch.nn.Conv1d | torch.nn.Conv2d)]
    assert len(weights) == 2 * 12 + 1  # per branch ten layers and two residual convolutions; temporal downsampling
    expected = 1e-4 * sum(float(np.abs(w.detach().numpy()).sum()) for w in weights)
    assert found["l1"].item() == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(found["loss"], found["cross_entropy"] + found["l1"])


def test_flow_skeleton_windows_match_papers():
    for name in ("c3d_flow", *FUSED):
        window = actrec_models.networks.create(name, num_classes=5, width=4, fc=16).window
        assert (window.clip_frames, window.stride, window.combine) == (16, 8, "mean")
        assert window.frames / window.seconds == pytest.approx(10)  # the Kinect's 30 Hz, every third frame
        assert window.starts == ((0, 8, 16, 24, 32) if name == "c3d_flow" else tuple(range(4, 85, 8)))
        assert window.seconds == pytest.approx(4.8 if name == "c3d_flow" else 10)  # as long as the joint map
    window = actrec_models.networks.create("res_tcn_bjcn", num_classes=5, width=4).window
    assert (window.seconds, window.frames, window.starts) == (10, 300, (0,))


def test_flow_skeleton_input_shapes_match_papers():
    with torch.device("meta"):
        specs = actrec_models.networks.create("flow_skeleton", num_classes=60).input_specs
    assert {s.name: s.shape for s in specs} == {
        "flow_rgb": (3, 16, 112, 112), "joint_pixels": (16, 50, 2), "joint_map": (150, 300)
    }  # fmt: skip
    assert [s.name for s in specs if s.preprocessing.get("scope") == "window"] == ["joint_map"]


@pytest.mark.parametrize(("share", "sees_head"), [(flow_skeleton.CENTER_CROP, False), (1.0, True)])
def test_share_of_image_height_is_kept_of_flow_and_joints(share, sees_head):
    model = network("c3d_flow_at1", share=share)
    clip = example_clip(model.input_specs, model.config.frames)  # 320×240 px, flow of 160×120
    clip["flow"][:] = 0
    clip["flow"][:, 5:20, :, 0] = 2.0
    clip["pixels"][:, :, 0] = (160, 20)
    inputs = features.inputs(clip, model.input_specs)
    assert inputs["flow_rgb"][0, :, :4].any() == sees_head and not inputs["flow_rgb"][0, :, 8:].any()
    (x, y), absent = inputs["joint_pixels"][0, 0], -model.config.size / 2
    assert (0 < y < 4) == sees_head and (x == y == absent) != sees_head


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("c3d_flow", {"frames": 20}, "frames is 20, expected a multiple of 16"),
        ("c3d_flow", {"size": 100}, "size is 100, expected a multiple of 16"),
        ("res_tcn_bjcn", {"frames": 302}, "frames is 302, expected a multiple of 4"),
        ("res_tcn_bjcn", {"frames": 60, "step": 7}, "frames is 60, expected a multiple of step, 7"),
        ("c3d_flow_at2", {"map_frames": 140}, "map_frames is 140, expected a multiple of 12"),
        ("c3d_flow_at2", {"map_frames": 84, "frames": 32}, "32 frames alone is as long as 96 columns"),
        ("c3d_flow_at2", {"layer": "5"}, "layer is '5', allowed: 1, 2, 3, 4, sum"),
        ("flow_skeleton", {"skeleton": "half"}, "skeleton is 'half', allowed: joint, frozen"),
    ],
)
def test_flow_skeleton_bad_options_refused(name, options, message):
    with pytest.raises(ConfigError, match=message):
        network(name, **options)


@pytest.mark.parametrize("name", ["c3d_flow", "c3d_flow_at1", *FUSED])
def test_flow_skeleton_clip_without_scene_flow_refused(name):
    specs = network(name).input_specs
    clip = {k: v for k, v in example_clip(specs, 16, 2).items() if k != "flow"}
    with pytest.raises(InputError, match=r"'flow_rgb' .*needs 'flow'"):
        features.inputs(clip, specs)


def test_flow_skeleton_second_body_may_be_absent():
    model = network("flow_skeleton").eval()
    clip = example_clip(model.input_specs, 16, 2)
    alone = {k: v[:1] if k in ("bodies", "pixels") else v for k, v in clip.items()}
    nobody = {k: np.concatenate([v[:1], v[1:] * np.nan]) if k in ("bodies", "pixels") else v for k, v in clip.items()}
    found = [features.inputs(c, model.input_specs) for c in (alone, nobody)]
    for name in found[0]:
        np.testing.assert_array_equal(found[0][name], found[1][name])
        assert np.isfinite(found[0][name]).all()
