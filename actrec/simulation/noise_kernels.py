"""The sensor noise's inner loops."""

import numpy as np

from actrec.jit import Real, kernel

_ZERO = np.float32(0)
_ONE = np.float32(1)
_HALF = np.float32(0.5)
_SILHOUETTE = np.float32(0.05)
"""Neighbours that differ by more than this share of their depth lie on two surfaces."""


@kernel
def degrade_depth(
    exact: np.ndarray,
    facing: np.ndarray,
    axial: np.ndarray,
    tilted: np.ndarray,
    steep: np.ndarray,
    model: np.ndarray,
    shift: Real,
    patches: np.ndarray,
    white: np.ndarray,
    jitter: np.ndarray,
    chance: np.ndarray,
    offsets: np.ndarray,
    measured: np.ndarray,
) -> None:
    """See `SensorNoise.depth`.

    A row is walked against the baseline: a point whose column in the projector's view lies beyond that of a point
    already passed
    is in its shadow.

    Args:
        exact, facing: [H, W] float32 depth and cosine of the angle of incidence.
        axial, tilted: [Z] float32 standard deviation face on, and its growth, at depth far·k/(Z − 1).
        steep: [C] float32 factor on `tilted` at cosine k/(C − 1).
        model: [7] float32 disparity quantum, grazing cosine, flying share, silhouette loss, dropout, near, far.
        shift: Focal length times baseline, pixels·metres.
        patches, white: [S, S] float32 tiles of Gaussian noise, S a power of two.
        jitter: [S, S, 2] int8 tile of displacements, pixels.
        chance: [S, S] float32 tile, uniform in 0..1.
        offsets: [8] where in the tiles the draws begin.
        measured: [H, W] float32, out.
    """
    quantum, grazing, flying, loss, dropout = model[0], model[1], model[2], model[3], model[4]
    near, far = model[5], model[6]
    height, width = exact.shape
    mask = white.shape[0] - 1
    nan = np.float32(np.nan)
    z_scale, c_scale = np.float32(len(axial) - 1) / far, np.float32(len(steep) - 1)
    sign = _ONE if shift >= _ZERO else -_ONE
    lost_or_flying = loss + flying
    for v in range(height):
        patch, displaced = patches[(v + offsets[0]) & mask], jitter[(v + offsets[1]) & mask]
        luck, luck2 = chance[(v + offsets[2]) & mask], chance[(v + offsets[3]) & mask]
        soft = white[(v + offsets[4]) & mask]
        reach = np.float32(1e30)
        inner_row = 0 < v < height - 1
        for k in range(width):
            u = width - 1 - k if shift >= _ZERO else k
            here = exact[v, u]
            if shift != _ZERO:
                seen = sign * (np.float32(u) - shift / here)
                if seen > reach + _HALF:
                    measured[v, u] = nan
                    continue
                reach = min(reach, seen)
            i = (u + offsets[5]) & mask
            if luck[i] < dropout:
                measured[v, u] = nan
                continue
            x, y = u + displaced[i, 0], v + displaced[i, 1]
            if x < 0 or x >= width or y < 0 or y >= height:
                x, y = u, v
            z, cosine = exact[y, x], facing[y, x]
            if lost_or_flying > _ZERO and inner_row and 0 < u < width - 1:
                other = exact[v, u - 1]
                other = exact[v, u + 1] if abs(exact[v, u + 1] - here) > abs(other - here) else other
                other = exact[v - 1, u] if abs(exact[v - 1, u] - here) > abs(other - here) else other
                other = exact[v + 1, u] if abs(exact[v + 1, u] - here) > abs(other - here) else other
                if abs(other - here) > _SILHOUETTE * here:
                    draw = luck2[i]
                    if draw < loss:
                        measured[v, u] = nan
                        continue
                    if draw < lost_or_flying:
                        z = here + (other - here) * (draw - loss) / flying
            if z > far or z < near or cosine + np.float32(0.02) * soft[i] < grazing:
                measured[v, u] = nan
                continue
            bin_z, bin_c = int(z * z_scale + _HALF), int(max(cosine, _ZERO) * c_scale + _HALF)
            z += (axial[bin_z] + tilted[bin_z] * steep[bin_c]) * patch[i]
            if quantum > _ZERO:
                z = _ONE / (max(np.float32(int(_ONE / (z * quantum) + _HALF)), _ONE) * quantum)
            measured[v, u] = np.float32(int(z * np.float32(1000) + _HALF)) * np.float32(0.001)


@kernel
def degrade_colour(colour: np.ndarray, sigma: np.ndarray, white: np.ndarray, offsets: np.ndarray) -> None:
    """Adds Gaussian noise in place: sigma[value] to each channel on its own, [H, W, 3] uint8."""
    height, width = colour.shape[:2]
    mask = white.shape[0] - 1
    top = np.float32(255)
    for v in range(height):
        for channel in range(3):
            row = white[(v + offsets[channel]) & mask]
            for u in range(width):
                value = colour[v, u, channel]
                noisy = np.float32(value) + sigma[value] * row[(u + offsets[channel + 3]) & mask]
                colour[v, u, channel] = np.uint8(min(max(noisy + _HALF, _ZERO), top))
