"""Inner loops of the renderer in float32, compiled by Numba: bounds, ray casting, shading, shadows, scene flow.

Pixel centers are at integers: u = fx·x/z + cx. A ray is (dx, dy, 1)·z, so that its parameter is the depth.
"""

import math

import numpy as np

from actrec.utils.jit import Real, kernel

_ZERO = np.float32(0)
_HALF = np.float32(0.5)
_ONE = np.float32(1)
_FAR = np.float32(1e30)


@kernel
def sphere_bounds(
    center: np.ndarray, axes: np.ndarray, radius: Real, row: int, focal: Real, principal: Real, size: int, near: Real
) -> tuple[int, int]:
    """Return the first and last pixel along image axis `row` (0 u, 1 v) of an ellipsoid's exact outline.

    Lines ũ = const touch the ellipsoid with covariance S = r²·A·Aᵀ at (w_x − ũ·w_z)² = S_xx − 2ũ·S_xz + ũ²·S_zz.
    """
    s_xx, s_xz, s_zz = _ZERO, _ZERO, _ZERO
    for k in range(3):
        s_xx += axes[row, k] * axes[row, k]
        s_xz += axes[row, k] * axes[2, k]
        s_zz += axes[2, k] * axes[2, k]
    square = radius * radius
    s_xx, s_xz, s_zz = s_xx * square, s_xz * square, s_zz * square
    x, z = center[row], center[2]
    if z - math.sqrt(s_zz) < near:  # behind the near plane: may fill the image
        return 0, size - 1
    a, b, c = z * z - s_zz, x * z - s_xz, x * x - s_xx
    root = math.sqrt(max(b * b - a * c, _ZERO))
    first = int(math.ceil((b - root) / a * focal + principal - _HALF))
    last = int(math.floor((b + root) / a * focal + principal + _HALF))
    return max(first, 0), min(last, size - 1)


@kernel
def ray_round_cone(
    o0: Real, o1: Real, o2: Real, d0: Real, d1: Real, d2: Real, length: Real, r0: Real, r1: Real
) -> Real:
    """Return the smallest t at which o + t·d hits a round cone along y, or 1e30.

    The cone is convex and contains its two spheres, so the entry is the nearest valid hit of the three parts.
    """
    dd = d0 * d0 + d1 * d1 + d2 * d2
    od = o0 * d0 + o1 * d1 + o2 * d2
    oo = o0 * o0 + o1 * o1 + o2 * o2
    best = _FAR
    h = od * od - dd * (oo - r0 * r0)
    if h > _ZERO:
        best = (-od - math.sqrt(h)) / dd
    if length <= _ZERO:
        return best
    od1 = od - length * d1
    oo1 = oo - length * (o1 + o1 - length)
    h = od1 * od1 - dd * (oo1 - r1 * r1)
    if h > _ZERO:
        best = min(best, (-od1 - math.sqrt(h)) / dd)
    # The lateral surface: k2·t² + 2·k1·t + k0 = 0, valid if 0 < y < span.
    slope = r0 - r1
    m0 = length * length
    span = m0 - slope * slope
    if span <= _ZERO:  # one sphere contains the other
        return best
    m1, m2 = length * o1, length * d1
    k2 = span * dd - m2 * m2
    k1 = span * od - m1 * m2 + m2 * slope * r0
    k0 = span * oo - m1 * m1 + m1 * slope * r0 * np.float32(2) - m0 * r0 * r0
    h = k1 * k1 - k0 * k2
    if h > _ZERO and k2 != _ZERO:
        h = math.sqrt(h)
        for sign in (-_ONE, _ONE):
            t = (sign * h - k1) / k2
            y = m1 + t * m2 - r0 * slope
            if _ZERO < y < span:
                best = min(best, t)
    return best


@kernel
def rasterize(
    origin: np.ndarray, to_camera: np.ndarray, to_local: np.ndarray, profile: np.ndarray, camera: np.ndarray,
    near: Real, depth: np.ndarray, ids: np.ndarray,
) -> tuple[int, int, int, int]:  # fmt: skip
    """Cast rays at every primitive within its image bounds, with a depth test.

    Primitives are as in `Placed` and `Shapes`; `camera` is fx, fy, cx, cy. `depth` [H, W] changes from the background
    to the image, `ids` [H, W] gets the indices of the nearest primitives. The result is the first and last drawn column
    and row (u0, u1, v0, v1).
    """
    height, width = depth.shape
    fx, fy, cx, cy = camera[0], camera[1], camera[2], camera[3]
    touched_u0, touched_u1, touched_v0, touched_v1 = width, -1, height, -1
    end = np.empty(3, np.float32)
    for n in range(len(origin)):
        length, r0, r1 = profile[n, 0], profile[n, 1], profile[n, 2]
        axes, m = to_camera[n], to_local[n]
        u0, u1 = sphere_bounds(origin[n], axes, r0, 0, fx, cx, width, near)
        v0, v1 = sphere_bounds(origin[n], axes, r0, 1, fy, cy, height, near)
        t0 = origin[n, 2]
        if length > _ZERO:
            for k in range(3):
                end[k] = origin[n, k] + length * axes[k, 1]
            a, b = sphere_bounds(end, axes, r1, 0, fx, cx, width, near)
            u0, u1 = min(u0, a), max(u1, b)
            a, b = sphere_bounds(end, axes, r1, 1, fy, cy, height, near)
            v0, v1 = min(v0, a), max(v1, b)
            t0 = _HALF * (t0 + end[2])
        if u0 > u1 or v0 > v1 or t0 < near:
            continue
        touched_u0, touched_u1 = min(touched_u0, u0), max(touched_u1, u1)
        touched_v0, touched_v1 = min(touched_v0, v0), max(touched_v1, v1)
        c0 = m[0, 0] * origin[n, 0] + m[0, 1] * origin[n, 1] + m[0, 2] * origin[n, 2]
        c1 = m[1, 0] * origin[n, 0] + m[1, 1] * origin[n, 1] + m[1, 2] * origin[n, 2]
        c2 = m[2, 0] * origin[n, 0] + m[2, 1] * origin[n, 1] + m[2, 2] * origin[n, 2]
        for v in range(v0, v1 + 1):
            dy = (np.float32(v) - cy) / fy
            b0, b1, b2 = m[0, 1] * dy + m[0, 2], m[1, 1] * dy + m[1, 2], m[2, 1] * dy + m[2, 2]
            for u in range(u0, u1 + 1):
                dx = (np.float32(u) - cx) / fx
                d0, d1, d2 = m[0, 0] * dx + b0, m[1, 0] * dx + b1, m[2, 0] * dx + b2
                # The ray starts at depth t0, near the primitive, for float32 precision.
                t = t0 + ray_round_cone(t0 * d0 - c0, t0 * d1 - c1, t0 * d2 - c2, d0, d1, d2, length, r0, r1)
                if near < t < depth[v, u]:
                    depth[v, u] = t
                    ids[v, u] = n
    return touched_u0, touched_u1, touched_v0, touched_v1


@kernel
def local_point(m: np.ndarray, origin: np.ndarray, x: Real, y: Real, z: Real) -> tuple[Real, Real, Real]:
    """Transform a point from the camera frame to a primitive's own coordinates."""
    x, y, z = x - origin[0], y - origin[1], z - origin[2]
    return (
        m[0, 0] * x + m[0, 1] * y + m[0, 2] * z,
        m[1, 0] * x + m[1, 1] * y + m[1, 2] * z,
        m[2, 0] * x + m[2, 1] * y + m[2, 2] * z,
    )


@kernel
def surface_normal(
    m: np.ndarray, q0: Real, q1: Real, q2: Real, length: Real, r0: Real, r1: Real
) -> tuple[Real, Real, Real]:
    """Return the unit outward normal in the camera frame at local surface point q."""
    if length > _ZERO:
        slope = r0 - r1
        span = length * length - slope * slope
        y = length * q1 - r0 * slope
        if span <= _ZERO:
            q1 -= length if r1 > r0 else _ZERO
        elif y >= span:
            q1 -= length
        elif y > _ZERO:
            q0, q1, q2 = span * q0, span * q1 - length * y, span * q2
    # Normals transform by the inverse transpose.
    n0 = m[0, 0] * q0 + m[1, 0] * q1 + m[2, 0] * q2
    n1 = m[0, 1] * q0 + m[1, 1] * q1 + m[2, 1] * q2
    n2 = m[0, 2] * q0 + m[1, 2] * q1 + m[2, 2] * q2
    norm = _ONE / math.sqrt(n0 * n0 + n1 * n1 + n2 * n2 + np.float32(1e-20))
    return n0 * norm, n1 * norm, n2 * norm


@kernel
def sample(
    atlas: np.ndarray, texture: int, level: int, levels: np.ndarray, x: Real, y: Real, z: Real
) -> tuple[Real, Real, Real]:
    """Sample a cylindrical texture about the frame's y axis: r, g, b in 0..1, 0.5 is neutral.

    u runs once around, v once per unit of y; both wrap. The atlas is [K, texels, 3] uint8, the levels of a texture
    one after another.
    """
    size = levels[level, 1]
    u = (math.atan2(x, z) * np.float32(0.15915494) + _HALF) * np.float32(size) - _HALF
    v = (_HALF - y) * np.float32(size) - _HALF
    iu, iv = int(math.floor(u)), int(math.floor(v))
    fu, fv = u - np.float32(iu), v - np.float32(iv)
    mask = size - 1
    base = levels[level, 0]
    row0, row1 = base + (iv & mask) * size, base + ((iv + 1) & mask) * size
    c0, c1 = iu & mask, (iu + 1) & mask
    w00, w01, w10, w11 = (_ONE - fu) * (_ONE - fv), fu * (_ONE - fv), (_ONE - fu) * fv, fu * fv
    t = atlas[texture]
    k = np.float32(1 / 255)
    r = (t[row0 + c0, 0] * w00 + t[row0 + c1, 0] * w01 + t[row1 + c0, 0] * w10 + t[row1 + c1, 0] * w11) * k
    g = (t[row0 + c0, 1] * w00 + t[row0 + c1, 1] * w01 + t[row1 + c0, 1] * w10 + t[row1 + c1, 1] * w11) * k
    b = (t[row0 + c0, 2] * w00 + t[row0 + c1, 2] * w01 + t[row1 + c0, 2] * w10 + t[row1 + c1, 2] * w11) * k
    return r, g, b


@kernel
def shade(
    window: tuple[int, int, int, int], depth: np.ndarray, ids: np.ndarray, origin: np.ndarray, to_local: np.ndarray,
    profile: np.ndarray, albedo: np.ndarray, texture: np.ndarray, mapping: np.ndarray, density: np.ndarray,
    gloss: np.ndarray, atlas: np.ndarray, levels: np.ndarray, camera: np.ndarray, light: np.ndarray, color: np.ndarray,
    facing: np.ndarray,
) -> None:  # fmt: skip
    """Write `color` and `facing`, as in `Rendering`, of the pixels that show a primitive in the inclusive `window`.

    `light` [8] is the unit direction to the lamp, "up" in the camera frame, ambient and lamp strength.
    """
    fx, fy, cx, cy = camera[0], camera[1], camera[2], camera[3]
    top = np.float32(255)
    for v in range(window[2], window[3] + 1):
        for u in range(window[0], window[1] + 1):
            n = ids[v, u]
            if n < 0:
                continue
            z = depth[v, u]
            x, y = (np.float32(u) - cx) / fx * z, (np.float32(v) - cy) / fy * z
            q0, q1, q2 = local_point(to_local[n], origin[n], x, y, z)
            n0, n1, n2 = surface_normal(to_local[n], q0, q1, q2, profile[n, 0], profile[n, 1], profile[n, 2])
            distance = math.sqrt(x * x + y * y + z * z)
            cosine = -(n0 * x + n1 * y + n2 * z) / distance
            facing[v, u] = cosine
            up = n0 * light[3] + n1 * light[4] + n2 * light[5]
            lamp = n0 * light[0] + n1 * light[1] + n2 * light[2]
            wrapped = max((lamp + np.float32(0.35)) * np.float32(0.7407), _ZERO)
            # Soft lamp, light from above, and a darker rim, as of cloth and skin at grazing angles.
            rim = np.float32(0.8) + np.float32(0.2) * min(max(cosine, _ZERO) * np.float32(2.5), _ONE)
            bright = (light[6] * (np.float32(0.8) + np.float32(0.2) * up) + light[7] * wrapped) * rim
            half = lamp * cosine  # approximate highlight: lamp and camera both in front of the surface
            shine = gloss[n] * max(half, _ZERO) ** 12
            r, g, b = albedo[n, 0], albedo[n, 1], albedo[n, 2]
            if texture[n] >= 0:
                w = mapping[n]
                tx = w[0, 0] * q0 + w[0, 1] * q1 + w[0, 2] * q2 + w[0, 3]
                ty = w[1, 0] * q0 + w[1, 1] * q1 + w[1, 2] * q2 + w[1, 3]
                tz = w[2, 0] * q0 + w[2, 1] * q1 + w[2, 2] * q2 + w[2, 3]
                # Texels per pixel select the level; the finest has levels[0, 1] texels a unit.
                ratio = np.float32(levels[0, 1]) * density[n] * z / fy
                level = min(max(int(math.log2(max(ratio, _ONE)) + _HALF), 0), len(levels) - 1)
                tr, tg, tb = sample(atlas, texture[n], level, levels, tx, ty, tz)
                r, g, b = r * tr * np.float32(2), g * tg * np.float32(2), b * tb * np.float32(2)
            color[v, u, 0] = np.uint8(min(max((r * bright + shine) * top + _HALF, _ZERO), top))
            color[v, u, 1] = np.uint8(min(max((g * bright + shine) * top + _HALF, _ZERO), top))
            color[v, u, 2] = np.uint8(min(max((b * bright + shine) * top + _HALF, _ZERO), top))


@kernel
def scene_flow(
    depth: np.ndarray, ids: np.ndarray, origin0: np.ndarray, to_local0: np.ndarray, origin1: np.ndarray,
    to_camera1: np.ndarray, camera: np.ndarray, per_second: Real, flow: np.ndarray,
) -> None:  # fmt: skip
    """Write the velocity of each visible surface point up to the next frame to `flow` [H, W, 3] m/s.

    The depth and ids [H, W] are of the first frame. The primitives are in the first and in the next frame, the room
    last: its id is −1.
    """
    height, width = depth.shape
    fx, fy, cx, cy = camera[0], camera[1], camera[2], camera[3]
    for v in range(height):
        for u in range(width):
            n = ids[v, u]
            z = depth[v, u]
            x, y = (np.float32(u) - cx) / fx * z, (np.float32(v) - cy) / fy * z
            q0, q1, q2 = local_point(to_local0[n], origin0[n], x, y, z)
            a, o = to_camera1[n], origin1[n]
            for k in range(3):
                here = x if k == 0 else (y if k == 1 else z)
                flow[v, u, k] = (a[k, 0] * q0 + a[k, 1] * q1 + a[k, 2] * q2 + o[k] - here) * per_second


@kernel
def cast_boxes(
    lows: np.ndarray, highs: np.ndarray, rotation: np.ndarray, position: np.ndarray, camera: np.ndarray,
    depth: np.ndarray, face: np.ndarray, box: np.ndarray,
) -> None:  # fmt: skip
    """Cast rays from inside box 0 (the room) at axis-aligned boxes.

    The corners [B, 3], the camera's axes as columns and its center are in room coordinates. Outputs [H, W] are the
    depth, the face as 2·axis + (1 if the normal points in the positive direction), and the index of the box minus one,
    −1 for the room.
    """
    height, width = depth.shape
    fx, fy, cx, cy = camera[0], camera[1], camera[2], camera[3]
    ray = np.empty(3, np.float32)
    for v in range(height):
        for u in range(width):
            x, y = (np.float32(u) - cx) / fx, (np.float32(v) - cy) / fy
            best, best_face, best_box = _FAR, 0, -1
            for k in range(3):
                d = rotation[k, 0] * x + rotation[k, 1] * y + rotation[k, 2]
                ray[k] = d if abs(d) > np.float32(1e-7) else np.float32(1e-7)
                t = ((highs[0, k] if ray[k] > _ZERO else lows[0, k]) - position[k]) / ray[k]
                if t < best:
                    best, best_face = t, 2 * k + (0 if ray[k] > _ZERO else 1)
            for b in range(1, len(lows)):
                enter, leave, axis = -_FAR, _FAR, 0
                for k in range(3):
                    first, last = (lows[b, k] - position[k]) / ray[k], (highs[b, k] - position[k]) / ray[k]
                    if first > last:
                        first, last = last, first
                    if first > enter:
                        enter, axis = first, k
                    leave = min(leave, last)
                if np.float32(0.05) < enter < leave and enter < best:
                    best, best_box = enter, b - 1
                    best_face = 2 * axis + (0 if ray[axis] > _ZERO else 1)
            depth[v, u], face[v, u], box[v, u] = best, best_face, best_box


@kernel
def value_noise(lattice: np.ndarray, x: np.ndarray, y: np.ndarray, out: np.ndarray) -> None:
    """Write noise in 0..1 at coordinates x and y [H, W]: the lattice [K, K], periodic, smooth over one unit."""
    size = len(lattice)
    for v in range(x.shape[0]):
        for u in range(x.shape[1]):
            left, top = math.floor(x[v, u]), math.floor(y[v, u])
            fx, fy = x[v, u] - left, y[v, u] - top
            fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
            ix, iy, jx, jy = left % size, top % size, (left + 1) % size, (top + 1) % size
            above = lattice[iy, ix] * (1 - fx) + lattice[iy, jx] * fx
            below = lattice[jy, ix] * (1 - fx) + lattice[jy, jx] * fx
            out[v, u] = above * (1 - fy) + below * fy


@kernel
def ground_shadow(
    points: np.ndarray, radii: np.ndarray, strength: Real, floor: np.ndarray, camera: np.ndarray, depth: np.ndarray,
    ids: np.ndarray, color: np.ndarray,
) -> None:  # fmt: skip
    """Darken `color` [H, W, 3] softly, by a share `strength` at the center, where the `floor` [H, W] is near contacts.

    Contact points [K, 3] are on the floor in the camera's frame, radii [K] in m.
    """
    height, width = depth.shape
    fx, fy, cx, cy = camera[0], camera[1], camera[2], camera[3]
    reach = np.float32(2.2)
    u0, u1, v0, v1 = width, -1, height, -1
    for k in range(len(points)):
        z = points[k, 2]
        if z < np.float32(0.3):
            continue
        u, v, r = points[k, 0] / z * fx + cx, points[k, 1] / z * fy + cy, reach * radii[k] * fx / z
        u0, u1 = min(u0, int(u - r)), max(u1, int(u + r))
        v0, v1 = min(v0, int(v - r)), max(v1, int(v + r))
    for v in range(max(v0, 0), min(v1 + 1, height)):
        for u in range(max(u0, 0), min(u1 + 1, width)):
            if not floor[v, u] or ids[v, u] >= 0:
                continue
            z = depth[v, u]
            x, y = (np.float32(u) - cx) / fx * z, (np.float32(v) - cy) / fy * z
            light = _ONE
            for k in range(len(points)):
                dx, dy, dz = x - points[k, 0], y - points[k, 1], z - points[k, 2]
                square = (dx * dx + dy * dy + dz * dz) / (radii[k] * radii[k])
                if square < reach * reach:
                    light *= _ONE - strength * math.exp(-square)
            for c in range(3):
                color[v, u, c] = np.uint8(color[v, u, c] * light + _HALF)
