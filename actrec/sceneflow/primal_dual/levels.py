"""What the primal-dual scene flow does once a level on the CPU: pyramid, terms of the energy, median, doubling.

Each function does as its namesake in `reference`, for the rows `low` to `high` of its output where it takes them, so
that threads may share an image.
"""

import math

import numba
import numpy as np

from actrec.sceneflow.primal_dual.reference import DEPTH_STEP
from actrec.sceneflow.primal_dual.sweeps import TERMS

_F = np.float32
_MASK = (_F(1 / 16), _F(4 / 16), _F(6 / 16), _F(4 / 16), _F(1 / 16))
_STEP = _F(DEPTH_STEP)
_EPS = _F(1e-10)
_FASTMATH = {"contract", "reassoc", "nsz", "arcp"}


@numba.njit(nogil=True, cache=True, fastmath=_FASTMATH)
def half(grey, depth, out_grey, out_depth, low, high):  # type: ignore[no-untyped-def]
    """The next coarser level of grey and depth [H, W]."""
    rows, columns = grey.shape
    column = np.empty(columns, np.float32)
    for y in range(low, high):
        total = _F(0)
        column[:] = 0
        for j in range(5):
            v = 2 * y + j - 2
            if 0 <= v < rows:
                _add(column, grey[v], _MASK[j])
                total += _MASK[j]
        for x in range(out_grey.shape[1]):
            share, value = _F(0), _F(0)
            for i in range(max(2 - 2 * x, 0), min(5, columns + 2 - 2 * x)):
                value += _MASK[i] * column[2 * x + i - 2]
                share += _MASK[i]
            out_grey[y, x] = value / (share * total)
            out_depth[y, x] = _near(depth, 2 * x, 2 * y)


@numba.njit(nogil=True, cache=True, fastmath=_FASTMATH)
def _add(total, row, weight):  # type: ignore[no-untyped-def]
    for x in range(total.size):
        total[x] += weight * row[x]


@numba.njit(nogil=True, cache=True, fastmath=_FASTMATH)
def _near(depth, x, y):  # type: ignore[no-untyped-def]
    """The mean of the depths about a pixel that are its own surface's."""
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


@numba.njit(nogil=True, cache=True, fastmath=_FASTMATH)
def doubled(values, factor, out):  # type: ignore[no-untyped-def]
    """`factor` times a level's values, between the pixels of the next finer one."""
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


@numba.njit(nogil=True, cache=True, inline="always")
def _weights(x, last):  # type: ignore[no-untyped-def]
    """Of the coarse pixels k − 1, k and k + 1 at the fine pixel x; none beyond the image."""
    k = x // 2
    before, at, after = (_F(1), _F(6), _F(1)) if x % 2 == 0 else (_F(0), _F(4), _F(4))
    before = before if k > 0 else _F(0)
    after = after if k < last else _F(0)
    total = before + at + after
    return k, before / total, at / total, after / total


@numba.njit(nogil=True, cache=True, fastmath=_FASTMATH)
def surface(depth, fx, fy, cx, cy, rx, ry, low, high):  # type: ignore[no-untyped-def]
    """Writes r_x and r_y."""
    rows, columns = depth.shape
    for y in range(low, high):
        for x in range(columns):
            z = depth[y, x]
            right, down = depth[y, min(x + 1, columns - 1)], depth[min(y + 1, rows - 1), x]
            rx[y, x] = _closeness(((x + 1 - cx) * right - (x - cx) * z) / fx, right - z) if x + 1 < columns else _F(1)
            ry[y, x] = _closeness(((y + 1 - cy) * down - (y - cy) * z) / fy, down - z) if y + 1 < rows else _F(1)


@numba.njit(nogil=True, cache=True, inline="always")
def _closeness(side, away):  # type: ignore[no-untyped-def]
    apart = math.sqrt(side * side + away * away)
    return _F(2 / apart) if apart > 0 else _F(1)


@numba.njit(nogil=True, cache=True, fastmath=_FASTMATH)
def gradients(grey, depth, rx, ry, ix, iy, zx, zy, low, high):  # type: ignore[no-untyped-def]
    """Writes the gradients of grey and of depth."""
    rows, columns = grey.shape
    for y in range(low, high):
        up, down = max(y - 1, 0), min(y + 1, rows - 1)
        for x in range(columns):
            left, right = max(x - 1, 0), min(x + 1, columns - 1)
            a, b = rx[y, x] if x < columns - 1 else _F(0), rx[y, left] if x > 0 else _F(0)
            c, d = ry[y, x] if y < rows - 1 else _F(0), ry[up, x] if y > 0 else _F(0)
            whole_x, whole_y = max(a + b, _EPS), max(c + d, _EPS)
            g, z = grey[y, x], depth[y, x]
            ix[y, x] = (a * (grey[y, right] - g) + b * (g - grey[y, left])) / whole_x
            iy[y, x] = (c * (grey[down, x] - g) + d * (g - grey[up, x])) / whole_y
            known = z > 0
            zx[y, x] = (a * (depth[y, right] - z) + b * (z - depth[y, left])) / whole_x if known else _F(0)
            zy[y, x] = (c * (depth[down, x] - z) + d * (z - depth[up, x])) / whole_y if known else _F(0)


@numba.njit(nogil=True, cache=True, fastmath=_FASTMATH)
def terms(grey0, depth0, grey1, depth1, ix, iy, zx, zy, u, v, weights, out, change, low, high):  # type: ignore[no-untyped-def]
    """Writes the planes `sweeps.TERMS` but rx and ry, which it reads, of the rows low to high.

    Args:
        grey0, depth0, grey1, depth1: [H, W] of both images.
        ix, iy, zx, zy: Gradients of the second.
        u, v: The flow along which it is drawn back.
        weights: λ_I, λ_D, μ and how much less depth counts where it changes.
        out: [18, H, W].
        change: [H, W], written: the change of depth that the flow leaves.
    """
    smooth_i, smooth_d, depth_weight, edges = weights
    rows, columns = grey0.shape
    for y in range(low, high):
        for x in range(columns):
            du, dv = u[y, x], v[y, x]
            px, py = min(max(x + du, _F(0)), _F(columns - 1)), min(max(y + dv, _F(0)), _F(rows - 1))
            x0, y0 = min(int(px), max(columns - 2, 0)), min(int(py), max(rows - 2, 0))
            x1, y1 = min(x0 + 1, columns - 1), min(y0 + 1, rows - 1)
            a, b = _F(px - x0), _F(py - y0)
            w00, w01, w10, w11 = (1 - a) * (1 - b), a * (1 - b), (1 - a) * b, a * b
            it = w00 * grey1[y0, x0] + w01 * grey1[y0, x1] + w10 * grey1[y1, x0] + w11 * grey1[y1, x1] - grey0[y, x]
            gx = w00 * ix[y0, x0] + w01 * ix[y0, x1] + w10 * ix[y1, x0] + w11 * ix[y1, x1]
            gy = w00 * iy[y0, x0] + w01 * iy[y0, x1] + w10 * iy[y1, x0] + w11 * iy[y1, x1]
            hx = w00 * zx[y0, x0] + w01 * zx[y0, x1] + w10 * zx[y1, x0] + w11 * zx[y1, x1]
            hy = w00 * zy[y0, x0] + w01 * zy[y0, x1] + w10 * zy[y1, x0] + w11 * zy[y1, x1]
            d00, d01, d10, d11 = depth1[y0, x0], depth1[y0, x1], depth1[y1, x0], depth1[y1, x1]
            seen = (
                (d00 > 0 or w00 <= 1e-6)
                and (d01 > 0 or w01 <= 1e-6)
                and (d10 > 0 or w10 <= 1e-6)
                and (d11 > 0 or w11 <= 1e-6)
            )
            z = w00 * d00 + w01 * d01 + w10 * d10 + w11 * d11 if seen else depth1[int(py + 0.5), int(px + 0.5)]
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


assert TERMS.index("rx") == 7 and TERMS.index("reach") == 17  # as `terms` writes them
