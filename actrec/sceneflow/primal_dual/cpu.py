"""The iterations of the primal-dual scene flow on the CPU: one sweep over the rows an iteration, in strips.

A strip of rows is iterated several times before its neighbours are looked at again: an iteration carries a row's news
one row down and one row up, so that a strip with as many further rows at each side as there are iterations is exact
inside. Strips so stay in the cache, several threads work without meeting in between, and the result is that of whole
sweeps, bit by bit.
"""

from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np

# NaN never enters: missing depth is 0.
_FASTMATH = {"contract", "reassoc", "nsz", "arcp"}
_F = np.float32

STATE = 13
"""Planes of a state: u, v, w, their extrapolations, pd, and the six duals of the total variations."""
U, V, W, U_BAR, V_BAR, W_BAR, PD, PUX, PUY, PVX, PVY, PWX, PWY = range(STATE)

TERMS = 15
"""Planes of a level's terms; what a sweep needs, divisions done."""
IT, IX, IY, ZT, ZX, ZY, MU, RX, RY, TAU_U, TAU_V, TAU_W, SIGMA, START_U, START_V = range(TERMS)


@numba.njit(nogil=True, cache=True, fastmath=_FASTMATH, inline="always")
def _unit(px: float, py: float) -> float:
    """What makes a dual vector no longer than 1."""
    return _F(1) / np.sqrt(max(px * px + py * py, _F(1)))


@numba.njit(nogil=True, cache=True, fastmath=_FASTMATH)
def _dual_row(s: np.ndarray, t: np.ndarray, below: np.ndarray, t_below: np.ndarray, down: float) -> None:
    """Ascent of the duals of a row: s [13, W] and t [15, W] of it, `below` and `t_below` of the next one.

    `down` is 0 in the last row of the image, whose lower differences are 0.
    """
    width = s.shape[1]
    u, v, w = s[U_BAR], s[V_BAR], s[W_BAR]
    u0, v0 = t[START_U], t[START_V]
    ub, vb, wb, u0b, v0b = below[U_BAR], below[V_BAR], below[W_BAR], t_below[START_U], t_below[START_V]
    half = _F(0.5)
    for x in range(width):
        rho = t[ZT, x] + t[ZX, x] * u[x] + t[ZY, x] * v[x] - w[x]
        s[PD, x] = min(max(s[PD, x] + t[SIGMA, x] * rho, _F(-1)), _F(1))
    last = width - 1
    for x in range(last):
        a = s[PUX, x] + half * ((u[x + 1] + u0[x + 1]) - (u[x] + u0[x]))
        b = s[PUY, x] + half * down * ((ub[x] + u0b[x]) - (u[x] + u0[x]))
        k = _unit(a, b)
        s[PUX, x], s[PUY, x] = a * k, b * k
    for x in range(last):
        a = s[PVX, x] + half * ((v[x + 1] + v0[x + 1]) - (v[x] + v0[x]))
        b = s[PVY, x] + half * down * ((vb[x] + v0b[x]) - (v[x] + v0[x]))
        k = _unit(a, b)
        s[PVX, x], s[PVY, x] = a * k, b * k
    for x in range(last):
        a = s[PWX, x] + half * (w[x + 1] - w[x])
        b = s[PWY, x] + half * down * (wb[x] - w[x])
        k = _unit(a, b)
        s[PWX, x], s[PWY, x] = a * k, b * k
    _last_duals(s, down * half, u[last] + u0[last], ub[last] + u0b[last], PUX, PUY, last)
    _last_duals(s, down * half, v[last] + v0[last], vb[last] + v0b[last], PVX, PVY, last)
    _last_duals(s, down * half, w[last], wb[last], PWX, PWY, last)
