import dataclasses

import numpy as np
import pytest

from actrec import features
from actrec.features import voxels
from actrec.features.specs import InputSpec
from actrec.features.voxels import VoxelPreprocessing
from actrec.skeleton import layouts
from actrec.utils.errors import ConfigError, InputError

NONE = VoxelPreprocessing(align="none")


def walk(bodies=1, frames=6, joints=25, seed=0, spread=0.6):
    """Return joints that drift, in m."""
    rng = np.random.default_rng(seed)
    start = rng.normal(0, spread, (bodies, 1, joints, 3))
    steps = np.cumsum(rng.normal(0, 0.03, (bodies, frames, joints, 3)), axis=1)
    return (start + steps + [0.0, 0.0, 2.5]).astype(np.float32)


def cells(clip, options):
    """Return voxels of 25 joints."""
    return voxels.coordinates(voxels.scaled(clip, options, "kinect_v2_25"), options.space)


def specs(bodies=1, frames=6, layout="kinect_v2_25", **more):
    options = VoxelPreprocessing(
        bodies=bodies, frames=frames, **{"align": "none", "tiles": (400, 400), "addends": (24, 24), **more}
    )
    joints = len(layouts.get(layout))
    points, levels = bodies * frames * joints, len(options.tiles)
    shapes = {
        "features": (bodies, frames, joints, joints + voxels.POSITIONS * options.positions),
        "neighbors": (sum(options.tiles), 1 + options.tile),
        "sums": (points, sum(options.addends)),
        "times": (levels, points, 2 * len(options.dilations)),
        "cells": (levels, points, 8),
    }
    return [
        InputSpec(f"voxel_{n}", f"voxel_{n}", layout, shape, preprocessing=dataclasses.asdict(options))
        for n, shape in shapes.items()
    ]


def test_coordinates_are_floored_in_cube_of_clip():
    clip = walk(frames=4)
    found = cells(clip, NONE)
    low, high = clip.min(axis=(0, 1, 2)), clip.max(axis=(0, 1, 2))
    extent = (high - low).max()
    literal = np.floor((clip - (low + high) / 2) / extent * 64 + 32)
    assert (found == np.minimum(literal, 63)).mean() > 0.999  # but for rounding of float32
    assert found.dtype == np.int32
    longest = int((high - low).argmax())
    assert found[..., longest].min() == 0
    assert found[..., longest].max() == 63


def test_coordinates_keep_proportions_and_ignore_position():
    clip = walk()
    assert (cells(clip, NONE) >= 0).all()
    extents = np.ptp(clip.reshape(-1, 3), axis=0)
    sides = np.ptp(cells(clip, NONE).reshape(-1, 3), axis=0)
    np.testing.assert_allclose(sides / sides.max(), extents / extents.max(), atol=0.04)
    moved = cells(clip + np.float32([1.0, -0.5, 0.25]), NONE)
    assert (moved == cells(clip, NONE)).mean() > 0.99  # but for rounding of float32


@pytest.mark.parametrize("space", [32, 64, 128])
def test_coordinates_longest_side_spans_space(space):
    options = dataclasses.replace(NONE, space=space)
    assert cells(walk(), options).max() == space - 1


def test_coordinates_aligned_ignore_orientation():
    options = dataclasses.replace(NONE, align="yaw")
    clip = walk(spread=0.3)
    turn = np.float32([[0.8, 0, 0.6], [0, 1, 0], [-0.6, 0, 0.8]])
    same = cells(clip @ turn.T, options) == cells(clip, options)
    assert same.mean() > 0.99


def test_coordinates_small_clip_keeps_minimum_extent():
    clip = np.full((1, 3, 25, 3), 0.5, np.float32)
    assert (cells(clip, NONE) == 32).all()
    clip[0, 0, 0, 0] += 0.15  # a tenth of the least extent
    assert np.ptp(cells(clip, NONE)[..., 0]) in (6, 7)


def test_features_are_one_hot_with_one_point_per_voxel():
    cells = np.zeros((1, 1, 4, 3), np.int32)
    cells[0, 0, 1] = cells[0, 0, 3] = 5  # joints 1 and 3 share a voxel
    cells[0, 0, 2] = -1  # missing
    summed, first = voxels.features(cells, "sum")[0, 0], voxels.features(cells, "first")[0, 0]
    np.testing.assert_array_equal(summed, [[1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(first, [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])


def test_positions_are_in_voxel_in_space_and_time():
    clip = walk(frames=4)
    clip[0, 2, 7] = np.nan
    plain, more = (features.inputs({"bodies": clip}, specs(frames=4, positions=p)) for p in (False, True))
    np.testing.assert_array_equal(more["voxel_features"][..., :25], plain["voxel_features"])
    for name in ("voxel_neighbors", "voxel_sums", "voxel_times", "voxel_cells"):
        np.testing.assert_array_equal(more[name], plain[name])
    found = more["voxel_features"][..., 25:]
    points = plain["voxel_features"].sum(axis=-1) == 1  # alone in their voxel
    assert 90 < points.sum() < 100
    scaled = voxels.scaled(clip, NONE, "kinect_v2_25")[points]
    np.testing.assert_allclose((found[points][:, :3] + 1) / 2 + np.minimum(np.floor(scaled), 63), scaled, atol=1e-4)
    np.testing.assert_allclose((found[points][:, 3:6] + 1) / 2 * 64, scaled, atol=1e-4)
    assert sorted(set(found[points][:, 6])) == [-0.75, -0.25, 0.25, 0.75]
    assert not found[0, 2, 7].any()
    assert np.abs(found).max() <= 1


def test_positions_shared_voxel_is_mean():
    places = np.full((1, 1, 4, 3), 8.0, np.float32)
    places[0, 0, 1], places[0, 0, 3] = 4.25, 4.75
    places[0, 0, 2] = np.nan
    summed, first = (voxels.positions(places, 16, merge)[0, 0] for merge in ("sum", "first"))
    np.testing.assert_allclose(summed[1], [0.0] * 3 + [-0.4375] * 3 + [0.0])
    np.testing.assert_allclose(first[1], [-0.5] * 3 + [-0.46875] * 3 + [0.0])
    np.testing.assert_allclose(summed[0], [-1.0] * 3 + [0.0] * 3 + [0.0])
    assert not summed[2:].any()
    assert not first[2:].any()


def test_features_two_bodies_share_space():
    cells = np.zeros((2, 1, 3, 3), np.int32)
    cells[1] = 9
    cells[1, 0, 2] = 0  # the second body's joint 2 in the voxel of the first body
    made = voxels.features(cells, "sum")
    np.testing.assert_array_equal(made[0, 0, 0], [1, 1, 2])
    np.testing.assert_array_equal(made[1, 0, 0], [1, 1, 0])
    assert made.sum() == 6


def test_features_missing_joints_are_no_points():
    clip = walk(frames=6)
    clip[0, 2, 7] = np.nan
    clip[0, 3, 8, 1] = np.nan
    made = features.inputs({"bodies": clip}, specs(bodies=2))
    assert all(np.isfinite(value).all() for value in made.values())
    for lost in ((0, 2, 7), (0, 3, 8)):
        assert not made["voxel_features"][lost].any()
    row = 1 + 2 * 25 + 7
    for name in ("voxel_sums", "voxel_times", "voxel_cells"):
        table = made[name].reshape(-1, 300, made[name].shape[-1])
        assert not table[:, [row - 1]].any(), name
        assert not table[:, 150:].any(), name  # the second body
    for name in ("voxel_times", "voxel_cells"):
        assert row not in made[name]
    assert row not in made["voxel_neighbors"][:, 1:]
    assert made["voxel_features"].sum() == 6 * 25 - 2


def test_features_empty_clip_has_no_points():
    made = features.inputs({"bodies": np.full((1, 6, 25, 3), np.nan, np.float32)}, specs())
    assert not any(value.any() for value in made.values())


def test_offsets_even_kernel_is_asymmetric():
    reach = voxels.offsets(6, 1)  # R(i) − R(j)
    assert (-reach).min() == -2
    assert (-reach).max() == 3
    assert len(reach) == 216
    assert len(voxels.offsets(5, 5)) == 625
    assert np.abs(voxels.offsets(3, 1)[:, :3]).max() == 1


@pytest.mark.parametrize(("kernel", "temporal"), [(3, 1), (5, 1), (6, 1), (3, 3), (3, 2)])
def test_tables_list_each_neighbor_once(kernel, temporal):
    cells = np.random.default_rng(0).integers(0, 7, (2, 3, 8, 3)).astype(np.int32)
    cells[0, 1, 3] = -1
    made = voxels.build(cells, 0, kernel, temporal, (1,), (600, 4, 200))
    assert made.dropped == 0
    positions = [tuple(o) for o in voxels.offsets(kernel, temporal)]
    coordinate = {
        1 + (m * 3 + t) * 8 + v: (*(int(x) for x in cells[m, t, v]), t)
        for m in range(2) for t in range(3) for v in range(8) if cells[m, t, v, 0] >= 0
    }  # fmt: skip
    order = sorted(coordinate, key=lambda row: ((row - 1) % 24 // 8, (row - 1) // 24, (row - 1) % 8))
    point = {}  # coordinate to the first joint there, bodies and joints in order
    for row in order:
        point.setdefault(coordinate[row], row)
    expected = {
        (i, j, difference)
        for a, i in point.items()
        for b, j in point.items()
        if i != j and (difference := tuple(np.subtract(a, b))) in positions
    }
    found = {
        (i + 1, int(made.tiles[(p - 1) // 4, 1 + (p - 1) % 4]), positions[int(made.tiles[(p - 1) // 4, 0])])
        for i, row in enumerate(made.sums.astype(int)) for p in row if p
    }  # fmt: skip
    assert found == expected
    assert made.pairs == len(expected)


def test_tables_over_capacity_keep_nearest():
    cells = np.zeros((1, 1, 5, 3), np.int32)
    cells[0, 0, :, 0] = [0, 1, 2, 3, 4]  # a row of voxels: joint 2 has four neighbors
    whole = voxels.build(cells, 0, 5, 1, (1,), (100, 2, 4))
    assert (whole.pairs, whole.dropped) == (14, 0)
    few = voxels.build(cells, 0, 5, 1, (1,), (100, 2, 2))
    assert (few.pairs, few.dropped) == (14, 4)
    products = few.sums[2].astype(int)
    assert sorted(few.tiles[(products - 1) // 2, 1 + (products - 1) % 2]) == [2, 4]  # rows of joints 1 and 3
    tiles = voxels.build(cells, 0, 5, 1, (1,), (3, 2, 4))
    assert tiles.dropped == 8
    assert tiles.sums.max() <= 6


def test_cells_pool_at_most_eight_voxels():
    cells = np.random.default_rng(1).integers(0, 8, (1, 2, 20, 3)).astype(np.int32)
    fine, coarse = (voxels.build(cells, level, 3, 1, (1,), (400, 4, 40)) for level in (0, 1))
    points = np.flatnonzero(fine.cells[:, 0])
    np.testing.assert_array_equal(fine.cells[points], np.repeat(points[:, None] + 1, 8, axis=1))
    flat = cells.reshape(-1, 3)
    for i in np.flatnonzero(coarse.cells[:, 0]):
        children = {int(row) for row in coarse.cells[i]}
        frame = i // 20
        expected = {j + 1 for j in points if j // 20 == frame and (flat[j] // 2 == flat[i] // 2).all()}
        assert children == expected
    pooled = {int(row) for row in coarse.cells.ravel()} - {0}
    assert pooled == set(points + 1)


def test_times_list_same_voxel_at_dilations():
    cells = np.full((1, 4, 2, 3), -1, np.int32)
    cells[0, :, 0] = [[1, 1, 1], [1, 1, 1], [2, 1, 1], [1, 1, 1]]
    cells[0, 2, 1] = [1, 1, 1]  # another joint comes to where the first has been
    made = voxels.build(cells, 0, 3, 1, (1, 3), (50, 2, 4)).times.astype(int)
    row = {(t, v): 1 + t * 2 + v for t in range(4) for v in range(2)}
    np.testing.assert_array_equal(made[row[0, 0] - 1], [0, row[1, 0], 0, row[3, 0]])
    np.testing.assert_array_equal(made[row[1, 0] - 1], [row[0, 0], row[2, 1], 0, 0])
    np.testing.assert_array_equal(made[row[2, 0] - 1], [0, 0, 0, 0])
    np.testing.assert_array_equal(made[row[2, 1] - 1], [row[1, 0], row[3, 0], 0, 0])


def test_times_list_same_joint_at_dilations():
    """The joint is followed to other voxels; a point of two joints follows the first, which may join another point."""
    cells = np.full((1, 4, 3, 3), -1, np.int32)
    cells[0, :, 0] = [[1, 1, 1], [9, 1, 1], [2, 1, 1], [5, 1, 1]]
    cells[0, 1:, 1] = [[9, 1, 1], [7, 1, 1], [5, 1, 1]]  # not in the first frame; with joint 0 in frames 1 and 3
    cells[0, :, 2] = [[3, 3, 3], [3, 3, 3], [2, 1, 1], [3, 3, 3]]  # with joint 0 in frame 2
    made = voxels.build(cells, 0, 3, 1, (1, 3), (50, 2, 4), "joint").times.astype(int)
    row = {(t, v): 1 + t * 3 + v for t in range(4) for v in range(3)}
    np.testing.assert_array_equal(made[row[0, 0] - 1], [0, row[1, 0], 0, row[3, 0]])
    np.testing.assert_array_equal(made[row[1, 0] - 1], [row[0, 0], row[2, 0], 0, 0])
    np.testing.assert_array_equal(made[row[2, 1] - 1], [row[1, 0], row[3, 0], 0, 0])
    np.testing.assert_array_equal(made[row[3, 2] - 1], [row[2, 0], 0, row[0, 2], 0])
    for absent in ((0, 1), (1, 1), (2, 2), (3, 1)):
        assert not made[row[absent] - 1].any()


def test_voxel_features_longer_clip_is_subsampled():
    clip = walk(frames=24)
    made = features.inputs({"bodies": clip}, specs())
    expected = features.inputs({"bodies": clip[:, [3, 7, 11, 15, 19, 23]]}, specs())
    for name, value in made.items():
        np.testing.assert_array_equal(value, expected[name])


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 6, 20, 3), r"\[1, 6, 20, 3\].*25 joints"),
        ((1, 5, 25, 3), r"\[1, 5, 25, 3\].*at least 6 frames"),
        ((3, 6, 25, 3), r"\[3, 6, 25, 3\].*up to 1 bodies"),
        ((6, 25, 3), r"\[6, 25, 3\]"),
    ],
)
def test_voxel_features_wrong_shape_raises(shape, message):
    with pytest.raises(InputError, match=message):
        features.inputs({"bodies": np.zeros(shape, np.float32)}, specs())


def test_voxel_features_invalid_input_raises():
    with pytest.raises(InputError, match="'voxel_features'.*'bodies'"):
        features.inputs({}, specs())
    clip = {"bodies": walk()}
    with pytest.raises(ConfigError, match="octopus_8"):
        features.inputs(clip, [dataclasses.replace(specs()[0], layout="octopus_8")])
    with pytest.raises(ConfigError, match=r"hand_22.*align"):
        features.inputs({"bodies": walk(joints=22)}, specs(layout="hand_22", align="yaw"))
    with pytest.raises(InputError, match=r"voxel_cells.*\[7, 150, 8\].*\[2, 150, 8\]"):
        features.inputs(clip, [dataclasses.replace(specs()[4], shape=(7, 150, 8))])


def test_voxel_features_hand_layout():
    made = features.inputs({"bodies": walk(joints=22, spread=0.05)}, specs(layout="hand_22"))
    assert made["voxel_features"].shape == (1, 6, 22, 22)
    assert made["voxel_features"].sum() == 6 * 22
