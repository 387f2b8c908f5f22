"""Literal numpy implementation of the primal-dual scene flow; the fast solvers are tested against it.

Jaimez et al., ICRA 2015. The unknowns of a pixel (x, y) of the first image are its motion in the image (u, v) in pixels
and its change of depth w in m. The energy, minimized coarse to fine, is

    Σ |ρ_I(u, v)| + μ(x, y) |ρ_Z(u, v, w)|  +  λ_I (TV_r(u) + TV_r(v))  +  λ_D TV_r(w),

with ρ_I = I₁(x + u, y + v) − I₀(x, y), ρ_Z = Z₁(x + u, y + v) − Z₀(x, y) − w, and a total variation on the observed
surface, TV_r(f) = Σ |(r_x ∂f/∂x, r_y ∂f/∂y)|, r_x = 1 / |∂(X, Z)/∂x|: neighboring pixels that are far apart in
space need not move alike. Missing depth is 0.
"""

from dataclasses import dataclass, fields

import cv2
import numpy as np

from actrec.scene_flow.primal_dual.cpu import BRIDGED_PX, DEPTH_STEP, Level, PdFlowConfig, coarse_start

MASK = np.array([1, 4, 6, 4, 1], np.float32) / 16


@dataclass
class State:
    """Primal and dual variables of a level, [H, W] each.

    Attributes:
        u, v, w: The flow, in pixels of this level and in m.
        pd: Dual of the depth term.
        pux, puy, pvx, pvy, pwx, pwy: Duals of the total variations of u, v, w.
    """

    u: np.ndarray
    v: np.ndarray
    w: np.ndarray
    pd: np.ndarray
    pux: np.ndarray
    puy: np.ndarray
    pvx: np.ndarray
    pvy: np.ndarray
    pwx: np.ndarray
    pwy: np.ndarray

    @staticmethod
    def zeros(shape: tuple[int, ...]) -> "State":
        """Return a state without motion."""
        return State(*(np.zeros(shape, np.float32) for _ in fields(State)))


def pyramid(image: Level, levels: int) -> list[Level]:
    """Return the image and its halves, finest first; pixel x of a level is pixel 2x of the finer one."""
    out = [image]
    for _ in range(levels - 1):
        out.append(_half(out[-1]))
    return out


def _half(image: Level) -> Level:
    weights = np.outer(MASK, MASK)
    rows, columns = image.gray.shape
    height, width = (rows + 1) // 2, (columns + 1) // 2
    gray, depth = np.zeros((height, width), np.float32), np.zeros((height, width), np.float32)
    for y in range(height):
        for x in range(width):
            total = share = deep = near = 0.0
            middle = image.depth[2 * y, 2 * x]
            for j in range(-2, 3):
                for i in range(-2, 3):
                    v, u = 2 * y + j, 2 * x + i
                    if not (0 <= v < rows and 0 <= u < columns):
                        continue
                    weight = weights[j + 2, i + 2]
                    total, share = total + weight * image.gray[v, u], share + weight
                    apart = abs(image.depth[v, u] - middle)
                    if image.depth[v, u] > 0 and apart < DEPTH_STEP:
                        deep += weight * (DEPTH_STEP - apart) * image.depth[v, u]
                        near += weight * (DEPTH_STEP - apart)
            gray[y, x] = total / share
            depth[y, x] = deep / near if middle > 0 else 0.0
    fx, fy, cx, cy = image.camera
    return Level(gray, depth, (fx / 2, fy / 2, cx / 2, cy / 2))


def doubled(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Upsample a level to the next finer one: insert zeros, then apply the binomial mask."""
    spread, known = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    spread[::2, ::2], known[::2, ::2] = values, 1.0
    return (_masked(spread) / _masked(known)).astype(np.float32)


def _masked(values: np.ndarray) -> np.ndarray:
    padded = np.pad(values, 2)
    rows = sum(MASK[k] * padded[k : k + values.shape[0]] for k in range(5))
    return np.asarray(sum(MASK[k] * rows[:, k : k + values.shape[1]] for k in range(5)))


def surface(image: Level) -> tuple[np.ndarray, np.ndarray]:
    """Return r_x and r_y, [H, W], from each pixel to its right and lower neighbor; 1 if both depths are missing.

    As in the authors' program these are twice 1 / |∂(X, Z)/∂x|; its λ are tuned for that.
    """
    (fx, fy, cx, cy), z = image.camera, image.depth
    x = (np.arange(z.shape[1]) - cx) / fx * z
    y = (np.arange(z.shape[0]) - cy)[:, None] / fy * z
    along, down = np.zeros_like(z), np.zeros_like(z)
    along[:, :-1] = np.hypot(np.diff(x, axis=1), np.diff(z, axis=1))
    down[:-1] = np.hypot(np.diff(y, axis=0), np.diff(z, axis=0))
    with np.errstate(divide="ignore"):
        return tuple(np.where(d > 0, 2 / d, 1.0).astype(np.float32) for d in (along, down))  # type: ignore[return-value]


def gradients(values: np.ndarray, rx: np.ndarray, ry: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ∂/∂x and ∂/∂y of an image: both one-sided differences, weighted by closeness on the surface."""
    return _gradient(values, rx), _gradient(values.T, ry.T).T


def _gradient(values: np.ndarray, r: np.ndarray) -> np.ndarray:
    step = np.diff(values, axis=1)
    out = np.empty_like(values)
    out[:, 0], out[:, -1] = step[:, 0], step[:, -1]
    right, left = r[:, 1:-1], r[:, :-2]
    out[:, 1:-1] = (right * step[:, 1:] + left * step[:, :-1]) / (right + left)
    return out


def bilinear(values: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Sample values between pixels; the border is replicated."""
    height, width = values.shape
    x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    x0, y0 = np.minimum(x.astype(int), max(width - 2, 0)), np.minimum(y.astype(int), max(height - 2, 0))
    x1, y1 = np.minimum(x0 + 1, width - 1), np.minimum(y0 + 1, height - 1)
    a, b = (x - x0).astype(np.float32), (y - y0).astype(np.float32)
    upper = (1 - a) * values[y0, x0] + a * values[y0, x1]
    return np.asarray((1 - b) * upper + b * ((1 - a) * values[y1, x0] + a * values[y1, x1]), dtype=np.float32)


def depth_at(depth: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Sample depth bilinearly; use the nearest pixel if one of the four is missing."""
    height, width = depth.shape
    whole = bilinear((depth > 0).astype(np.float32), x, y) >= 1 - 1e-6
    x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    return np.where(whole, bilinear(depth, x, y), depth[np.floor(y + 0.5).astype(int), np.floor(x + 0.5).astype(int)])


@dataclass
class Terms:
    """Terms of a level's energy, linearized about its initial flow, [H, W] each.

    ρ_I = it + ix·du + iy·dv, ρ_Z = zt + zx·du + zy·dv − w.
    """

    it: np.ndarray
    ix: np.ndarray
    iy: np.ndarray
    zt: np.ndarray
    zx: np.ndarray
    zy: np.ndarray
    mu: np.ndarray
    rx: np.ndarray
    ry: np.ndarray


def terms(first: Level, second: Level, start: State, config: PdFlowConfig) -> Terms:
    """Warp the second image and its gradients back along the initial flow."""
    height, width = first.gray.shape
    x, y = np.arange(width) + start.u, np.arange(height)[:, None] + start.v
    on_second = surface(second)
    ix, iy = gradients(second.gray, *on_second)
    zx, zy = (np.where(second.depth > 0, g, 0.0) for g in gradients(second.depth, *on_second))
    drawn = depth_at(second.depth, x, y)
    it = bilinear(second.gray, x, y) - first.gray
    zt = np.where(drawn > 0, drawn - first.depth, 0.0)
    ix, iy, zx, zy = (bilinear(g, x, y) for g in (ix, iy, zx, zy))
    mu = config.depth_weight / (1 + config.depth_edges * (zx**2 + zy**2 + zt**2))
    rx, ry = surface(first)
    return Terms(*(np.asarray(t, dtype=np.float32) for t in (it, ix, iy, zt, zx, zy, mu, rx, ry)))


def energy(t: Terms, start: State, s: State, config: PdFlowConfig) -> float:
    """Return a level's energy for the flow start + (u, v) and w."""
    data = np.abs(t.it + t.ix * s.u + t.iy * s.v) + t.mu * np.abs(t.zt + t.zx * s.u + t.zy * s.v - s.w)
    variation = config.smooth_image * (_variation(s.u + start.u, t) + _variation(s.v + start.v, t))
    return float(data.sum(dtype=np.float64) + variation + config.smooth_depth * _variation(s.w, t))


def _variation(f: np.ndarray, t: Terms) -> float:
    gx, gy = forward(f)
    return float(np.hypot(t.rx * gx, t.ry * gy).sum(dtype=np.float64))


def forward(f: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the forward differences to the right and lower neighbors, 0 at the border."""
    gx, gy = np.zeros_like(f), np.zeros_like(f)
    gx[:, :-1], gy[:-1] = np.diff(f, axis=1), np.diff(f, axis=0)
    return gx, gy


def divergence(px: np.ndarray, py: np.ndarray) -> np.ndarray:
    """Return the divergence, the negative adjoint of `forward`."""
    px, py = px.copy(), py.copy()
    px[:, -1], py[-1] = 0, 0
    out = px + py
    out[:, 1:] -= px[:, :-1]
    out[1:] -= py[:-1]
    return out


def solve(t: Terms, start: State, config: PdFlowConfig, iterations: int) -> tuple[State, list[float]]:
    """Run the primal-dual iterations of a level (Pock and Chambolle's diagonal steps, ICCV 2011).

    Returns:
        The state, whose u and v are relative to the start's, and the energy after each iteration.
    """
    li, ld = np.float32(config.smooth_image), np.float32(config.smooth_depth)
    s = State(*(getattr(start, f.name).copy() for f in fields(State)))
    s.u[:], s.v[:] = 0, 0
    u_bar, v_bar, w_bar = s.u.copy(), s.v.copy(), s.w.copy()
    eps = np.float32(1e-10)
    around = t.rx + t.ry
    around[:, 1:] += t.rx[:, :-1]
    around[1:] += t.ry[:-1]
    tau_u, tau_v = (1 / (t.mu * np.abs(g) + li * around + eps) for g in (t.zx, t.zy))
    tau_w = 1 / (t.mu + ld * around + eps)
    sigma = 1 / (t.mu * (1 + np.abs(t.zx) + np.abs(t.zy)) + eps)
    energies = []
    for _ in range(iterations):
        s.pd = np.clip(s.pd + sigma * t.mu * (t.zt + t.zx * u_bar + t.zy * v_bar - w_bar), -1, 1)
        # The step σ = 1 / (2 λ r) cancels λ and r.
        s.pux, s.puy = _dual(s.pux, s.puy, u_bar + start.u)
        s.pvx, s.pvy = _dual(s.pvx, s.pvy, v_bar + start.v)
        s.pwx, s.pwy = _dual(s.pwx, s.pwy, w_bar)
        u = s.u - tau_u * (t.mu * t.zx * s.pd - li * divergence(t.rx * s.pux, t.ry * s.puy))
        v = s.v - tau_v * (t.mu * t.zy * s.pd - li * divergence(t.rx * s.pvx, t.ry * s.pvy))
        w = s.w + tau_w * (t.mu * s.pd + ld * divergence(t.rx * s.pwx, t.ry * s.pwy))
        # The proximal step of |ρ_I| along its gradient, limited to the step size.
        reach = tau_u * t.ix**2 + tau_v * t.iy**2
        share = np.clip((t.it + t.ix * u + t.iy * v) / (reach + eps), -1, 1)
        u, v = u - tau_u * t.ix * share, v - tau_v * t.iy * share
        u_bar, v_bar, w_bar = 2 * u - s.u, 2 * v - s.v, 2 * w - s.w
        s.u, s.v, s.w = u, v, w
        energies.append(energy(t, start, s, config))
    return s, energies


def _dual(px: np.ndarray, py: np.ndarray, f: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    gx, gy = forward(f)
    px, py = px + np.float32(0.5) * gx, py + np.float32(0.5) * gy
    length = np.maximum(np.hypot(px, py), 1)
    return px / length, py / length


def filtered(s: State, start: State, first: Level, t: Terms, config: PdFlowConfig) -> State:
    """Limit the update to a pixel, then apply the 3×3 median weighted by depth and by change of depth."""
    u, v = (np.clip(f, -1, 1) + before for f, before in ((s.u, start.u), (s.v, start.v)))
    w = np.where(first.depth > 0, s.w, 0).astype(np.float32)
    found = State(u, v, w, s.pd, s.pux, s.puy, s.pvx, s.pvy, s.pwx, s.pwy)
    for name in "uvw":
        setattr(found, name, _median(getattr(found, name), first.depth, t.zt, config))
    return found


def _median(f: np.ndarray, depth: np.ndarray, change: np.ndarray, config: PdFlowConfig) -> np.ndarray:
    height, width = f.shape
    out = f.copy()
    for y, x in zip(*np.nonzero(depth > 0), strict=True):
        rows, columns = slice(max(y - 1, 0), min(y + 2, height)), slice(max(x - 1, 0), min(x + 2, width))
        apart, changed = depth[rows, columns].ravel() - depth[y, x], change[rows, columns].ravel()
        weights = 1 / (1 + config.median_depth * apart**2 + config.median_change * changed**2)
        order = np.argsort(f[rows, columns].ravel(), kind="stable")
        values, total = f[rows, columns].ravel()[order], np.cumsum(weights[order])
        at = int(np.searchsorted(total, total[-1] / 2))
        if at == 0:
            out[y, x] = values[0]
        else:
            share = (total[-1] / 2 - total[at - 1]) / (total[at] - total[at - 1])
            out[y, x] = (1 - share) * values[at - 1] + share * values[at]
    return out


def flow(
    first: Level, second: Level, config: PdFlowConfig, start: State | None = None
) -> tuple[State, list[list[float]]]:
    """Estimate the flow from the coarsest level to the finest.

    Args:
        first, second: Full-size images.
        config: Settings.
        start: Initial state of the coarsest level; None for no motion.

    Returns:
        The finest level's state, and each level's energies, coarsest first.
    """
    plan = config.plan(first.gray.shape)
    firsts, seconds = pyramid(first, len(plan)), pyramid(second, len(plan))
    state = start or State.zeros(firsts[-1].gray.shape)
    course = []
    for level in range(len(plan) - 1, -1, -1):
        shape = firsts[level].gray.shape
        if state.u.shape != shape:
            state = State(*(doubled(getattr(state, f.name), shape) for f in fields(State)))
            state.u, state.v = 2 * state.u, 2 * state.v
        t = terms(firsts[level], seconds[level], state, config)
        solved, energies = solve(t, state, config, plan[level])
        state = filtered(solved, state, firsts[level], t, config)
        course.append(energies)
    return state, course


def velocity(first: Level, flow: np.ndarray, second: Level, dt: float, max_speed: float) -> np.ndarray:
    """Convert a flow [3, H, W] between two images to velocities [H, W, 3] m/s, pass by pass."""
    u, v, w = flow
    fx, fy, cx, cy = first.camera
    height, width = first.depth.shape
    z = np.where(first.depth > 0, first.depth, np.float32(np.nan))
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    far = z + w
    dx = ((x + u - cx) * far - (x - cx) * z) / fx
    dy = ((y + v - cy) * far - (y - cy) * z) / fy
    out = np.stack([dx, dy, far - z], axis=-1).astype(np.float32) / np.float32(dt)
    out[~(np.square(out).sum(axis=-1) <= max_speed**2)] = np.nan
    near = cv2.dilate((second.depth > 0).astype(np.uint8), np.ones((2 * BRIDGED_PX + 1,) * 2, np.uint8))
    there = cv2.remap(near, u + x, v + y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    out[there == 0] = np.nan
    return out


class ReferenceSolver:
    """Reference with the interface of `CpuSolver`; takes minutes a pair."""

    def __init__(self, config: PdFlowConfig):
        self.config = config

    def pyramid(self, gray: np.ndarray, depth: np.ndarray, camera: tuple[float, float, float, float]) -> list[Level]:
        """Return the levels of an image, finest first."""
        return pyramid(Level(gray, depth, camera), len(self.config.plan(gray.shape)))

    def solve(self, first: list[Level], second: list[Level], start: np.ndarray | None = None) -> np.ndarray:
        """Return the flow [3, H, W], as `CpuSolver.solve`."""
        begin = State(*coarse_start(start, len(first), first[-1].gray.shape))
        state, _ = flow(first[0], second[0], self.config, begin)
        return np.stack([state.u, state.v, state.w])
