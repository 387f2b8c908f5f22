"""The weighted median of 3×3 that ends a level of the primal-dual scene flow, a row at a time, by a sorting network."""

import numba
import numpy as np

_F = np.float32
_FASTMATH = {"contract", "reassoc", "nsz", "arcp"}

# 25 exchanges that sort nine (Knuth, The Art of Computer Programming 3, §5.3.4).
_NETWORK = np.array(
    [
        *((0, 3), (1, 7), (2, 5), (4, 8), (0, 7), (2, 4), (3, 8), (5, 6), (0, 2), (1, 3), (4, 5), (7, 8), (1, 4)),
        *((3, 6), (5, 7), (0, 1), (2, 4), (3, 5), (6, 8), (2, 3), (4, 5), (6, 7), (1, 2), (3, 4), (5, 6)),
    ]
)
_FAR = _F(1e30)


@numba.njit(nogil=True, cache=True, fastmath=_FASTMATH)
def median(values, depth, change, weigh_depth, weigh_change, out, low, high):  # type: ignore[no-untyped-def]
    """Writes the rows low to high of the filtered values [K, H, W] to `out`; pixels without depth keep theirs.

    Args:
        values: Fields to filter, each by the same weights.
        depth: [H, W] metres, 0 for missing.
        change: [H, W], change of depth at the pixel.
        weigh_depth, weigh_change: How much less neighbours count by the squares of these.
        out: [K, H, W].
        low, high: Rows.
    """
    rows, columns = depth.shape
    weights, sorted_weights = np.zeros((9, columns), np.float32), np.empty((9, columns), np.float32)
    near, total, found = (
        np.empty((9, columns), np.float32),
        np.empty(columns, np.float32),
        np.empty(columns, np.float32),
    )
    for y in range(low, high):
        total[:] = 0
        for n in range(9):
            j, i = y + n // 3 - 1, n % 3 - 1
            weights[n] = 0
            if 0 <= j < rows:
                first, last = max(-i, 0), columns - max(i, 0)
                _weigh(weights[n, first:last], depth[j, first + i : last + i], depth[y, first:last],
                       change[j, first + i : last + i], weigh_depth, weigh_change)  # fmt: skip
            _add(total, weights[n])
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


@numba.njit(nogil=True, cache=True, fastmath=_FASTMATH)
def _weigh(weights, depth, middle, change, weigh_depth, weigh_change):  # type: ignore[no-untyped-def]
    for x in range(weights.size):
        apart = depth[x] - middle[x]
        weights[x] = _F(1) / (_F(1) + weigh_depth * apart * apart + weigh_change * change[x] * change[x])


@numba.njit(nogil=True, cache=True, fastmath=_FASTMATH)
def _set(to, values):  # type: ignore[no-untyped-def]
    """As `to[:] = values`, which takes three seconds longer to compile, for the message of unequal shapes."""
    for x in range(to.size):
        to[x] = values[x]


@numba.njit(nogil=True, cache=True, fastmath=_FASTMATH)
def _add(total, row):  # type: ignore[no-untyped-def]
    for x in range(total.size):
        total[x] += row[x]


@numba.njit(nogil=True, cache=True, fastmath=_FASTMATH)
def _exchange(a, b, weight_a, weight_b):  # type: ignore[no-untyped-def]
    for x in range(a.size):
        swap = a[x] > b[x]
        p, q, r, s = a[x], b[x], weight_a[x], weight_b[x]
        a[x] = q if swap else p
        b[x] = p if swap else q
        weight_a[x] = s if swap else r
        weight_b[x] = r if swap else s


@numba.njit(nogil=True, cache=True, fastmath=_FASTMATH)
def _choose(found, values, weights, total):  # type: ignore[no-untyped-def]
    """Where the weights of the sorted values sum to half of the total, between two values if need be."""
    for x in range(found.size):
        goal, so_far = _F(0.5) * total[x], _F(0)
        found[x] = values[0, x]
        for n in range(9):
            before, so_far = so_far, so_far + weights[n, x]
            if before < goal <= so_far and n > 0:
                share = (goal - before) / (so_far - before)
                found[x] = (_F(1) - share) * values[n - 1, x] + share * values[n, x]


@numba.njit(nogil=True, cache=True, fastmath=_FASTMATH)
def _known(out, found, value, depth):  # type: ignore[no-untyped-def]
    for x in range(out.size):
        out[x] = found[x] if depth[x] > 0 else value[x]
