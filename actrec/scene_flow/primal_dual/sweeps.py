"""Iterations of the primal-dual scene flow on the CPU: sweeps over the rows, in strips that stay in the cache.

A strip of rows is iterated several times between two exchanges with its neighbors. An iteration propagates values by
one row up and down, so a strip with as many extra rows at each side as iterations is exact inside. Threads work on
strips without synchronizing, and the result does not depend on the number of strips.

Loops run over single rows and few arrays: with more, the compiler cannot prove that they do not overlap, and uses no
SIMD.
"""

from collections.abc import Callable

import numpy as np

from actrec.utils import jit

# There is no NaN here: missing depth is 0.
_FASTMATH = {"contract", "reassoc", "nsz", "arcp"}

_F = np.float32

STATE = ("u", "v", "w", "u_bar", "v_bar", "w_bar", "pd", "pux", "puy", "pvx", "pvy", "pwx", "pwy")
"""Planes of a state: the flow, its extrapolation, the dual of the depth term, the duals of the total variations."""

_U, _V, _W, _U_BAR, _V_BAR, _W_BAR, _PD, _PUX, _PUY, _PVX, _PVY, _PWX, _PWY = range(len(STATE))

TERMS = (
    *("it", "ix", "iy", "zt", "zx", "zy"),  # ρ_I and ρ_Z, linear in the flow
    *("sigma", "rx", "ry", "mzx_u", "mzy_v", "m_w"),  # σ μ, r, and τ times the factors of pd on u, v and w
    *("tau_iu", "tau_iv", "tau_w", "step_ix", "step_iy", "reach"),  # λ_I τ, λ_D τ, τ I, and its largest step
)
"""Planes of a level's terms, precomputed so that a sweep needs no division."""

_IT, _IX, _IY, _ZT, _ZX, _ZY, _SIGMA, _RX, _RY, _MZX, _MZY, _M, _TAU_U, _TAU_V, _TAU_W, _SIX, _SIY, _REACH = range(
    len(TERMS)
)

TOGETHER = 10
"""Iterations of a strip between two exchanges with its neighbors."""


def iterate(
    state: np.ndarray, terms: np.ndarray, iterations: int, share: Callable[..., None], together: int = TOGETHER
) -> np.ndarray:
    """Return the state [13, H, W] after `iterations` with the terms [18, H, W]; the arguments are not modified.

    `share(rows, work, *arguments)` calls `work(*arguments, low, high)` for strips of rows. Each of them is iterated
    `together` times between two exchanges.
    """
    spare = None
    for done in range(0, iterations, together):
        out = np.empty_like(state) if spare is None else spare
        share(state.shape[1], _strip, state, terms, min(together, iterations - done), out)
        state, spare = out, state if done else None
    return state


@jit.njit(nogil=True)
def _strip(state: np.ndarray, terms: np.ndarray, count: int, out: np.ndarray, low: int, high: int) -> None:
    """Write the rows low to high of the state after `count` iterations to `out`."""
    first, last = max(low - count, 0), min(high + count, state.shape[1])
    mine = state[:, first:last].copy()
    _sweeps(mine, terms, first, count)
    # Element by element: assigning a slice takes four seconds longer to compile.
    for n in range(out.shape[0]):
        for y in range(low, high):
            for x in range(out.shape[2]):
                out[n, y, x] = mine[n, y - first, x]


@jit.njit(nogil=True, fastmath=_FASTMATH)
def _sweeps(s: np.ndarray, t: np.ndarray, first: int, count: int) -> None:
    """Run `count` iterations of s [13, h, W] in place: dual ascent of a row, then primal descent, then the next row.

    Row 0 of s is row `first` of the terms t [18, H, W].
    """
    height, width = s.shape[1:]
    a, b = np.empty(width, np.float32), np.empty(width, np.float32)
    c, share = np.empty(width, np.float32), np.empty(width, np.float32)
    for _ in range(count):
        for y in range(height):
            k, k_above = first + y, first + max(y - 1, 0)
            below = min(y + 1, height - 1)  # the last row has no difference downward
            _depth_dual(
                s[_PD, y], t[_SIGMA, k], t[_ZT, k], t[_ZX, k], t[_ZY, k], s[_U_BAR, y], s[_V_BAR, y], s[_W_BAR, y]
            )
            _dual(s[_PUX, y], s[_PUY, y], s[_U_BAR, y], s[_U_BAR, below])
            _dual(s[_PVX, y], s[_PVY, y], s[_V_BAR, y], s[_V_BAR, below])
            _dual(s[_PWX, y], s[_PWY, y], s[_W_BAR, y], s[_W_BAR, below])
            above = max(y - 1, 0)
            shown = y < height - 1
            _divergence(a, t[_RX, k], s[_PUX, y], t[_RY, k], s[_PUY, y], t[_RY, k_above], s[_PUY, above], y > 0, shown)
            _divergence(b, t[_RX, k], s[_PVX, y], t[_RY, k], s[_PVY, y], t[_RY, k_above], s[_PVY, above], y > 0, shown)
            _divergence(c, t[_RX, k], s[_PWX, y], t[_RY, k], s[_PWY, y], t[_RY, k_above], s[_PWY, above], y > 0, shown)
            _descend(a, s[_U, y], t[_TAU_U, k], t[_MZX, k], s[_PD, y])
            _descend(b, s[_V, y], t[_TAU_V, k], t[_MZY, k], s[_PD, y])
            _descend(c, s[_W, y], t[_TAU_W, k], t[_M, k], s[_PD, y])
            _share(share, t[_IT, k], t[_IX, k], t[_IY, k], a, b, t[_REACH, k])
            _step(s[_U, y], s[_U_BAR, y], a, t[_SIX, k], share)
            _step(s[_V, y], s[_V_BAR, y], b, t[_SIY, k], share)
            _extrapolate(s[_W, y], s[_W_BAR, y], c)


@jit.njit(nogil=True, fastmath=_FASTMATH)
def _depth_dual(pd, sigma, zt, zx, zy, u, v, w):  # type: ignore[no-untyped-def]
    for x in range(pd.size):
        raised = pd[x] + sigma[x] * (zt[x] + zx[x] * u[x] + zy[x] * v[x] - w[x])
        pd[x] = min(max(raised, _F(-1)), _F(1))


@jit.njit(nogil=True, fastmath=_FASTMATH)
def _dual(px, py, f, below):  # type: ignore[no-untyped-def]
    """Ascend with the step σ = 1 / (2 λ r), which cancels λ and r; then project to length 1."""
    right = f[1:]
    for x in range(px.size - 1):
        a = px[x] + _F(0.5) * (right[x] - f[x])
        b = py[x] + _F(0.5) * (below[x] - f[x])
        shrink = _F(1) / np.sqrt(max(a * a + b * b, _F(1)))
        px[x] = a * shrink
        py[x] = b * shrink
    last = px.size - 1
    a, b = px[last], py[last] + _F(0.5) * (below[last] - f[last])
    shrink = _F(1) / np.sqrt(max(a * a + b * b, _F(1)))
    px[last], py[last] = a * shrink, b * shrink


@jit.njit(nogil=True, fastmath=_FASTMATH)
def _divergence(out, rx, px, ry, py, ry_above, py_above, up, down):  # type: ignore[no-untyped-def]
    """Write the divergence of (r p); nothing flows across the border of the image."""
    from_above, to_below = _F(1) if up else _F(0), _F(1) if down else _F(0)
    n = out.size
    for x in range(n):
        out[x] = to_below * ry[x] * py[x] - from_above * ry_above[x] * py_above[x]
    for x in range(n - 1):
        out[x] += rx[x] * px[x]
    after = out[1:]
    for x in range(n - 1):
        after[x] -= rx[x] * px[x]


@jit.njit(nogil=True, fastmath=_FASTMATH)
def _descend(divergence, f, tau, of_pd, pd):  # type: ignore[no-untyped-def]
    """Replace the divergence with f + τ λ div p + (τ ∂ρ_Z) pd."""
    for x in range(f.size):
        divergence[x] = f[x] + tau[x] * divergence[x] + of_pd[x] * pd[x]


@jit.njit(nogil=True, fastmath=_FASTMATH)
def _share(share, it, ix, iy, u, v, reach):  # type: ignore[no-untyped-def]
    """Write the length of the proximal step of |ρ_I| along its gradient, limited to the step size."""
    for x in range(share.size):
        share[x] = min(max((it[x] + ix[x] * u[x] + iy[x] * v[x]) * reach[x], _F(-1)), _F(1))


@jit.njit(nogil=True, fastmath=_FASTMATH)
def _step(f, bar, descended, step, share):  # type: ignore[no-untyped-def]
    for x in range(f.size):
        new = descended[x] - step[x] * share[x]
        bar[x] = _F(2) * new - f[x]
        f[x] = new


@jit.njit(nogil=True, fastmath=_FASTMATH)
def _extrapolate(f, bar, new):  # type: ignore[no-untyped-def]
    for x in range(f.size):
        bar[x] = _F(2) * new[x] - f[x]
        f[x] = new[x]
