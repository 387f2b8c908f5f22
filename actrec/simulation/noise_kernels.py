"""The sensor noise's inner loops."""

import math

import numpy as np

from actrec.simulation.jit import kernel

_ZERO = np.float32(0)
_ONE = np.float32(1)
_QUARTER_TURN = np.float32(math.pi / 2)
_STEP = np.float32(0.05)  # neighbours further apart than this are a silhouette, metres at 1 m


@kernel
def degrade_depth(exact, facing, model, shift, patches, white, chance, offsets, measured):
    """See `SensorNoise.depth`; `shift` is focal length times baseline, pixels·metres.

    A row is walked against the baseline: a point whose column in the projector's view lies beyond that of a point already passed
    is in its shadow.
    """
    s0, s1, z0, tilt, tilt_power = model[0], model[1], model[2], model[3], model[4]
    tilt_from, lateral, quantum, grazing = model[5], model[6], model[7], model[8]
    flying, loss, dropout, near, far = model[9], model[10], model[11], model[12], model[13]
    height, width = exact.shape
    mask = white.shape[0] - 1
    nan = np.float32(np.nan)
    for v in range(height):
        a, b, c = white[(v + offsets[0]) & mask], white[(v + offsets[1]) & mask], patches[(v + offsets[2]) & mask]
        luck, luck2 = chance[(v + offsets[3]) & mask], chance[(v + offsets[4]) & mask]
        reach = np.float32(1e30)
        for k in range(width):
            u = width - 1 - k if shift >= _ZERO else k
            here = exact[v, u]
            seen = float_column(u, shift, here)
            shadow = seen > reach + np.float32(0.5)
            reach = min(reach, seen)
            measured[v, u] = nan
            i = (u + offsets[5]) & mask
            if shadow or luck[i] < dropout:
                continue
            x = min(max(u + int(round(lateral * a[i])), 0), width - 1)
            y = min(max(v + int(round(lateral * b[i])), 0), height - 1)
            z, cosine = exact[y, x], facing[y, x]
            if flying + loss > _ZERO:
                other = farthest_neighbour(exact, u, v)
                if abs(other - here) > _STEP * here:
                    draw = luck2[i]
                    if draw < loss:
                        continue
                    if draw < loss + flying:
                        z = here + (other - here) * luck[(i + 97) & mask]
            if cosine + np.float32(0.02) * a[(i + 31) & mask] < grazing:
                continue
            sigma = s0 + s1 * (z - z0) * (z - z0)
            if tilt > _ZERO:
                angle = math.acos(min(max(cosine, _ZERO), _ONE))
                if angle >= tilt_from:
                    gap = max(_QUARTER_TURN - angle, np.float32(0.05))
                    sigma += tilt * z**tilt_power * angle * angle / (gap * gap)
            z += sigma * c[i]
            if quantum > _ZERO and z > _ZERO:
                z = _ONE / (max(math.floor(_ONE / (z * quantum) + np.float32(0.5)), _ONE) * quantum)
            if near <= z <= far:
                measured[v, u] = math.floor(z * np.float32(1000) + np.float32(0.5)) * np.float32(0.001)


@kernel
def float_column(u, shift, depth):
    """Column at which the projector sees the point, mirrored for a projector to the left so that shadows always lie beyond."""
    column = np.float32(u) - shift / depth
    return column if shift >= _ZERO else -column


@kernel
def farthest_neighbour(depth, u, v):
    """Depth of that of the four neighbours which differs most."""
    height, width = depth.shape
    here = depth[v, u]
    other = here
    if u > 0 and abs(depth[v, u - 1] - here) > abs(other - here):
        other = depth[v, u - 1]
    if u < width - 1 and abs(depth[v, u + 1] - here) > abs(other - here):
        other = depth[v, u + 1]
    if v > 0 and abs(depth[v - 1, u] - here) > abs(other - here):
        other = depth[v - 1, u]
    if v < height - 1 and abs(depth[v + 1, u] - here) > abs(other - here):
        other = depth[v + 1, u]
    return other


@kernel
def degrade_colour(colour, sigma, white, offsets):
    """Adds Gaussian noise in place: sigma[value] to each channel on its own, [H, W, 3] uint8."""
    height, width = colour.shape[:2]
    mask = white.shape[0] - 1
    top, half = np.float32(255), np.float32(0.5)
    for v in range(height):
        for channel in range(3):
            row = white[(v + offsets[channel]) & mask]
            for u in range(width):
                value = colour[v, u, channel]
                noisy = np.float32(value) + sigma[value] * row[(u + offsets[channel + 3]) & mask]
                colour[v, u, channel] = np.uint8(min(max(noisy + half, _ZERO), top))
