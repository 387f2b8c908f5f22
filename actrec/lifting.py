"""Joints seen in the image become joints in metres: depth under each joint, checked by the estimator's own 3-D shape.

The steps of `Lifter.lift`:

1. The world landmarks are placed so that they project onto the pixels (least squares). That alone gives the person's
   distance to some 20 %, and is all there is without depth.
2. Around each joint the valid depth of a small window, its size constant in metres, is sorted and cut into surfaces
   at gaps. The nearest that fills enough of the window and lies about where the joint is expected is taken.
3. The surface lies in front of the joint's centre by the radius of the body there, which is added along the ray.
4. A similarity (rotation, scale, translation) takes the world landmarks robustly onto the lifted joints, and surfaces
   are chosen once more against it. Where another limb is expected just at the surface, before the joint, it hides
   the joint: a far shoulder, an arm behind the back.
5. A joint without a surface is placed on its own pixel's ray at the depth of the fitted landmark, corrected by what
   its lifted neighbours disagree.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from actrec import geometry, surfaces
from actrec.anatomy import hidden
from actrec.config import build, setting
from actrec.errors import InputError
from actrec.fitting import place, similarity
from actrec.frames import MAX_DEPTH_M, Intrinsics, refuse_integers

NEIGHBOUR_M = 0.25
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
        world: [V, 3] metres about the object's own centre, camera axes; None or NaN where the estimator has none.
        scores: [V] in 0..1.
        depth: [H, W] metres registered to the image, NaN or 0 where missing; None for no depth.
        intrinsics: Of the image.
        radii: [V] or one number: metres from the visible surface to the joint's centre (`anatomy.radii_of` for bodies).
        links: [L, 2] joints joined by limbs that can hide other joints (`anatomy.links_of` for bodies).
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
        samples = surfaces.sample(depth, pixels, half)
        layers = surfaces.split(samples, config.surface_gap_m, config.min_share)
        trust = np.where(scores >= config.min_joint_score, 1.0, 1 / 3)
        wide, narrow = trust * config.max_disagreement_m, trust * config.hidden_m
        expected = surfaces.distance(layers, relative, scores, middle) + relative
        surface = surfaces.pick(layers, expected, narrow, wide)
        if not shaped or not np.isfinite(surface).any():
            return surface, placed
        # What hides another joint must not bend the fit, and the fit tells better what is hidden.
        surface = _unhidden(surface, rays, _along(rays, expected + radii), links)
        fitted = similarity(placed, _along(rays, surface + radii), scores, config.max_disagreement_m)
        surface = surfaces.pick(layers, fitted[:, 2] - radii, narrow, wide)
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
                "register depth to colour first"
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
    values = surfaces.sample(depth, pixels, np.zeros(len(pixels)))
    return float(np.nanmedian(values)) if np.isfinite(values).any() else 1.0


def _along(rays: np.ndarray, z: np.ndarray) -> np.ndarray:
    return (rays * z[:, None]).astype(np.float32)


def _filled(fitted: np.ndarray, lifted: np.ndarray, seen: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Joints on their own rays at the fitted landmarks' depth plus what lifted neighbours deviate from theirs."""
    deviation = np.where(seen, lifted[:, 2] - fitted[:, 2], 0.0)
    apart = np.linalg.norm(fitted[:, None] - fitted[None], axis=2)
    near = np.exp(-((apart / NEIGHBOUR_M) ** 2)) * seen
    z = fitted[:, 2] + (near @ deviation) / (near.sum(axis=1) + 0.2)
    return np.where(np.isfinite(rays).all(axis=1)[:, None], rays * z[:, None], fitted)


def _answer(positions: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with np.errstate(invalid="ignore"):
        known = np.isfinite(positions).all(axis=1) & (positions[:, 2] > 0)
    return (
        np.where(known[:, None], positions, np.nan).astype(np.float32),
        np.where(known, scores, 0.0).astype(np.float32),
    )
