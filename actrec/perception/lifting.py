"""Joints seen in the image become joints in metres: depth under each joint, checked by the estimator's own 3-D shape.

The steps of `Lifter.lift`:

1. The world landmarks are placed so that they project onto the pixels (least squares). That alone gives the person's
   distance to some 20 %, and is all there is without depth.
2. Around each joint the valid depth of a small window, its size constant in metres, is sorted and cut into surfaces
   at gaps. The nearest that fills enough of the window and lies about where the joint is expected is taken.
3. The surface lies in front of the joint's center by the radius of the body there, which is added along the ray.
4. A similarity (rotation, scale, translation) takes the world landmarks robustly onto the lifted joints, and surfaces
   are chosen once more against it. Where another limb is expected just at the surface, before the joint, it hides
   the joint: a far shoulder, an arm behind the back.
5. A joint without a surface is placed on its own pixel's ray at the depth of the fitted landmark, corrected by what
   its lifted neighbors disagree.

What depth lifting knows of bodies: how deep joints lie under the skin, and which limbs can hide which joints.

Reads from a depth image which surfaces lie under and around a joint.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from actrec.skeleton import layouts
from actrec.types import MAX_DEPTH_M, Intrinsics, refuse_integers
from actrec.utils import geometry
from actrec.utils.config import build, setting
from actrec.utils.errors import InputError
from actrec.utils.geometry import place, similarity

BODY_RADII = {
    "shoulder": 0.06, "elbow": 0.04, "wrist": 0.03, "hip": 0.09, "knee": 0.055, "ankle": 0.04, "heel": 0.03,
    "foot_index": 0.02, "pinky": 0.015, "index": 0.015, "thumb": 0.015, "ear": 0.055,
}  # fmt: skip
"""Metres from the skin to the joint's center, by the stem of the joint's name; what is not named lies on the skin."""

TORSO = (
    ("shoulder_left", "shoulder_right"),
    ("hip_left", "hip_right"),
    ("shoulder_left", "hip_right"),
    ("shoulder_right", "hip_left"),
)
"""What fills the trunk beside the layout's own bones."""

REACH_M = 0.12
"""Half the thickness of what can hide a joint, and how well its depth has to match."""

BEHIND_M = 0.1
"""A joint has to be expected this far behind the surface before it can be hidden by it."""

STEPS = np.array([0.0, 0.25, 0.5, 0.75, 1.0], dtype=np.float32)
"""Where along a limb points are tried."""


@cache
def joint_radii(layout: str) -> np.ndarray:
    """[V] float32 metres from skin to joint center for a body layout, from `BODY_RADII`."""
    stems = [joint.removesuffix("_left").removesuffix("_right") for joint in layouts.get(layout).joints]
    return np.array([BODY_RADII.get(stem, 0.0) for stem in stems], dtype=np.float32)


@cache
def limb_links(layout: str) -> np.ndarray:
    """[L, 2] joint indices of the limbs of a body layout: its bones, and the trunk's diagonals."""
    known = layouts.get(layout)
    trunk = [(known.index[a], known.index[b]) for a, b in TORSO if a in known.index and b in known.index]
    return np.array([*known.edges, *trunk])


def hidden(rays: np.ndarray, surface: np.ndarray, fitted: np.ndarray, links: np.ndarray) -> np.ndarray:
    """Which joints' surfaces belong to another limb that passes before them.

    Depth alone cannot tell a hand held nearer than the estimator thought from a shoulder behind the other one: in the
    second case another limb is expected just where the surface is.

    Args:
        rays: [V, 3] towards the joints, z = 1.
        surface: [V] depth of the surface seen at each joint, NaN where none.
        fitted: [V, 3] where the estimator's landmarks expect the joints, metres.
        links: [L, 2] from `limb_links`.

    Returns:
        [V] bool.
    """
    result = np.zeros(len(rays), dtype=bool)
    with np.errstate(invalid="ignore"):
        suspects = np.flatnonzero(fitted[:, 2] - surface > BEHIND_M)
    if not len(suspects):
        return result
    start, end = fitted[links[:, 0]], fitted[links[:, 1]]
    points = start[:, None] + STEPS[:, None] * (end - start)[:, None]
    seen = (rays * surface[:, None])[suspects]
    beside = (np.abs(points[None] - seen[:, None, None]) < REACH_M).all(axis=3)
    # The limb itself has to lie before the joint, else it is the joint's own neighborhood.
    before = fitted[suspects, 2][:, None, None] - points[None, :, :, 2] > BEHIND_M
    own = (links[None] == suspects[:, None, None]).any(axis=2)
    result[suspects] = (beside & before & ~own[:, :, None]).any(axis=(1, 2))
    return result


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
    center = np.where(np.isfinite(pixels), np.clip(pixels, -1e6, 1e6), -1e6)
    u = np.rint(center[:, 0, None] + half[:, None] * steps).astype(np.int64)
    v = np.rint(center[:, 1, None] + half[:, None] * steps).astype(np.int64)
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


NEIGHBOR_M = 0.25
"""Within this, lifted joints correct the depth of one that was missed."""


@dataclass(frozen=True)
class LiftingConfig:
    """Settings of the lifting from pixels to metres."""

    window_m: float = setting(
        0.08, "Edge of the square around a joint in which depth is read", unit="m", range=(0.002, 0.5)
    )
    surface_gap_m: float = setting(
        0.05, "Depths further apart than this belong to different surfaces", unit="m", range=(0.005, 1.0)
    )
    min_share: float = setting(
        0.2, "Share of the window's valid depth that a surface must fill to be taken", range=(0.0, 1.0)
    )
    max_disagreement_m: float = setting(
        0.35, "A surface further than this from where the joint is expected is refused", unit="m", range=(0.01, 2.0)
    )
    hidden_m: float = setting(
        0.3, "A surface nearer than this before the expected joint is taken to hide it", unit="m", range=(0.01, 2.0)
    )
    min_joint_score: float = setting(
        0.5, "Below this score a joint is believed only where depth agrees three times as well", range=(0.0, 1.0)
    )
    filled_score: float = setting(0.6, "Factor on the score of a joint that depth missed", range=(0.0, 1.0))
    no_depth_score: float = setting(0.5, "Factor on all scores where there is no depth at all", range=(0.0, 1.0))


def lift(
    pixels: np.ndarray,
    world: np.ndarray | None,
    scores: np.ndarray,
    depth: np.ndarray | None,
    intrinsics: Intrinsics,
    radii: np.ndarray | Sequence[float] | float = 0.0,
    links: np.ndarray | None = None,
    **options: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """Lifts joints from pixels to metres.

    Args:
        pixels: [V, 2] (u, v), NaN where the joint is unknown.
        world: [V, 3] metres about the object's own center, camera axes; None or NaN where the estimator has none.
        scores: [V] in 0..1.
        depth: [H, W] metres registered to the image, NaN or 0 where missing; None for no depth.
        intrinsics: Of the image.
        radii: [V] or one number: metres from the visible surface to the joint's center (`joint_radii`).
        links: [L, 2] joints joined by limbs that can hide other joints (`limb_links`).
        options: Fields of `LiftingConfig`.

    Returns:
        Positions [V, 3] float32 metres in the optical frame, NaN where nothing is known, and scores [V] float32: as
        given where depth was read, times `filled_score` where the world landmarks stood in, times `no_depth_score`
        without any depth (None, all NaN or all zero are the same), 0 where the position is NaN.

    Raises:
        InputError: Shapes do not fit each other, or depth is not in metres.
        ConfigError: An option is unknown or out of range.
    """
    return Lifter(build(LiftingConfig, options)).lift(pixels, world, scores, depth, intrinsics, radii, links)


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
        links: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """As the function `lift`."""
        pixels, scores, world = _checked(pixels, scores, world, depth, intrinsics)
        rays = _rays(pixels, intrinsics)
        placed = place(world, rays, scores)
        surface, fitted = np.full(len(pixels), np.nan), placed
        if depth is not None:
            depths = np.zeros(len(pixels)) + np.asarray(radii)
            surface, fitted = self._surface(pixels, rays, placed, scores, depth, intrinsics.fx, depths, links)
        seen = np.isfinite(surface)
        if not seen.any():
            return _answer(placed, scores * self.config.no_depth_score)
        if (away := float(np.median(surface[seen]))) > MAX_DEPTH_M:
            raise InputError(f"depth is {away:.0f} m at the joints, expected metres: is it in millimetres?")
        lifted = _along(rays, surface + radii)
        positions = np.where(seen[:, None], lifted, _filled(fitted, lifted, seen, rays))
        return _answer(positions, np.where(seen, scores, scores * self.config.filled_score))

    def _surface(
        self,
        pixels: np.ndarray,
        rays: np.ndarray,
        placed: np.ndarray,
        scores: np.ndarray,
        depth: np.ndarray,
        focal: float,
        radii: np.ndarray,
        links: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """[V] depth of each joint's surface, NaN where none fits, and the world landmarks fitted to those joints."""
        config = self.config
        shaped = np.isfinite(placed).all()
        middle = float(np.median(placed[:, 2])) if shaped else float("nan")
        relative = placed[:, 2] - middle if shaped else np.zeros(len(pixels))
        half = 0.5 * config.window_m * focal / (placed[:, 2] if shaped else _nearby(pixels, depth))
        # At least 5×5 pixels: no joint is known better, and single pixels are noisy.
        half = np.broadcast_to(np.clip(half, 2.0, 0.1 * depth.shape[1]), len(pixels))
        samples = sample(depth, pixels, half)
        layers = split(samples, config.surface_gap_m, config.min_share)
        trust = np.where(scores >= config.min_joint_score, 1.0, 1 / 3)
        wide, narrow = trust * config.max_disagreement_m, trust * config.hidden_m
        expected = distance(layers, relative, scores, middle) + relative
        surface = pick(layers, expected, narrow, wide)
        if not shaped or not np.isfinite(surface).any():
            return surface, placed
        # What hides another joint must not bend the fit, and the fit tells better what is hidden.
        surface = _unhidden(surface, rays, _along(rays, expected + radii), links)
        fitted = similarity(placed, _along(rays, surface + radii), scores, config.max_disagreement_m)
        surface = pick(layers, fitted[:, 2] - radii, narrow, wide)
        return _unhidden(surface, rays, fitted, links), fitted


def _unhidden(surface: np.ndarray, rays: np.ndarray, expected: np.ndarray, links: np.ndarray | None) -> np.ndarray:
    if links is None or not np.isfinite(expected).all():
        return surface
    return np.where(hidden(rays, surface, expected, links), np.nan, surface)


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
    if depth is not None:
        if depth.shape != (intrinsics.height, intrinsics.width):
            raise InputError(
                f"depth is {list(depth.shape)} but the intrinsics say [{intrinsics.height}, {intrinsics.width}]: "
                "register depth to color first"
            )
        refuse_integers(depth)
    return pixels, np.nan_to_num(scores), world


def _rays(pixels: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """[V, 3] directions with z = 1 through the pixels, lens distortion removed."""
    rays = np.ones((len(pixels), 3), dtype=np.float32)
    rays[:, 0] = (pixels[:, 0] - intrinsics.cx) / intrinsics.fx
    rays[:, 1] = (pixels[:, 1] - intrinsics.cy) / intrinsics.fy
    known = np.isfinite(pixels).all(axis=1)
    if any(intrinsics.distortion) and known.any():
        rays[known, :2] = geometry.rays(pixels[known], intrinsics)
    return rays


def _nearby(pixels: np.ndarray, depth: np.ndarray) -> float:
    """A first guess of the distance without world landmarks: the median depth exactly at the joints."""
    values = sample(depth, pixels, np.zeros(len(pixels)))
    return float(np.nanmedian(values)) if np.isfinite(values).any() else 1.0


def _along(rays: np.ndarray, z: np.ndarray) -> np.ndarray:
    return (rays * z[:, None]).astype(np.float32)


def _filled(fitted: np.ndarray, lifted: np.ndarray, seen: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Joints on their own rays at the fitted landmarks' depth plus what lifted neighbors deviate from theirs."""
    deviation = np.where(seen, lifted[:, 2] - fitted[:, 2], 0.0)
    apart = np.linalg.norm(fitted[:, None] - fitted[None], axis=2)
    near = np.exp(-((apart / NEIGHBOR_M) ** 2)) * seen
    z = fitted[:, 2] + (near @ deviation) / (near.sum(axis=1) + 0.2)
    return np.where(np.isfinite(rays).all(axis=1)[:, None], rays * z[:, None], fitted)


def _answer(positions: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with np.errstate(invalid="ignore"):
        known = np.isfinite(positions).all(axis=1) & (positions[:, 2] > 0)
    return (
        np.where(known[:, None], positions, np.nan).astype(np.float32),
        np.where(known, scores, 0.0).astype(np.float32),
    )
