"""The room's inner loops: boxes once for each view, soft shadows in every frame."""

import math

import numpy as np

from actrec.jit import Real, kernel

_ZERO = np.float32(0)
_HALF = np.float32(0.5)
_ONE = np.float32(1)
_FAR = np.float32(1e30)


@kernel
def cast_boxes(
    lows: np.ndarray,
    highs: np.ndarray,
    rotation: np.ndarray,
    position: np.ndarray,
    camera: np.ndarray,
    depth: np.ndarray,
    face: np.ndarray,
    box: np.ndarray,
) -> None:
    """Casts rays from inside box 0 (the room) at axis-aligned boxes.

    Args:
        lows, highs: [B, 3] float32 corners in room coordinates.
        rotation, position: [3, 3] camera axes as columns and [3] camera centre in room coordinates.
        camera: [4] fx, fy, cx, cy.
        depth: [H, W] float32, out.
        face: [H, W] int8, out: 2·axis + (1 where the normal points to the positive side).
        box: [H, W] int16, out: index of the box less one, −1 the room.
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
    """Smooth noise in 0..1 with features of one unit, which repeats itself after as many as the lattice has.

    Args:
        lattice: [K, K] the noise at whole places.
        x, y: [H, W] places.
        out: [H, W], out.
    """
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
    points: np.ndarray,
    radii: np.ndarray,
    strength: Real,
    floor: np.ndarray,
    camera: np.ndarray,
    depth: np.ndarray,
    ids: np.ndarray,
    colour: np.ndarray,
) -> None:
    """Darkens the floor softly around points that something stands over.

    Args:
        points: [K, 3] float32 camera frame, on the floor.
        radii: [K] float32 metres.
        strength: Share of the light that is lost at the centre.
        floor: [H, W] bool.
        colour: [H, W, 3] uint8, in and out.
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
                colour[v, u, c] = np.uint8(colour[v, u, c] * light + _HALF)
