"""Settings of the primal-dual scene flow, and its solver on the CPU (numba), strips of rows shared among threads.

The functions run once a level: pyramid, terms of the energy, weighted median, upsampling. Those that take `low` and
`high` write these rows of their output only, so that threads can share an image. The iterations are in `sweeps`.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from actrec.scene_flow.primal_dual import sweeps
from actrec.scene_flow.primal_dual.sweeps import TERMS
from actrec.utils import jit
from actrec.utils.config import setting


@dataclass(frozen=True)
class PdFlowConfig:
    """Settings of `PdFlow`, the defaults of the authors' program."""

    device: str = setting("auto", "auto uses CUDA if CuPy finds a GPU, else the CPU", choices=("auto", "cpu", "cuda"))
    threads: int = setting(0, "CPU threads; 0 for all.", range=(0, 256))
    warm_start: bool = setting(True, "Start from the previous pair's flow if frames are given in order.")
    max_speed_m_s: float = setting(
        8.0, "Discard faster motion: a surface that was occluded before.", unit="m/s", range=(0.1, 100.0)
    )
    smooth_image: float = setting(
        0.04, "λ_I, weight of the total variation of the motion in the image.", range=(0.0, 10.0)
    )
    smooth_depth: float = setting(
        0.35, "λ_D, weight of the total variation of the change of depth.", range=(0.0, 100.0)
    )
    depth_weight: float = setting(75.0, "μ, weight of depth against intensity (0 to 255).", range=(0.0, 10_000.0))
    depth_edges: float = setting(
        1000.0, "How much a change of depth, in space or time, lowers the weight of depth.", range=(0.0, 1e6)
    )
    median_depth: float = setting(
        5.0, "How much a difference of depth lowers a neighbor's weight in the median.", range=(0.0, 1e4)
    )
    median_change: float = setting(
        10.0, "How much a change of depth over time lowers a neighbor's weight in the median.", range=(0.0, 1e4)
    )
    coarsest: int = setting(15, "Minimum rows or columns of the coarsest level.", unit="px", range=(4, 1024))
    iterations: int = setting(100, "Iterations at the finest level.", range=(1, 10_000))
    fewer: int = setting(15, "Fewer iterations at each coarser level.", range=(0, 1000))

    def plan(self, shape: tuple[int, ...]) -> list[int]:
        """Return the iterations of each pyramid level of an image [H, W], finest first."""
        levels, smallest = 1, min(shape[:2])
        while (smallest + 1) // 2 >= self.coarsest:
            levels, smallest = levels + 1, (smallest + 1) // 2
        return [max(self.iterations - self.fewer * level, 1) for level in range(levels)]


DEPTH_STEP = 0.1
"""Depths farther apart than this (m) are different surfaces and are not averaged in the pyramid."""

MIN_ROWS = 30
"""Minimum rows per thread: fewer take less time than waking the thread."""

Camera = tuple[float, ...]
"""fx, fy, cx, cy; half of each at the next coarser level."""


@dataclass(frozen=True)
class Level:
    """An image at one size."""

    gray: np.ndarray  # [H, W] float32, 0 to 255
    depth: np.ndarray  # [H, W] float32 m, 0 for missing
    camera: Camera  # fx, fy, cx, cy
    closeness: np.ndarray | None = None  # [2, H, W] r_x and r_y of the surface, in the solver's pyramids


BRIDGED_PX = 3
"""Width (px) of the rim of a hole in the second depth image that still gets a flow; farther in, depth is unknown."""

KEPT = ("u", "v", "w", "pd", "pux", "puy", "pvx", "pvy", "pwx", "pwy")
"""Planes passed on to the next finer level: the flow and its duals."""


def is_same(image: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> bool:
    """Return whether two images, color and depth, are equal, missing depth included."""
    (color, depth), (other_color, other_depth) = image, other
    same_depth = np.array_equal(depth.view(np.int32), other_depth.view(np.int32))
    return same_depth and np.array_equal(color, other_color)


def coarse_start(flow: np.ndarray | None, levels: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return the initial planes [10, h, w] (see `KEPT`) of the coarsest of `levels` levels, h×w.

    `flow` is u, v (pixels), w (m) at full size, [3, H, W]; None for no motion.
    """
    start = np.zeros((len(KEPT), *shape), np.float32)
    if flow is not None:
        factor = 1 << (levels - 1)
        start[:3] = flow[:, ::factor, ::factor]
        start[:2] /= factor
    return start


_F = np.float32
_MASK = (_F(1 / 16), _F(4 / 16), _F(6 / 16), _F(4 / 16), _F(1 / 16))
_STEP = _F(DEPTH_STEP)
_EPS = _F(1e-10)
_NAN = _F(math.nan)
_FASTMATH = {"contract", "reassoc", "nsz", "arcp"}


@jit.njit(nogil=True, fastmath=_FASTMATH)
def half(gray, depth, out_gray, out_depth, low, high):  # type: ignore[no-untyped-def]
    """Write the next coarser level of gray and depth [H, W]."""
    rows, columns = gray.shape
    column = np.empty(columns, np.float32)
    for y in range(low, high):
        total = _F(0)
        column[:] = 0
        for j in range(5):
            v = 2 * y + j - 2
            if 0 <= v < rows:
                _add(column, gray[v], _MASK[j])
                total += _MASK[j]
        for x in range(out_gray.shape[1]):
            share, value = _F(0), _F(0)
            for i in range(max(2 - 2 * x, 0), min(5, columns + 2 - 2 * x)):
                value += _MASK[i] * column[2 * x + i - 2]
                share += _MASK[i]
            out_gray[y, x] = value / (share * total)
            out_depth[y, x] = _near(depth, 2 * x, 2 * y)


@jit.njit(nogil=True, fastmath=_FASTMATH)
def _add(total, row, weight):  # type: ignore[no-untyped-def]
    for x in range(total.size):
        total[x] += weight * row[x]


@jit.njit(nogil=True, fastmath=_FASTMATH)
def _near(depth, x, y):  # type: ignore[no-untyped-def]
    """Return the weighted mean of the neighboring depths on the pixel's own surface."""
    rows, columns = depth.shape
    middle = depth[y, x]
    if not middle > 0:
        return _F(0)
    total, near = _F(0), _F(0)
    for j in range(max(-2, -y), min(3, rows - y)):
        for i in range(max(-2, -x), min(3, columns - x)):
            value = depth[y + j, x + i]
            apart = abs(value - middle)
            if value > 0 and apart < _STEP:
                weight = _MASK[j + 2] * _MASK[i + 2] * (_STEP - apart)
                total += weight * value
                near += weight
    return total / near


@jit.njit(nogil=True, fastmath=_FASTMATH)
def doubled(values, factor, out):  # type: ignore[no-untyped-def]
    """Write `factor` times a level's values, upsampled to the next finer level."""
    rows, columns = out.shape
    last = values.shape[0] - 1
    line = np.empty(values.shape[1], np.float32)
    for y in range(rows):
        k, a, b, c = _weights(y, last)
        above, middle, below = values[max(k - 1, 0)], values[k], values[min(k + 1, last)]
        for x in range(line.size):
            line[x] = factor * (a * above[x] + b * middle[x] + c * below[x])
        end = line.size - 1
        for x in range(columns):
            k, a, b, c = _weights(x, end)
            out[y, x] = a * line[max(k - 1, 0)] + b * line[k] + c * line[min(k + 1, end)]


@jit.njit(nogil=True, inline="always")
def _weights(x, last):  # type: ignore[no-untyped-def]
    """Return k and the weights of the coarse pixels k − 1, k and k + 1 at the fine pixel x; 0 outside the image."""
    k = x // 2
    before, at, after = (_F(1), _F(6), _F(1)) if x % 2 == 0 else (_F(0), _F(4), _F(4))
    before = before if k > 0 else _F(0)
    after = after if k < last else _F(0)
    total = before + at + after
    return k, before / total, at / total, after / total


@jit.njit(nogil=True, fastmath=_FASTMATH)
def surface(depth, fx, fy, cx, cy, rx, ry, low, high):  # type: ignore[no-untyped-def]
    """Write r_x and r_y."""
    rows, columns = depth.shape
    for y in range(low, high):
        for x in range(columns):
            z = depth[y, x]
            right, down = depth[y, min(x + 1, columns - 1)], depth[min(y + 1, rows - 1), x]
            rx[y, x] = _closeness(((x + 1 - cx) * right - (x - cx) * z) / fx, right - z) if x + 1 < columns else _F(1)
            ry[y, x] = _closeness(((y + 1 - cy) * down - (y - cy) * z) / fy, down - z) if y + 1 < rows else _F(1)


@jit.njit(nogil=True, inline="always")
def _closeness(side, away):  # type: ignore[no-untyped-def]
    apart = math.sqrt(side * side + away * away)
    return _F(2 / apart) if apart > 0 else _F(1)


@jit.njit(nogil=True, fastmath=_FASTMATH)
def gradients(gray, depth, rx, ry, ix, iy, zx, zy, low, high):  # type: ignore[no-untyped-def]
    """Write the gradients of gray and of depth."""
    rows, columns = gray.shape
    for y in range(low, high):
        up, down = max(y - 1, 0), min(y + 1, rows - 1)
        for x in range(columns):
            left, right = max(x - 1, 0), min(x + 1, columns - 1)
            a, b = rx[y, x] if x < columns - 1 else _F(0), rx[y, left] if x > 0 else _F(0)
            c, d = ry[y, x] if y < rows - 1 else _F(0), ry[up, x] if y > 0 else _F(0)
            whole_x, whole_y = max(a + b, _EPS), max(c + d, _EPS)
            g, z = gray[y, x], depth[y, x]
            ix[y, x] = (a * (gray[y, right] - g) + b * (g - gray[y, left])) / whole_x
            iy[y, x] = (c * (gray[down, x] - g) + d * (g - gray[up, x])) / whole_y
            known = z > 0
            zx[y, x] = (a * (depth[y, right] - z) + b * (z - depth[y, left])) / whole_x if known else _F(0)
            zy[y, x] = (c * (depth[down, x] - z) + d * (z - depth[up, x])) / whole_y if known else _F(0)


@jit.njit(nogil=True, fastmath=_FASTMATH)
def energy_terms(gray0, depth0, gray1, depth1, ix, iy, zx, zy, u, v, weights, out, change, low, high):  # type: ignore[no-untyped-def]
    """Write the rows low to high of the planes `sweeps.TERMS`, except rx and ry, which are read.

    Args:
        gray0, depth0, gray1, depth1: [H, W] of both images.
        ix, iy, zx, zy: Gradients of the second.
        u, v: The flow along which the second image is warped back.
        weights: λ_I, λ_D, μ and `depth_edges`.
        out: [18, H, W].
        change: [H, W], out: change of depth after warping.
    """
    smooth_i, smooth_d, depth_weight, edges = weights
    rows, columns = gray0.shape
    for y in range(low, high):
        for x in range(columns):
            du, dv = u[y, x], v[y, x]
            px, py = min(max(x + du, _F(0)), _F(columns - 1)), min(max(y + dv, _F(0)), _F(rows - 1))
            x0, y0 = min(int(px), max(columns - 2, 0)), min(int(py), max(rows - 2, 0))
            x1, y1 = min(x0 + 1, columns - 1), min(y0 + 1, rows - 1)
            a, b = _F(px - x0), _F(py - y0)
            w00, w01, w10, w11 = (1 - a) * (1 - b), a * (1 - b), (1 - a) * b, a * b
            it = w00 * gray1[y0, x0] + w01 * gray1[y0, x1] + w10 * gray1[y1, x0] + w11 * gray1[y1, x1] - gray0[y, x]
            gx = w00 * ix[y0, x0] + w01 * ix[y0, x1] + w10 * ix[y1, x0] + w11 * ix[y1, x1]
            gy = w00 * iy[y0, x0] + w01 * iy[y0, x1] + w10 * iy[y1, x0] + w11 * iy[y1, x1]
            hx = w00 * zx[y0, x0] + w01 * zx[y0, x1] + w10 * zx[y1, x0] + w11 * zx[y1, x1]
            hy = w00 * zy[y0, x0] + w01 * zy[y0, x1] + w10 * zy[y1, x0] + w11 * zy[y1, x1]
            d00, d01, d10, d11 = depth1[y0, x0], depth1[y0, x1], depth1[y1, x0], depth1[y1, x1]
            valid = (
                (d00 > 0 or w00 <= 1e-6)
                and (d01 > 0 or w01 <= 1e-6)
                and (d10 > 0 or w10 <= 1e-6)
                and (d11 > 0 or w11 <= 1e-6)
            )
            z = w00 * d00 + w01 * d01 + w10 * d10 + w11 * d11 if valid else depth1[int(py + 0.5), int(px + 0.5)]
            zt = z - depth0[y, x] if z > 0 else _F(0)
            change[y, x] = zt
            mu = depth_weight / (1 + edges * (hx * hx + hy * hy + zt * zt))
            around = out[7, y, x] + out[8, y, x]
            around += (out[7, y, x - 1] if x > 0 else _F(0)) + (out[8, y - 1, x] if y > 0 else _F(0))
            tau_u = 1 / (mu * abs(hx) + smooth_i * around + _EPS)
            tau_v = 1 / (mu * abs(hy) + smooth_i * around + _EPS)
            tau_w = 1 / (mu + smooth_d * around + _EPS)
            out[0, y, x], out[1, y, x], out[2, y, x] = it - gx * du - gy * dv, gx, gy
            out[3, y, x], out[4, y, x], out[5, y, x] = zt - hx * du - hy * dv, hx, hy
            out[6, y, x] = mu / (mu * (1 + abs(hx) + abs(hy)) + _EPS)
            out[9, y, x], out[10, y, x], out[11, y, x] = -tau_u * mu * hx, -tau_v * mu * hy, tau_w * mu
            out[12, y, x], out[13, y, x], out[14, y, x] = smooth_i * tau_u, smooth_i * tau_v, smooth_d * tau_w
            out[15, y, x], out[16, y, x] = tau_u * gx, tau_v * gy
            out[17, y, x] = 1 / (tau_u * gx * gx + tau_v * gy * gy + _EPS)


assert TERMS.index("rx") == 7 and TERMS.index("reach") == 17  # as `energy_terms` writes them

# 25 exchanges that sort nine values (Knuth, The Art of Computer Programming 3, §5.3.4).
_NETWORK = np.array(
    [
        *((0, 3), (1, 7), (2, 5), (4, 8), (0, 7), (2, 4), (3, 8), (5, 6), (0, 2), (1, 3), (4, 5), (7, 8), (1, 4)),
        *((3, 6), (5, 7), (0, 1), (2, 4), (3, 5), (6, 8), (2, 3), (4, 5), (6, 7), (1, 2), (3, 4), (5, 6)),
    ]
)

_FAR = _F(1e30)


@jit.njit(nogil=True, fastmath=_FASTMATH)
def median(values, depth, change, weigh_depth, weigh_change, out, low, high):  # type: ignore[no-untyped-def]
    """Write the rows low to high of the 3×3 weighted median of planes [K, H, W]; pixels without depth keep theirs.

    Squared differences of depth [H, W] (m, 0 for missing) and its change over time, times `weigh_depth` and
    `weigh_change`, lower a neighbor's weight.
    """
    rows, columns = depth.shape
    weights, sorted_weights = np.zeros((9, columns), np.float32), np.empty((9, columns), np.float32)
    near, total = np.empty((9, columns), np.float32), np.empty(columns, np.float32)
    found = np.empty(columns, np.float32)
    for y in range(low, high):
        total[:] = 0
        for n in range(9):
            j, i = y + n // 3 - 1, n % 3 - 1
            weights[n] = 0
            if 0 <= j < rows:
                first, last = max(-i, 0), columns - max(i, 0)
                _weigh(weights[n, first:last], depth[j, first + i : last + i], depth[y, first:last],
                       change[j, first + i : last + i], weigh_depth, weigh_change)  # fmt: skip
            _add(total, weights[n], _F(1))
        for k in range(values.shape[0]):
            for n in range(9):
                j, i = y + n // 3 - 1, n % 3 - 1
                near[n] = _FAR
                if 0 <= j < rows:
                    first, last = max(-i, 0), columns - max(i, 0)
                    _set(near[n, first:last], values[k, j, first + i : last + i])
                _set(sorted_weights[n], weights[n])
            for n in range(len(_NETWORK)):
                p, q = _NETWORK[n, 0], _NETWORK[n, 1]
                _exchange(near[p], near[q], sorted_weights[p], sorted_weights[q])
            _choose(found, near, sorted_weights, total)
            _known(out[k, y], found, values[k, y], depth[y])


@jit.njit(nogil=True, fastmath=_FASTMATH)
def _weigh(weights, depth, middle, change, weigh_depth, weigh_change):  # type: ignore[no-untyped-def]
    for x in range(weights.size):
        apart = depth[x] - middle[x]
        weights[x] = _F(1) / (_F(1) + weigh_depth * apart * apart + weigh_change * change[x] * change[x])


@jit.njit(nogil=True, fastmath=_FASTMATH)
def _set(to, values):  # type: ignore[no-untyped-def]
    """Copy values; `to[:] = values` takes three seconds longer to compile, for its message about unequal shapes."""
    for x in range(to.size):
        to[x] = values[x]


@jit.njit(nogil=True, fastmath=_FASTMATH)
def _exchange(a, b, weight_a, weight_b):  # type: ignore[no-untyped-def]
    for x in range(a.size):
        swap = a[x] > b[x]
        p, q, r, s = a[x], b[x], weight_a[x], weight_b[x]
        a[x] = q if swap else p
        b[x] = p if swap else q
        weight_a[x] = s if swap else r
        weight_b[x] = r if swap else s


@jit.njit(nogil=True, fastmath=_FASTMATH)
def _choose(found, values, weights, total):  # type: ignore[no-untyped-def]
    """Write the value at which the cumulated weights reach half of the total, interpolated between two values."""
    for x in range(found.size):
        goal, so_far = _F(0.5) * total[x], _F(0)
        found[x] = values[0, x]
        for n in range(9):
            before, so_far = so_far, so_far + weights[n, x]
            if before < goal <= so_far and n > 0:
                share = (goal - before) / (so_far - before)
                found[x] = (_F(1) - share) * values[n - 1, x] + share * values[n, x]


@jit.njit(nogil=True, fastmath=_FASTMATH)
def _known(out, found, value, depth):  # type: ignore[no-untyped-def]
    for x in range(out.size):
        out[x] = found[x] if depth[x] > 0 else value[x]


@jit.njit(nogil=True)
def write_velocity(depth, flow, bridged, camera, dt, fastest, out):  # type: ignore[no-untyped-def]
    """Write the velocity of each pixel, m/s; NaN without depth, if too fast, or if it leads into a hole.

    Args:
        depth: [H, W] m of the first image, 0 for missing.
        flow: [3, H, W] (pixels, pixels, m) to the second image.
        bridged: [H, W], 0 in the second image's holes, beyond their rims.
        camera: fx, fy, cx, cy.
        dt: Seconds between both.
        fastest: Square of the largest speed.
        out: [H, W, 3].
    """
    rows, columns = depth.shape
    fx, fy, cx, cy = camera
    for y in range(rows):
        for x in range(columns):
            z, px, py = depth[y, x], _F(x) + flow[0, y, x], _F(y) + flow[1, y, x]
            far = z + flow[2, y, x]
            vx = (((px - cx) * far - (_F(x) - cx) * z) / fx) / dt
            vy = (((py - cy) * far - (_F(y) - cy) * z) / fy) / dt
            vz = (far - z) / dt
            valid = z > 0 and vx * vx + vy * vy + vz * vz <= fastest
            if valid:
                row, column = int(np.rint(py)), int(np.rint(px))
                valid = bridged[min(max(row, 0), rows - 1), min(max(column, 0), columns - 1)] > 0
            out[y, x, 0], out[y, x, 1], out[y, x, 2] = (vx, vy, vz) if valid else (_NAN, _NAN, _NAN)


class CpuSolver:
    """Solver on a number of threads, 1 for the calling thread only."""

    def __init__(self, config: PdFlowConfig, threads: int):
        self.config, self.threads = config, threads
        self._pool: Executor | None = ThreadPoolExecutor(threads, "pd_flow") if threads > 1 else None

    def pyramid(self, gray: np.ndarray, depth: np.ndarray, camera: Camera) -> list[Level]:
        """Return the levels of an image, finest first."""
        out = [self._with_surface(gray, depth, camera)]
        for _ in self.config.plan(gray.shape)[1:]:
            fine = out[-1]
            shape = ((fine.gray.shape[0] + 1) // 2, (fine.gray.shape[1] + 1) // 2)
            gray, depth = np.empty(shape, np.float32), np.empty(shape, np.float32)
            self._share(shape[0], half, fine.gray, fine.depth, gray, depth)
            out.append(self._with_surface(gray, depth, tuple(value / 2 for value in fine.camera)))
        return out

    def _with_surface(self, gray: np.ndarray, depth: np.ndarray, camera: Camera) -> Level:
        closeness = np.empty((2, *depth.shape), np.float32)
        self._share(len(depth), surface, depth, *camera, *closeness)
        return Level(gray, depth, camera, closeness)

    def solve(self, first: list[Level], second: list[Level], start: np.ndarray | None = None) -> np.ndarray:
        """Return the flow u, v (pixels) and w (m) as [3, H, W] between two pyramids, solved from coarse to fine.

        `start` is the initial flow at full size, None for no motion.
        """
        plan = self.config.plan(first[0].gray.shape)
        state = coarse_start(start, len(plan), first[-1].gray.shape)
        for level in range(len(plan) - 1, -1, -1):
            shape = first[level].gray.shape
            if state.shape[1:] != shape:
                coarse, state = state, np.empty((len(KEPT), *shape), np.float32)
                for k in range(len(KEPT)):
                    doubled(coarse[k], np.float32(2 if k < 2 else 1), state[k])
            state = self._level(first[level], second[level], state, plan[level])
        return state[:3]

    def _level(self, first: Level, second: Level, start: np.ndarray, iterations: int) -> np.ndarray:
        terms, change = self._terms(first, second, start)
        state = np.empty((len(sweeps.STATE), *first.gray.shape), np.float32)
        state[:3] = state[3:6] = start[:3]
        state[6:] = start[3:]
        together = iterations if self._strips(first.gray.shape[0]) == 1 else sweeps.TOGETHER
        state = sweeps.iterate(state, terms, iterations, self._share, together)
        flow, filtered = state[:3], np.empty_like(start)
        # The linearized terms hold within about a pixel of the initial flow.
        np.clip(flow[:2], start[:2] - 1, start[:2] + 1, out=flow[:2])
        flow[2, first.depth <= 0] = 0
        c = self.config
        weigh = np.float32(c.median_depth), np.float32(c.median_change)
        self._share(len(first.depth), median, flow, first.depth, change, *weigh, filtered[:3])
        filtered[3:] = state[6:]
        return filtered

    def _terms(self, first: Level, second: Level, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the terms [18, H, W], and the change of depth [H, W] after warping by the initial flow."""
        rows, shape = len(first.gray), first.gray.shape
        terms = np.empty((len(sweeps.TERMS), *shape), np.float32)
        ix, iy, zx, zy = np.empty((4, *shape), np.float32)
        assert first.closeness is not None and second.closeness is not None
        self._share(rows, gradients, second.gray, second.depth, *second.closeness, ix, iy, zx, zy)
        terms[7:9] = first.closeness
        c = self.config
        weights = tuple(map(np.float32, (c.smooth_image, c.smooth_depth, c.depth_weight, c.depth_edges)))
        change = np.empty(shape, np.float32)
        images = first.gray, first.depth, second.gray, second.depth
        self._share(rows, energy_terms, *images, ix, iy, zx, zy, start[0], start[1], weights, terms, change)
        return terms, change

    def _strips(self, rows: int) -> int:
        return max(min(self.threads, rows // MIN_ROWS), 1)

    def _share(self, rows: int, work: Callable[..., Any], *arguments: Any) -> None:
        """Share the rows of an output among the threads."""
        strips = self._strips(rows)
        if self._pool is None or strips == 1:
            work(*arguments, 0, rows)
            return
        edges = [rows * k // strips for k in range(strips + 1)]
        jobs = [self._pool.submit(work, *arguments, low, high) for low, high in itertools.pairwise(edges)]
        for job in jobs:
            job.result()
