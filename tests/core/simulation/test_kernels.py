"""The ray caster compared with a slow surface search in numpy, in double precision."""

from itertools import pairwise

import numpy as np
import pytest

from actrec.simulation import kernels
from actrec.simulation.renderer import ShapeBuilder, join_placed, place_shapes
from actrec.utils import jit
from actrec.utils.errors import DeviceError

CAMERA = np.array([120.0, 120.0, 39.5, 29.5], np.float32)
SIZE = (60, 80)


def signed_distance(points: np.ndarray, length: float, r0: float, r1: float) -> np.ndarray:
    """Return the signed distance of local points to the hull of two spheres along y (Quilez' exact formula)."""
    radial, y = np.hypot(points[..., 0], points[..., 2]), points[..., 1]
    if length <= abs(r0 - r1):
        center, radius = (length, r1) if r1 > r0 else (0.0, r0)
        return np.hypot(radial, y - center) - radius
    sine = (r0 - r1) / length
    cosine = np.sqrt(1 - sine**2)
    # Along the slope of the lateral surface: before its first tangent point, after its second, or between.
    along = y * cosine - radial * sine
    distance = radial * cosine + y * sine - r0
    distance = np.where(along < 0, np.hypot(radial, y) - r0, distance)
    return np.where(along > length * cosine, np.hypot(radial, y - length) - r1, distance)


def slow_depth(placed) -> np.ndarray:
    v, u = np.mgrid[: SIZE[0], : SIZE[1]]
    rays = np.stack([(u - CAMERA[2]) / CAMERA[0], (v - CAMERA[3]) / CAMERA[1], np.ones(SIZE)], -1).astype(np.float64)
    best = np.full(SIZE, np.inf)
    steps = np.linspace(0.5, 5.0, 900)
    for n in range(len(placed.origin)):
        to_local = np.linalg.inv(placed.to_camera[n].astype(np.float64))
        d = rays @ to_local.T
        o = -to_local @ placed.origin[n].astype(np.float64)
        f = lambda t, d=d, o=o, n=n: signed_distance(o + t[..., None] * d, *placed.shapes.profile[n].astype(np.float64))  # noqa: E731
        low, high = np.full(SIZE, np.nan), np.full(SIZE, np.nan)
        for a, b in pairwise(steps):
            enters = np.isnan(low) & (f(np.full(SIZE, b)) < 0)
            low[enters], high[enters] = a, b
        for _ in range(40):
            middle = (low + high) / 2
            is_inside = f(middle) < 0
            high, low = np.where(is_inside, middle, high), np.where(is_inside, low, middle)
        best = np.fmin(best, high)
    return best


def random_primitives(seed: int, count: int):
    random = np.random.default_rng(seed)
    builder = ShapeBuilder()
    for k in range(count):
        r0, r1 = random.uniform(0.05, 0.25, 2)
        end = random.uniform(-0.5, 0.5, 3) if k % 3 else None
        stretch = tuple(random.uniform(0.5, 1.6, 3)) if k % 2 else (1.0, 1.0, 1.0)
        builder.add(
            k,
            (0.0, 0.0, 0.0),
            None if end is None else tuple(end),
            (r0, r1 if k % 3 else r0),
            (1.0, 1.0, 1.0),
            stretch=stretch,
        )
    origins = np.stack(
        [random.uniform(-0.6, 0.6, count), random.uniform(-0.4, 0.4, count), random.uniform(1, 4, count)], 1
    )
    axes = np.linalg.qr(random.standard_normal((count, 3, 3)))[0]  # some of them mirrored
    return place_shapes(builder.build(), origins, axes, 0)


def rasterize(placed):
    depth, ids = np.full(SIZE, 1e9, np.float32), np.full(SIZE, -1, np.int16)
    arguments = (placed.origin, placed.to_camera, placed.to_local, placed.shapes.profile, CAMERA, np.float32(0.05))
    kernels.rasterize(*arguments, depth, ids)
    return depth, ids


@pytest.mark.parametrize("seed", range(3))
def test_rasterize_random_primitives_matches_slow_search(seed) -> None:
    placed = random_primitives(seed, 6)
    depth, ids = rasterize(placed)
    expected = slow_depth(placed)
    hit = ids >= 0
    assert hit.sum() > 100
    # Only one of the two may detect a ray that grazes a surface.
    both = hit & np.isfinite(expected)
    assert (hit != np.isfinite(expected)).mean() < 0.005
    error = np.abs(depth - expected)[both]
    assert np.quantile(error, 0.99) < 2e-5
    assert (error > 1e-3).mean() < 0.005


def test_rasterize_capsule_toward_camera_matches_slow_search() -> None:
    builder = ShapeBuilder()
    builder.add(0, (0.0, 0.0, 2.0), (0.0, 0.0, 3.0), (0.05, 0.20), (1.0, 1.0, 1.0))
    placed = place_shapes(builder.build(), np.zeros((1, 3)), np.eye(3)[None], 0)
    depth, ids = rasterize(placed)
    expected = slow_depth(placed)
    both = (ids >= 0) & np.isfinite(expected)
    assert both.sum() > 150
    np.testing.assert_allclose(depth[both], expected[both], atol=1e-4)
    assert depth[29:31, 39:41].min() == pytest.approx(1.95, abs=3e-3)


def test_rasterize_any_order_shows_nearer_primitive() -> None:
    builder = ShapeBuilder()
    builder.add(0, (0.0, 0.0, 2.0), None, (0.3, 0.3), (1.0, 0.0, 0.0))
    builder.add(0, (0.0, 0.0, 1.0), None, (0.1, 0.1), (0.0, 1.0, 0.0))
    placed = place_shapes(builder.build(), np.zeros((1, 3)), np.eye(3)[None], 0)
    depth, ids = rasterize(placed)
    assert ids[30, 40] == 1
    assert depth[30, 40] == pytest.approx(0.9, abs=5e-4)
    assert (ids == 0).any()


def test_rasterize_behind_camera_draws_nothing() -> None:
    builder = ShapeBuilder()
    builder.add(0, (0.0, 0.0, -2.0), None, (0.5, 0), (1.0, 1.0, 1.0))
    _, ids = rasterize(place_shapes(builder.build(), np.zeros((1, 3)), np.eye(3)[None], 0))
    assert (ids == -1).all()


def test_surface_normal_matches_gradient() -> None:
    placed = random_primitives(9, 6)
    depth, ids = rasterize(placed)
    rows, columns = np.nonzero(ids >= 0)
    for v, u in list(zip(rows, columns, strict=True))[::40]:
        n, z = ids[v, u], depth[v, u]
        point = np.array([(u - CAMERA[2]) / CAMERA[0] * z, (v - CAMERA[3]) / CAMERA[1] * z, z], np.float64)
        to_local = placed.to_local[n]
        q = kernels.local_point(to_local, placed.origin[n], *point.astype(np.float32))
        normal = np.array(kernels.surface_normal(to_local, *q, *placed.shapes.profile[n]))
        slow = np.empty(3)
        for k in range(3):
            step = np.eye(3)[k] * 1e-5
            local = [(point + s * step - placed.origin[n]) @ to_local.astype(np.float64).T for s in (1, -1)]
            profile = placed.shapes.profile[n].astype(np.float64)
            slow[k] = signed_distance(local[0], *profile) - signed_distance(local[1], *profile)
        assert normal @ slow / np.linalg.norm(slow) > 0.999


def test_join_placed_keeps_all_primitives() -> None:
    first, second = random_primitives(1, 3), random_primitives(2, 4)
    joined = join_placed([first, second])
    assert len(joined.shapes) == len(joined.origin) == 7
    np.testing.assert_array_equal(joined.origin[3:], second.origin)


def test_kernel_without_cache_folder_compiles(monkeypatch) -> None:
    compile_ = jit.numba.njit

    def no_cache(**options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return compile_(**options)

    def no_folder(name):
        raise DeviceError("no folder can be written")

    monkeypatch.setattr(jit.numba, "njit", no_cache)
    monkeypatch.setattr(jit.folders, "temporary", no_folder)
    assert jit.kernel(lambda x: x + 1)(2) == 3


def test_kernel_division_by_zero_is_infinite():
    divided = jit.kernel(lambda values: values / np.float32(0))
    assert divided(np.float32(1)) == np.inf
