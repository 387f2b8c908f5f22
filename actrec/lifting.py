"""Joints seen in the image become joints in metres: depth under each joint, checked by the estimator's own 3-D shape.

The steps of `Lifter.lift`:

1. The world landmarks are placed so that they project onto the pixels (least squares). That alone gives the person's
   distance to some 20 %, and is all there is without depth.
2. Around each joint the valid depth of a small window, its size constant in metres, is sorted and cut into surfaces at gaps.
   The nearest surface that fills enough of the window and lies where the world landmarks expect the joint is taken: on the
   edge of an arm that is the arm and not the wall, nor the torso behind it.
3. The surface lies in front of the joint's centre by the radius of the body there, which is added along the ray.
4. A similarity (rotation, scale, translation) takes the world landmarks robustly onto the lifted joints. A joint that
   disagrees with it, or was missed, is placed on its own pixel's ray at the depth of the fitted landmark, corrected by what
   its lifted neighbours disagree.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from actrec.config import build, setting
from actrec.errors import InputError
from actrec.fitting import place, similarity
from actrec.frames import Intrinsics
from actrec.skeleton import layouts

GRID = 9
"""Depth samples along each edge of a joint's window."""

BODY_RADII = {
    "shoulder": 0.06, "elbow": 0.04, "wrist": 0.03, "hip": 0.09, "knee": 0.055, "ankle": 0.04, "heel": 0.03,
    "foot_index": 0.02, "pinky": 0.015, "index": 0.015, "thumb": 0.015, "ear": 0.03,
}  # fmt: skip
"""Metres from the skin to the joint's centre, by the stem of the joint's name; what is not named lies on the skin."""


@dataclass(frozen=True)
class LiftingConfig:
    """Settings of the lifting from pixels to metres."""

    window_m: float = setting(
        0.08, "Edge of the square around a joint in which depth is read", unit="m", range=(0.005, 0.5)
    )
    surface_gap_m: float = setting(
        0.05, "Depths further apart than this belong to different surfaces", unit="m", range=(0.005, 1.0)
    )
    min_share: float = setting(
        0.2, "Share of the window's valid depth that a surface must fill to be taken", range=(0.0, 1.0)
    )
    max_disagreement_m: float = setting(
        0.35,
        "Depth further than this from what the other joints and the world landmarks say is refused",
        unit="m",
        range=(0.01, 2.0),
    )
    min_joint_score: float = setting(
        0.5, "Joints below this score are taken as hidden: depth there is the hiding thing's", range=(0.0, 1.0)
    )
    filled_score: float = setting(0.6, "Factor on the score of a joint that depth missed", range=(0.0, 1.0))
    no_depth_score: float = setting(0.5, "Factor on all scores where there is no depth at all", range=(0.0, 1.0))


def radii_of(layout: str) -> np.ndarray:
    """[V] float32 metres from skin to joint centre for a body layout, from `BODY_RADII`."""
    stems = [joint.removesuffix("_left").removesuffix("_right") for joint in layouts.get(layout).joints]
    return np.array([BODY_RADII.get(stem, 0.0) for stem in stems], dtype=np.float32)


def lift(
    pixels: np.ndarray,
    world: np.ndarray | None,
    scores: np.ndarray,
    depth: np.ndarray | None,
    intrinsics: Intrinsics,
    radii: np.ndarray | Sequence[float] | float = 0.0,
    **options: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """Lifts joints from pixels to metres.

    Args:
        pixels: [V, 2] (u, v), NaN where the joint is unknown.
        world: [V, 3] metres about the object's own centre, camera axes; None or NaN where the estimator has none.
        scores: [V] in 0..1.
        depth: [H, W] metres registered to the image, NaN or 0 where missing; None for no depth.
        intrinsics: Of the image.
        radii: [V] or one number: metres from the visible surface to the joint's centre (`radii_of` for bodies).
        options: Fields of `LiftingConfig`.

    Returns:
        Positions [V, 3] float32 metres in the optical frame, NaN where nothing is known, and scores [V] float32: as given where
        depth was read, times `filled_score` where the world landmarks stood in, times `no_depth_score` without any
        depth (None, all NaN or all zero are the same), 0 where the position is NaN.

    Raises:
        InputError: Shapes do not fit each other.
        ConfigError: An option is unknown or out of range.
    """
    return Lifter(build(LiftingConfig, options)).lift(pixels, world, scores, depth, intrinsics, radii)


class Lifter:
    """`lift` with its settings built once."""

    def __init__(self, config: LiftingConfig):
        self.config = config

    def lift(
        self,
        pixels: np.ndarray,
        world: np.ndarray | None,
        scores: np.ndarray,
        depth: np.ndarray | None,
        intrinsics: Intrinsics,
        radii: np.ndarray | Sequence[float] | float = 0.0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `lift`."""
        pixels, scores, world = _checked(pixels, scores, world, depth, intrinsics)
        rays = _rays(pixels, intrinsics)
        placed = place(world, rays, scores)
        surface = self._surface(pixels, placed, scores, depth, intrinsics) if depth is not None else None
        if surface is None or not np.isfinite(surface).any():
            return _answer(placed, scores * np.float32(self.config.no_depth_score))
        seen = np.isfinite(surface)
        lifted = rays * (surface + np.asarray(radii, dtype=np.float32))[:, None]
        fitted = similarity(placed, lifted, np.where(seen, scores, 0.0), self.config.max_disagreement_m)
        with np.errstate(invalid="ignore"):
            seen &= ~(np.linalg.norm(lifted - fitted, axis=1) > self.config.max_disagreement_m)
        if not seen.any():
            return _answer(placed, scores * np.float32(self.config.no_depth_score))
        filled = _filled(fitted, lifted, seen, rays)
        return _answer(
            np.where(seen[:, None], lifted, filled),
            np.where(seen, scores, scores * np.float32(self.config.filled_score)),
        )

    def _surface(
        self, pixels: np.ndarray, placed: np.ndarray, scores: np.ndarray, depth: np.ndarray, intrinsics: Intrinsics
    ) -> np.ndarray | None:
        """[V] depth of the surface that each joint lies under, NaN where none fits; None where depth is empty."""
        config = self.config
        roughly = placed[:, 2] if np.isfinite(placed[:, 2]).any() else np.full(len(pixels), _nearby(pixels, depth))
        samples = _samples(pixels, roughly, depth, intrinsics, config.window_m)
        if not np.isfinite(samples).any():
            return None
        first, size, middle = _surfaces(samples, config.surface_gap_m)
        enough = size >= np.maximum(config.min_share * np.isfinite(samples).sum(axis=1, keepdims=True), 3)
        relative = (
            placed[:, 2] - np.nanmedian(placed[:, 2]) if np.isfinite(placed[:, 2]).any() else np.zeros(len(pixels))
        )
        distance = _distance(first, enough, middle, np.nan_to_num(relative), scores, placed)
        expected = distance + np.nan_to_num(relative)
        # A hidden joint is believed only where depth says nearly what the landmarks say.
        gate = np.where(scores >= config.min_joint_score, config.max_disagreement_m, config.max_disagreement_m / 3)
        fits = enough & (np.abs(middle - expected[:, None]) < gate[:, None])
        nearest = fits.argmax(axis=1)
        rows = np.arange(len(pixels))
        return np.where(fits[rows, nearest], middle[rows, nearest], np.nan).astype(np.float32)


def _checked(
    pixels: np.ndarray, scores: np.ndarray, world: np.ndarray | None, depth: np.ndarray | None, intrinsics: Intrinsics
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    pixels, scores = np.asarray(pixels, dtype=np.float32), np.asarray(scores, dtype=np.float32)
    count = len(pixels)
    world = np.full((count, 3), np.nan, np.float32) if world is None else np.asarray(world, dtype=np.float32)
    if pixels.shape != (count, 2) or scores.shape != (count,) or world.shape != (count, 3):
        raise InputError(
            f"pixels {list(pixels.shape)}, world {list(world.shape)} and scores {list(scores.shape)} do not fit: "
            "expected [V, 2], [V, 3] and [V]"
        )
    if depth is not None and depth.shape != (intrinsics.height, intrinsics.width):
        raise InputError(
            f"depth is {list(depth.shape)} but the intrinsics say [{intrinsics.height}, {intrinsics.width}]: "
            "register depth to colour first"
        )
    return pixels, np.nan_to_num(scores), world


def _rays(pixels: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """[V, 3] directions with z = 1 through the pixels, lens distortion removed."""
    flat = np.stack(
        [(pixels[:, 0] - intrinsics.cx) / intrinsics.fx, (pixels[:, 1] - intrinsics.cy) / intrinsics.fy], axis=1
    )
    if any(intrinsics.distortion):
        import cv2

        known = np.isfinite(flat).all(axis=1)
        if known.any():
            straight = cv2.undistortPoints(
                pixels[known, None].astype(np.float64), intrinsics.matrix, np.array(intrinsics.distortion)
            )
            flat[known] = straight[:, 0]
    return np.concatenate([flat, np.ones((len(flat), 1))], axis=1).astype(np.float32)


def _nearby(pixels: np.ndarray, depth: np.ndarray) -> float:
    """A first guess of the distance without world landmarks: the median depth exactly at the joints."""
    height, width = depth.shape
    known = pixels[np.isfinite(pixels).all(axis=1)].round()
    inside = known[((known >= 0) & (known < [width, height])).all(axis=1)].astype(int)
    values = depth[inside[:, 1], inside[:, 0]]
    values = values[values > 0]
    return float(np.median(values)) if len(values) else 1.0


def _samples(
    pixels: np.ndarray, roughly: np.ndarray, depth: np.ndarray, intrinsics: Intrinsics, window_m: float
) -> np.ndarray:
    """[V, GRID²] sorted valid depth in a window around each joint, NaN last."""
    height, width = depth.shape
    with np.errstate(invalid="ignore", divide="ignore"):
        half = np.nan_to_num(0.5 * window_m * intrinsics.fx / roughly, nan=2.0, posinf=2.0)
    # At least 5×5 pixels: a joint is not known better than that, and single pixels are noisy.
    half = np.clip(half, 2.0, 0.1 * width)
    steps = np.linspace(-1, 1, GRID)
    known = np.isfinite(pixels).all(axis=1)
    centre = np.where(known[:, None], np.clip(np.nan_to_num(pixels), -1e6, 1e6), -1e6)
    u = np.rint(centre[:, 0, None] + half[:, None] * steps).astype(np.int64)
    v = np.rint(centre[:, 1, None] + half[:, None] * steps).astype(np.int64)
    inside = ((u >= 0) & (u < width))[:, None, :] & ((v >= 0) & (v < height))[:, :, None]
    values = depth[np.clip(v, 0, height - 1)[:, :, None], np.clip(u, 0, width - 1)[:, None, :]]
    with np.errstate(invalid="ignore"):
        values = np.where(inside & (values > 0) & (values < np.inf), values, np.nan)
    return np.sort(values.reshape(len(pixels), -1), axis=1)


def _surfaces(samples: np.ndarray, gap_m: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cuts each row of sorted depth where it jumps.

    Returns:
        For each of the [V, K] samples: the index where its surface starts, the number of samples in the surface, and the
        surface's median depth (NaN for NaN).
    """
    count = samples.shape[1]
    index = np.broadcast_to(np.arange(count), samples.shape)
    with np.errstate(invalid="ignore"):
        # Sensor noise grows with z²: the gap grows too, from 2 m on.
        jump = ~(np.diff(samples, axis=1) <= gap_m * np.maximum(1.0, (samples[:, :-1] / 2.0) ** 2))
    edge = np.ones((len(samples), 1), dtype=bool)
    first = np.maximum.accumulate(np.where(np.hstack([edge, jump]), index, 0), axis=1)
    last = np.minimum.accumulate(np.where(np.hstack([jump, edge]), index, count)[:, ::-1], axis=1)[:, ::-1]
    middle = np.take_along_axis(samples, (first + last) // 2, axis=1)
    return first, np.where(np.isfinite(samples), last - first + 1, 0), middle


def _distance(
    first: np.ndarray,
    enough: np.ndarray,
    middle: np.ndarray,
    relative: np.ndarray,
    scores: np.ndarray,
    placed: np.ndarray,
) -> float:
    """The object's distance: what most joints' surfaces, less the joints' relative depth, agree on.

    Every surface of every window votes with its share; with world landmarks only votes within 40 % of their distance count.
    """
    votes = middle - relative[:, None]
    usable = enough & np.isfinite(votes)
    near = np.nanmedian(placed[:, 2]) if np.isfinite(placed[:, 2]).any() else np.nan
    if np.isfinite(near):
        close = usable & (np.abs(votes - near) < 0.4 * near)
        usable = close if close.any() else usable
    if not usable.any():
        return float("nan")
    weight = (np.broadcast_to(scores[:, None], votes.shape) + 1e-3)[usable]
    values = votes[usable]
    # The mode and not the median: in sparse views more of the windows may show the wall than the person.
    order = np.argsort(values)
    values, total = values[order], np.concatenate([[0.0], np.cumsum(weight[order])])
    stop = np.searchsorted(values, values + 0.3, side="right")
    mass = total[stop] - total[np.arange(len(values))]
    # Of equals the nearer: a person stands before the wall and not behind it.
    start = int(np.argmax(mass * (1 - 0.02 * values / max(values[-1], 1e-6))))
    return float(np.median(values[start : stop[start]]))


def _filled(fitted: np.ndarray, lifted: np.ndarray, seen: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Joints on their own rays at the fitted landmarks' depth plus what lifted neighbours deviate from theirs."""
    if not np.isfinite(fitted).any():
        return np.full_like(lifted, np.nan)
    deviation = np.where(seen, lifted[:, 2] - fitted[:, 2], 0.0)
    apart = np.linalg.norm(fitted[:, None] - fitted[None], axis=2)
    near = np.exp(-((apart / 0.25) ** 2)) * seen
    z = fitted[:, 2] + (near @ deviation) / (near.sum(axis=1) + 0.2)
    return np.where(np.isfinite(rays).all(axis=1)[:, None], rays * z[:, None], fitted)


def _answer(positions: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    known = np.isfinite(positions).all(axis=1) & (np.nan_to_num(positions[:, 2]) > 0)
    return (
        np.where(known[:, None], positions, np.nan).astype(np.float32),
        np.where(known, scores, 0.0).astype(np.float32),
    )
