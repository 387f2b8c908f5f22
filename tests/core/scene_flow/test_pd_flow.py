"""Primal-dual scene flow against the numpy reference, exact motion, and the authors' program."""

import itertools
from dataclasses import fields
from typing import Any

import cv2
import numpy as np
import pytest

from actrec import scene_flow
from actrec.scene_flow import primal_dual
from actrec.scene_flow.primal_dual import sweeps
from actrec.scene_flow.primal_dual.cpu import CpuSolver, Level, PdFlowConfig
from actrec.types import Intrinsics
from actrec.utils.errors import ConfigError
from benchmarks import scene_flow as scene_flow_benchmark
from tests.reference import primal_dual as reference

DT = 1 / 30
SMALL = Intrinsics(80, 60, 66.0, 66.0, 39.5, 29.5)


def scene(seed: int = 0, moved: tuple[float, float, float] = (0, 0, 0)) -> tuple[np.ndarray, np.ndarray]:
    """Return color and depth of a textured box in front of a wall, moved by `moved` m; a corner has no depth."""
    rng = np.random.default_rng(seed)
    texture = cv2.GaussianBlur(rng.normal(size=(400, 400)).astype(np.float32), (0, 0), 4)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX)
    c = SMALL
    x, y = (np.arange(80) - c.cx) / c.fx, (np.arange(60)[:, None] - c.cy) / c.fy
    gray, depth = _render(texture[:, 200:], x, y, 3.0, (0, 0)), np.full((60, 80), 3.0, np.float32)
    z = 2.0 + moved[2]
    inside = (abs(x * z - moved[0]) < 0.4) & (abs(y * z - moved[1]) < 0.4)
    gray = np.where(inside, _render(texture, x, y, z, moved[:2]), gray)
    depth[inside] = z
    depth[:8, :8] = np.nan
    return np.repeat(gray.astype(np.uint8)[..., None], 3, axis=2), depth


def _render(texture, x, y, z, offset):
    u = (np.broadcast_to(x, (60, 80)) * z - offset[0]) * 60 + 100
    v = (np.broadcast_to(y, (60, 80)) * z - offset[1]) * 60 + 200
    return cv2.remap(
        texture, u.astype(np.float32), v.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )


def image(color: np.ndarray, depth: np.ndarray) -> Level:
    gray = cv2.cvtColor(color, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return Level(gray, np.nan_to_num(depth), (SMALL.fx, SMALL.fy, SMALL.cx, SMALL.cy))


@pytest.mark.parametrize("threads", [1, 2])
def test_cpu_solver_matches_reference(threads: int) -> None:
    config = PdFlowConfig(iterations=40, fewer=10)
    first, second = image(*scene()), image(*scene(moved=(0.03, -0.02, 0.04)))
    expected, _ = reference.flow(first, second, config)
    solver = CpuSolver(config, threads)
    pyramids = [solver.pyramid(i.gray, i.depth, i.camera) for i in (first, second)]
    found = solver.solve(*pyramids)
    for name, plane in zip("uvw", found, strict=True):
        np.testing.assert_allclose(plane, getattr(expected, name), atol=2e-3, err_msg=name)


def test_pd_flow_stream_matches_reference() -> None:
    options = {"iterations": 25, "fewer": 5}
    methods: list[Any] = [scene_flow.create("pd_flow", device="cpu", threads=1, **options) for _ in range(2)]
    methods[0]._solver = reference.ReferenceSolver(methods[0].config)
    for k in range(2):  # the second pair starts from the first one's flow
        frames = (*scene(moved=(0.03 * k, 0, 0)), *scene(moved=(0.03 * (k + 1), 0, 0)))
        ours, theirs = (method.estimate(*frames, SMALL, DT) for method in methods)
        assert np.nanquantile(np.abs(ours - theirs), 0.99) < 2e-3
        np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))


def test_cpu_pyramid_matches_reference() -> None:
    first = image(*scene())
    solver = CpuSolver(PdFlowConfig(coarsest=4), 1)
    found = solver.pyramid(first.gray, first.depth, first.camera)
    expected = reference.pyramid(first, len(found))
    assert [level.gray.shape for level in found] == [(60, 80), (30, 40), (15, 20), (8, 10), (4, 5)]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours.gray, theirs.gray, rtol=1e-5)
        np.testing.assert_allclose(ours.depth, theirs.depth, rtol=1e-5)
        assert ours.camera == theirs.camera


@pytest.mark.parametrize("holes", [0.0, 0.3])
def test_velocity_equals_reference_bit_for_bit(holes: float) -> None:
    """Also at half pixels, far outside of the image, at missing depth and near the largest speed."""
    rng, shape = np.random.default_rng(4), (61, 83)
    depths = rng.uniform(0.5, 4, (2, *shape)).astype(np.float32)
    depths[:, :30, :40] = np.where(rng.random((30, 40)) < holes, 0, depths[:, :30, :40])
    depths[1, 20:45, 30:60] *= holes == 0
    flow = rng.normal(0, 1, (3, *shape)).astype(np.float32) * np.array([4, 4, 0.1], np.float32)[:, None, None]
    flow[:2, ::3] = np.round(2 * flow[:2, ::3]) / 2
    flow[:2, 5:9] *= 100
    first, second = (Level(depth, depth, (66.0, 65.3, 41.1, 29.7)) for depth in depths)
    ours, theirs = (part(first, flow, second, DT, 6.0) for part in (primal_dual._velocity, reference.velocity))
    assert ours.dtype == theirs.dtype == np.float32 and 0.2 < np.isfinite(ours).mean() < 0.9
    np.testing.assert_array_equal(ours, theirs)


def test_pd_flow_image_of_stream_equals_image_alone() -> None:
    """The pyramid of the image before is used again."""
    options = {"threads": 1, "device": "cpu", "iterations": 10, "fewer": 3, "warm_start": False}
    frames = [scene(moved=(0.03 * k, 0, 0)) for k in range(3)]
    stream, alone = (scene_flow.create("pd_flow", **options) for _ in range(2))
    stream.estimate(*frames[0], *frames[1], SMALL, DT)
    found = [method.estimate(*frames[1], *frames[2], SMALL, DT) for method in (stream, alone)]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("strips", [2, 3, 4])
def test_iterate_in_strips_equals_whole_sweeps(strips: int) -> None:
    rng = np.random.default_rng(1)
    state = rng.normal(size=(len(sweeps.STATE), 130, 37)).astype(np.float32)
    terms = 0.1 * rng.uniform(size=(len(sweeps.TERMS), 130, 37)).astype(np.float32)
    one, several = CpuSolver(PdFlowConfig(), 1), CpuSolver(PdFlowConfig(), strips)
    whole = sweeps.iterate(state, terms, 25, one._share, together=25)
    np.testing.assert_array_equal(sweeps.iterate(state, terms, 25, several._share), whole)


def test_reference_every_level_lowers_energy() -> None:
    config = PdFlowConfig()
    state, course = reference.flow(image(*scene()), image(*scene(moved=(0.02, 0.01, 0.03))), config)
    assert len(course) == 3
    for energies in course:
        assert energies[-1] < 0.8 * energies[0]
        assert energies[-1] == pytest.approx(energies[-5], rel=0.02)  # settled
    assert all(np.isfinite(getattr(state, f.name)).all() for f in fields(state))


@pytest.mark.parametrize("moved", [(0.03, 0, 0), (0, -0.03, 0), (0, 0, 0.04), (0.02, 0.02, -0.03)])
def test_pd_flow_moving_box_matches_motion(moved: tuple[float, float, float]) -> None:
    flow = scene_flow.create("pd_flow", threads=1).estimate(*scene(), *scene(moved=moved), SMALL, DT)
    box = scene()[1] == 2.0
    inner = cv2.erode(box.astype(np.uint8), np.ones((5, 5))) > 0
    error = np.linalg.norm(flow - np.array(moved) / DT, axis=-1)
    assert np.median(error[inner]) < 0.15 * np.linalg.norm(moved) / DT
    wall = cv2.erode((scene()[1] == 3.0).astype(np.uint8), np.ones((9, 9))) > 0
    assert np.median(np.linalg.norm(flow[wall], axis=-1)) < 0.03
    np.testing.assert_array_equal(np.isnan(flow).any(-1)[:8, :8], True)


def test_pd_flow_identical_frames_give_zero() -> None:
    color, depth = scene()
    flow = scene_flow.create("pd_flow", threads=1).estimate(color, depth, color, depth, SMALL, DT)
    np.testing.assert_array_equal(np.isnan(flow).any(-1), np.isnan(depth))
    assert np.nanmax(np.abs(flow)) < 1e-3


def test_pd_flow_speed_scales_with_dt() -> None:
    frames = (*scene(), *scene(moved=(0.02, 0, 0)))
    method = scene_flow.create("pd_flow", threads=1)
    quick, slow = (method.estimate(*frames, SMALL, dt) for dt in (DT, 2 * DT))
    np.testing.assert_allclose(quick, 2 * slow, rtol=1e-5)


@pytest.mark.parametrize("value", [np.nan, 0.0, np.inf])
def test_pd_flow_without_depth_is_nan(value: float) -> None:
    color, depth = scene()
    blind = np.full_like(depth, value)
    method = scene_flow.create("pd_flow", threads=1)
    assert np.isnan(method.estimate(color, blind, color, depth, SMALL, DT)).all()
    assert np.isnan(method.estimate(color, depth, color, blind, SMALL, DT)).all()


def test_pd_flow_hole_in_second_depth_is_bridged_at_rim() -> None:
    """Farther in, the change of depth is unknown and must not become 0 for a box that approaches at 1.2 m/s."""
    color0, depth0 = scene()
    color1, depth1 = scene(moved=(0, 0, -0.04))
    holed = depth1.copy()
    holed[20:40, 32:48] = np.nan
    holed[30, 20] = np.nan
    flow = scene_flow.create("pd_flow", threads=1).estimate(color0, depth0, color1, holed, SMALL, DT)
    assert np.isnan(flow[25:35, 37:43]).all()
    assert np.isfinite(flow[30, 20]).all()
    assert np.isfinite(flow[10:18, 10:70]).all()
    whole = scene_flow.create("pd_flow", threads=1).estimate(color0, depth0, color1, depth1, SMALL, DT)
    assert np.isfinite(whole[10:50, 10:70]).all()
    assert abs(np.median(flow[22:38, 28:31, 2]) + 1.2) < 0.1


def test_pd_flow_warm_start_finds_fast_motion() -> None:
    """A box at 6 m/s, 6.6 px a frame: too fast for a single pair, but not with the previous flow as a start."""
    frames = [scene(moved=(0.2 * k, 0, 0)) for k in range(-2, 3)]
    box = cv2.erode((frames[3][1] == 2.0).astype(np.uint8), np.ones((5, 5))) > 0
    errors = {}
    for warm in (False, True):
        method = scene_flow.create("pd_flow", threads=1, warm_start=warm)
        for before, after in itertools.pairwise(frames):
            flow = method.estimate(*before, *after, SMALL, DT)
        errors[warm] = np.median(np.linalg.norm(flow - np.array([0.2, 0, 0]) / DT, axis=-1)[box])
    assert errors[True] < 0.03 * 0.2 / DT
    assert errors[True] < 0.3 * errors[False]


def test_benchmark_unknown_part_raises() -> None:
    with pytest.raises(ConfigError, match="flow.*warping"):
        scene_flow_benchmark.measure(["--parts", "speed,flow"])


@pytest.mark.parametrize(("pair", "moving", "least"), [("1", 50_000, 0.97), ("2", 500, 0.99)])
def test_authors_pair_matches_authors_program(data_root, pair: str, moving: int, least: float) -> None:
    """Correlation and median difference of each component, at pixels that move by more than 1 cm."""
    ours, first, theirs = scene_flow_benchmark.authors_pair(data_root / "pdflow" / pair, threads=2)
    moving_pixels = (first.depth > 0) & (np.linalg.norm(theirs, axis=-1) > 0.01)
    assert moving_pixels.sum() > moving
    for axis in range(3):
        assert np.corrcoef(ours[moving_pixels][:, axis], theirs[moving_pixels][:, axis])[0, 1] > least
        assert np.median(np.abs(ours - theirs)[moving_pixels][:, axis]) < 5e-4
