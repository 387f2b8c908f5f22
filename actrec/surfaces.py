"""Reads from a depth image which surfaces lie under and around a joint."""

import numpy as np

GRID = 7
"""Depth samples along each edge of a joint's window."""

VOTE_WIDTH_M = 0.3
"""Votes for the object's distance that lie within this are one opinion: about the thickness of a body."""


def sample(depth: np.ndarray, pixels: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Valid depth in a square window around each pixel.

    Args:
        depth: [H, W] metres, NaN or 0 where missing.
        pixels: [V, 2] (u, v), NaN where unknown, outside the image allowed.
        half: [V] half the window's edge in pixels.

    Returns:
        [V, GRID²] sorted, NaN last.
    """
    height, width = depth.shape
    steps = np.linspace(-1, 1, GRID)
    centre = np.where(np.isfinite(pixels), np.clip(pixels, -1e6, 1e6), -1e6)
    u = np.rint(centre[:, 0, None] + half[:, None] * steps).astype(np.int64)
    v = np.rint(centre[:, 1, None] + half[:, None] * steps).astype(np.int64)
    inside = ((u >= 0) & (u < width))[:, None, :] & ((v >= 0) & (v < height))[:, :, None]
    values = depth[v.clip(0, height - 1)[:, :, None], u.clip(0, width - 1)[:, None, :]]
    with np.errstate(invalid="ignore"):
        values = np.where(inside & (values > 0) & (values < np.inf), values, np.nan)
    return np.sort(values.reshape(len(pixels), -1), axis=1)


def split(samples: np.ndarray, gap_m: float, min_share: float) -> np.ndarray:
    """Cuts each row of sorted depth into surfaces where it jumps.

    Args:
        samples: [V, K] from `sample`.
        gap_m: A greater jump separates surfaces; beyond 2 m it grows with z², as a depth camera's noise does.
        min_share: Surfaces that fill less of a row's valid samples are ignored.

    Returns:
        [V, K] the median depth of the surface that each sample belongs to, in increasing order, NaN where ignored.
    """
    count = samples.shape[1]
    index = np.arange(count)
    with np.errstate(invalid="ignore"):
        jump = ~(np.diff(samples, axis=1) <= gap_m * np.maximum(1.0, (samples[:, :-1] / 2.0) ** 2))
    edge = np.ones((len(samples), 1), dtype=bool)
    first = np.maximum.accumulate(np.where(np.hstack([edge, jump]), index, 0), axis=1)
    last = np.minimum.accumulate(np.where(np.hstack([jump, edge]), index, count)[:, ::-1], axis=1)[:, ::-1]
    valid = np.isfinite(samples)
    enough = valid & (last - first + 1 >= np.maximum(min_share * valid.sum(axis=1, keepdims=True), 3))
    return np.where(enough, np.take_along_axis(samples, (first + last) // 2, axis=1), np.nan)


def distance(surfaces: np.ndarray, relative: np.ndarray, weights: np.ndarray, roughly: float) -> float:
    """How far an object is: what most joints' surfaces, less the joints' own relative depth, agree on.

    The mode and not the median, for around thin limbs more of the samples may show the wall than the person.

    Args:
        surfaces: [V, K] from `split`.
        relative: [V] depth of each joint against the object's.
        weights: [V] say of each joint.
        roughly: The distance expected, NaN for none; only votes within 40 % of it count, if there are any.

    Returns:
        Metres; NaN where no surface was seen.
    """
    votes = surfaces - relative[:, None]
    with np.errstate(invalid="ignore"):
        close = np.abs(votes - roughly) < 0.4 * roughly
    usable = close if close.any() else np.isfinite(votes)
    if not usable.any():
        return float("nan")
    values, weight = votes[usable], np.broadcast_to(weights[:, None], votes.shape)[usable]
    order = np.argsort(values)
    values, total = values[order], np.concatenate([[0.0], np.cumsum(weight[order] + 1e-3)])
    stop = np.searchsorted(values, values + VOTE_WIDTH_M, side="right")
    # Of opinions held equally the nearer: a person stands before the wall and not behind it.
    start = int(np.argmax((total[stop] - total[:-1]) * (1 - 0.02 * values / values[-1])))
    return float(values[(start + stop[start]) // 2])


def pick(surfaces: np.ndarray, expected: np.ndarray, nearer: np.ndarray, farther: np.ndarray) -> np.ndarray:
    """The nearest surface of each joint that lies at most `nearer` before and `farther` behind `expected`.

    The nearest, for what is seen of a joint lies before all else at its pixel: on the edge of an arm the arm is taken,
    and neither the torso nor the wall behind it.

    Args:
        surfaces: [V, K] from `split`.
        expected: [V] metres; where NaN nothing fits.
        nearer: [V] metres.
        farther: [V] metres.

    Returns:
        [V] metres, NaN where none fits.
    """
    offset = surfaces - expected[:, None]
    with np.errstate(invalid="ignore"):
        fits = (offset > -nearer[:, None]) & (offset < farther[:, None])
    rows, choice = np.arange(len(surfaces)), fits.argmax(axis=1)
    return np.where(fits[rows, choice], surfaces[rows, choice], np.nan)
