import itertools
from typing import Any

import numpy as np
import pytest
import torch

import actrec_models.networks
from actrec import features
from actrec.features import voxels
from actrec.features.clips import example_clip
from actrec.utils.errors import ConfigError
from actrec_models.layers.sparse import SparseConvolution, TemporalConvolution, normalized_points
from tests.models.layers.neighborhoods import distinct_cells, near

SMALL = {"frames": 6, "bodies": 1, "width": 8, "widths": (1, 2), "depths": (1, 1)}


def network(name="spa_net_3p1d", **options):
    torch.manual_seed(1)
    return actrec_models.networks.create(name, num_classes=7, **{**SMALL, **options})


def people(bodies=1, frames=6, joints=25, seed=0):
    rng = np.random.default_rng(seed)
    start = rng.normal(0, 0.5, (bodies, 1, joints, 3))
    return (start + np.cumsum(rng.normal(0, 0.03, (bodies, frames, joints, 3)), axis=1) + 2).astype(np.float32)


def inputs(model, clips):
    made = [features.inputs({"bodies": clip}, model.input_specs) for clip in clips]
    return {name: torch.from_numpy(np.stack([m[name] for m in made])) for name in made[0]}


def logits(model, *clips):
    with torch.no_grad():
        return model.eval()(**inputs(model, clips))


def literal_convolution(cells, f, weight, kernel, temporal):
    """Eq. 9 point by point: R and F as lists, W by relative position."""
    position = {tuple(o): n for n, o in enumerate(voxels.offsets(kernel, temporal))}
    _, frames, joints, _ = cells.shape
    r = [(*cells[0, t, v], t) for t in range(frames) for v in range(joints)]
    out = np.zeros((len(r), weight.shape[2]))
    for i, j in itertools.product(range(len(r)), repeat=2):
        if min(r[i][0], r[j][0]) >= 0 and tuple(np.subtract(r[i], r[j])) in position:
            out[i] += f[j] @ weight[position[tuple(np.subtract(r[i], r[j]))]]
    return out


@pytest.mark.parametrize(("kernel", "temporal"), [(3, 1), (5, 1), (6, 1), (3, 3), (2, 2)])
def test_sparse_convolution_equals_equation_9(kernel, temporal):
    torch.manual_seed(0)
    cells = distinct_cells(6, 3, 7)
    layer = SparseConvolution(4, 5, kernel, temporal)
    f = torch.randn(1, 21, 4) * near(cells).present.unsqueeze(2)
    found = layer(f, near(cells, kernel, temporal))[0].detach().numpy()
    expected = literal_convolution(cells, f[0].numpy(), layer.weight.detach().numpy(), kernel, temporal)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("kernel", [3, 4, 5, 6])
def test_sparse_convolution_3d_equals_dense_at_points(kernel):
    torch.manual_seed(0)
    cells, size = distinct_cells(7, 2, 9), 7
    layer = SparseConvolution(4, 5, kernel)
    f = torch.randn(1, 18, 4) * near(cells).present.unsqueeze(2)
    found = layer(f, near(cells, kernel))[0].reshape(2, 9, 5)
    grid = torch.zeros(2, 4, size, size, size)
    for t, v in itertools.product(range(2), range(9)):
        if cells[0, t, v, 0] >= 0:
            x, y, z = cells[0, t, v]
            grid[t, :, x, y, z] = f[0, t * 9 + v]
    # Eq. 9 counts W by R(i) − R(j), torch by R(j) − R(i): the kernel is turned about.
    weight = layer.weight.reshape(kernel, kernel, kernel, 4, 5).flip(0, 1, 2).permute(4, 3, 0, 1, 2)
    rim = ((kernel - 1) // 2, kernel // 2) * 3  # "same"
    dense = torch.nn.functional.conv3d(torch.nn.functional.pad(grid, rim), weight)
    for t, v in itertools.product(range(2), range(9)):
        if cells[0, t, v, 0] >= 0:
            x, y, z = cells[0, t, v]
            torch.testing.assert_close(found[t, v], dense[t, :, x, y, z], atol=1e-5, rtol=1e-4)


def test_sparse_convolution_4d_equals_dense_at_points():
    torch.manual_seed(0)
    cells = distinct_cells(4, 4, 6)
    layer = SparseConvolution(2, 3, 3, 3)
    f = torch.randn(1, 24, 2) * near(cells).present.unsqueeze(2)
    found = layer(f, near(cells, 3, 3))[0].detach().numpy().reshape(4, 6, 3)
    grid = np.zeros((6, 6, 6, 6, 2))  # x, y, z, t with a rim of one
    for t, v in itertools.product(range(4), range(6)):
        if cells[0, t, v, 0] >= 0:
            x, y, z = cells[0, t, v] + 1
            grid[x, y, z, t + 1] = f[0, t * 6 + v].numpy()
    weight = layer.weight.detach().numpy().reshape(3, 3, 3, 3, 2, 3)
    for t, v in itertools.product(range(4), range(6)):
        if cells[0, t, v, 0] < 0:
            continue
        x, y, z = cells[0, t, v] + 1
        expected = sum(
            grid[x - a, y - b, z - c, t + 1 - d] @ weight[a + 1, b + 1, c + 1, d + 1]
            for a, b, c, d in itertools.product((-1, 0, 1), repeat=4)
        )
        np.testing.assert_allclose(found[t, v], expected, atol=1e-5)


def test_sparse_convolution_gradients_equal_equation_9():
    torch.manual_seed(0)
    layer = SparseConvolution(2, 2, 3).double()
    around = near(distinct_cells(4, 2, 5))
    f = torch.randn(1, 10, 2, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f, w: torch.func.functional_call(layer, {"weight": w}, (f, around)),
                                    (f, layer.weight))  # fmt: skip


def test_sparse_pool_equals_equation_10():
    cells = distinct_cells(8, 2, 20, seed=3)
    f = torch.randn(1, 40, 3) - 5  # below zero: an empty place must not win
    found = near(cells, level=1).pool(f, 3)[0]
    flat = cells.reshape(-1, 3)
    coarse = near(cells, level=1).present[0]
    for i in np.flatnonzero(coarse.numpy()):
        inside = [j for j in range(40) if j // 20 == i // 20 and (flat[j] >> 1 == flat[i] >> 1).all()]
        torch.testing.assert_close(found[i], f[0, inside].amax(dim=0))


def test_temporal_convolution_uses_same_voxel():
    torch.manual_seed(0)
    cells = np.random.default_rng(0).integers(0, 2, (1, 8, 3, 3)).astype(np.int32)
    dilations = (1, 3)
    layer, around = TemporalConvolution(4, dilations).eval(), near(cells, dilations=dilations)
    f = torch.randn(1, 24, 4)
    found = layer(f, around)[0].detach().numpy()
    h = torch.relu(normalized_points(layer.split_norm, layer.split(f)))[0].detach().numpy()
    present = around.present[0].numpy()
    place = {(*cells[0, n // 3, n % 3], n // 3): n for n in range(24) if present[n]}
    scale = 1 / np.sqrt(1 + layer.norm.eps)
    for n in np.flatnonzero(present):
        for b, d in enumerate(dilations):
            part = slice(2 * b, 2 * b + 2)
            taps = [place.get((*cells[0, n // 3, n % 3], n // 3 + step)) for step in (-d, d)]
            window = [h[m, part] if m is not None else np.zeros(2) for m in taps] + [h[n, part]]
            expected = layer.branches[b].weight.detach().numpy() @ np.concatenate(window) * scale
            np.testing.assert_allclose(found[n, part], expected, atol=1e-5)


def test_normalized_points_padded_equals_unpadded():
    norm, f = torch.nn.BatchNorm1d(3), torch.randn(2, 10, 3) * 4 + 2
    present = torch.rand(2, 10) > 0.4
    normalized_points(norm, f[present])
    torch.testing.assert_close(norm.running_mean, 0.1 * f[present].mean(0))
    norm.eval()
    torch.testing.assert_close(normalized_points(norm, f)[present], norm(f[present]))


@pytest.mark.parametrize("name", ["spa_net_3p1d", "spa_net_4d"])
def test_spa_net_with_synchronized_normalization_scores_as_without(name):
    """As Lightning converts it on several GPUs; in evaluation SyncBatchNorm runs on a CPU too."""
    torch.manual_seed(0)
    model = network(name, kernel=3).eval()
    made = inputs(model, [people()])
    with torch.no_grad():
        expected = model(**made)
        found = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)(**made)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["spa_net_3p1d", "spa_net_4d"])
def test_points_give_scores_and_gradients_of_tables(name):
    torch.manual_seed(0)
    model = network(name, kernel=3, bodies=2).eval()
    clips = [people(bodies=2), people(bodies=2)[::-1].copy()]
    clips[1][1, 2:] = np.nan
    clips[0][0, 1:3, 4:9] = np.nan
    made = inputs(model, clips)
    f = made["voxel_features"].flatten(1, 3)
    levels = model._points(made)
    assert levels[0].count < f.shape[0] * f.shape[1]
    gradients = []
    for scores in (model(**made), model.scores(f.flatten(0, 1)[levels[0].slots], levels)):
        model.zero_grad()
        scores.square().sum().backward()
        gradients.append((scores.detach(), [p.grad.clone() for p in model.parameters()]))
    torch.testing.assert_close(gradients[0][0], gradients[1][0], atol=1e-5, rtol=1e-4)
    for padded, compact in zip(gradients[0][1], gradients[1][1], strict=True):
        torch.testing.assert_close(padded, compact, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["spa_net_3p1d", "spa_net_4d"])
def test_spa_net_absent_body_changes_nothing(name):
    one, two = network(name, kernel=3), network(name, kernel=3, bodies=2)
    clip = people()
    absent = np.concatenate([clip, np.full_like(clip, np.nan)])
    torch.testing.assert_close(logits(one, clip), logits(two, clip))
    torch.testing.assert_close(logits(one, clip), logits(two, absent))


def test_spa_net_body_order_changes_nothing():
    model = network(kernel=3, bodies=2, layout="hand_22")  # a hand is not turned by the first body's shoulders
    clip = people(bodies=2, joints=22) * 0.1
    torch.testing.assert_close(logits(model, clip), logits(model, clip[::-1].copy()), atol=1e-5, rtol=1e-4)


def test_spa_net_missing_joints_give_finite_scores():
    model, clip = network(), people()
    lost = clip.copy()
    lost[0, 2:4, 5:9] = np.nan
    scores = logits(model, clip, lost, np.full_like(clip, np.nan))
    assert torch.isfinite(scores).all()
    assert (scores[0] != scores[1]).any()
    torch.testing.assert_close(scores[2], model.fc.bias)


def test_spa_net_clips_of_batch_are_independent():
    model = network(kernel=3)
    a, b = people(seed=1), people(seed=2)
    torch.testing.assert_close(logits(model, a, b), torch.cat([logits(model, a), logits(model, b)]))


def test_spa_net_has_sizes_of_table_5():
    clip = people()
    scores = {}
    for space, kernel in ((32, 5), (64, 5), (128, 5), (64, 3), (64, 6)):
        model = network(space=space, kernel=kernel)
        assert len(model.levels[0][0].spatial.weight) == kernel**3
        assert model.preprocessing.space == space
        scores[space, kernel] = tuple(logits(model, clip)[0].tolist())
    assert len(set(scores.values())) == 5


def test_spa_net_4d_kernel_has_more_parameters():
    model = network("spa_net_4d")
    assert [len(level[0].spatiotemporal.weight) for level in model.levels] == [625, 625]
    assert len(network("spa_net_4d", temporal=3).levels[0][0].spatiotemporal.weight) == 375
    count = {name: sum(p.numel() for p in network(name).parameters()) for name in ("spa_net_3p1d", "spa_net_4d")}
    assert count["spa_net_4d"] > 4 * count["spa_net_3p1d"]


def test_spa_net_full_size_has_expected_parameters():
    count = {}
    for name in ("spa_net_3p1d", "spa_net_4d"):
        model: Any = actrec_models.networks.create(name, num_classes=60)
        count[name] = sum(p.numel() for p in model.parameters())
        assert {s.name for s in model.input_specs} == {f"voxel_{t}" for t in ("features", *model.tables)}
        assert model.input_specs[0].shape == (2, 64, 25, 25)
    assert count == {"spa_net_3p1d": 2_321_084, "spa_net_4d": 11_387_708}


def test_spa_net_bad_options_refused():
    with pytest.raises(ConfigError, match=r"space is 48, allowed: 32, 64, 128"):
        network(space=48)
    with pytest.raises(ConfigError, match=r"width 6 .*dilations"):
        network(width=6)
    assert network("spa_net_4d", width=6).config.width == 6, "dilations take no part there"
    with pytest.raises(ConfigError, match=r"dilations are \(1, 0\): one or more frames each"):
        network(dilations=(1, 0))
    with pytest.raises(ConfigError, match="one positive number a level"):
        network(widths=(1, 2, 2))
    with pytest.raises(ConfigError, match=r"layout is 'mediapipe_33', allowed: kinect_v2_25, hand_22"):
        network(layout="mediapipe_33")
    assert len(network(dilations=(1,)).levels[0][0].temporal.branches) == 1


@pytest.mark.parametrize(("name", "bodies"), [("spa_net_3p1d", 1), ("spa_net_3p1d", 2), ("spa_net_4d", 1)])
def test_spa_net_capacity_suffices_for_moving_people(name, bodies):
    model = actrec_models.networks.create(name, num_classes=10, bodies=bodies)
    clip = example_clip(model.input_specs, 64, bodies)
    made = model.preprocessing
    places = voxels.scaled(clip["bodies"], made, "kinect_v2_25")
    tables = voxels.tables(voxels.coordinates(places, made.space), made)
    assert [level.dropped for level in tables] == [0, 0, 0, 0]
    assert all(level.pairs > 100 for level in tables)


@pytest.mark.parametrize("name", ["spa_net_3p1d", "spa_net_4d"])
def test_spa_net_positions_distinguish_points_in_voxel(name):
    clip = people()
    moved = clip.copy()
    moved[:, :, 5] += 1e-5  # an elbow: neither the box nor the way that the body faces depends on it
    plain, placed = network(name), network(name, positions=True)
    assert inputs(placed, [clip])["voxel_features"].shape == (1, 1, 6, 25, 32)
    torch.testing.assert_close(logits(plain, clip), logits(plain, moved), rtol=0, atol=0)
    assert (logits(placed, clip) != logits(placed, moved)).any()
