"""Lifting of joints from pixels to meters, by the depth image and the estimator's own 3-D shape.

Steps of `lift`:

1. Place the world landmarks so that they project onto the pixels (least squares). This alone gives the person's
   distance within about 20 %, and is the only source without depth; the trunk is then straightened (`with_less_lean`).
2. Sort the valid depth in a small window around each joint, of constant size in meters, and split it into surfaces at
   gaps. Lean the shape to or from the camera so that most surfaces agree in its distance. Choose the nearest surface
   that fills enough of the window and lies near the joint's expected depth.
3. Add the body's radius along the ray, from the surface to the joint's center.
4. Fit the world landmarks to the lifted joints by a robust similarity (rotation, scale, translation), and choose the
   surfaces again by the fit. If another limb is expected at the surface, before the joint, it occludes the joint, such
   as a far shoulder or an arm behind the back.
5. Place a joint without a surface on its pixel's ray at the depth of the fitted landmark, corrected by the deviation of
   its lifted neighbors.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from actrec.skeleton import layouts
from actrec.skeleton.shape_fits import fit_similarity, fit_translation
from actrec.types import MAX_DEPTH_M, Intrinsics, refuse_integers
from actrec.utils import camera_model, gravity
from actrec.utils.config import setting
from actrec.utils.errors import InputError

BODY_RADII = {
    "shoulder": 0.06, "elbow": 0.04, "wrist": 0.03, "hip": 0.09, "knee": 0.055, "ankle": 0.04, "heel": 0.03,
    "foot_index": 0.02, "pinky": 0.015, "index": 0.015, "thumb": 0.015, "ear": 0.055,
}  # fmt: skip
"""Distance in m from the skin to the joint's center, by the stem of the joint's name; other joints lie on the skin."""

TORSO = (
    *(("shoulder_left", "shoulder_right"), ("hip_left", "hip_right")),
    *(("shoulder_left", "hip_right"), ("shoulder_right", "hip_left")),
)
"""Links of the trunk in addition to the layout's bones."""

LEAN_DEG = 30.0
"""Lean of the trunk to or from the camera of which half is taken without depth. The estimator's is 1 to 22° for upright
people (10th and 90th percentile of 72 rendered recordings), and hardly follows the true one below 20°."""

HEAD_LEAN = 1.3
"""Distance of the head from the hips along the trunk, in lengths of the trunk."""

OCCLUDER_M = 0.2
"""Maximum difference in depth between an occluding limb and the surface."""

PIXEL_ERROR_M = 0.02
"""Error of joints in the image, as a distance at the person."""

GRID = 7
"""Depth samples along each edge of a joint's window."""

VOTE_WIDTH_M = 0.3
"""Width in which votes for the object's distance agree: about the thickness of a body."""

LEANS = (-0.2, 0.2, -0.4, 0.4)
"""Tried corrections of the shape's lean: meters of depth per meter along its longest axis in the image. Before a camera
that looks down by 30°, the estimator's people stand almost parallel to the image."""

DENSE_M = 0.1
"""Distance within which joints share their weight: 11 joints in the face must not outweigh two hips."""

ENOUGH = 0.9
"""Share of the joints that agree in distance, above which a shape is not corrected."""

LEAN_GAIN = 1.2
"""Factor on the votes by which a corrected lean must agree better than the shape as it is."""

NEIGHBOR_M = 0.25
"""Distance over which lifted joints correct the depth of joints without a surface."""

BEHIND_M = 0.1
"""Minimum depth of an occluded joint behind the surface."""

PLAUSIBLE_SIZES = (0.4, 2.5)
"""Size by depth relative to the estimator's own; other people, or their depth, are not real."""

MIN_READINGS = 4
"""Joints with depth for a reading of the size."""


@cache
def joint_radii(layout: str) -> np.ndarray:
    """Return [V] float32 meters from skin to joint center for a body layout, from `BODY_RADII`."""
    stems = [joint.removesuffix("_left").removesuffix("_right") for joint in layouts.get(layout).joints]
    return np.array([BODY_RADII.get(stem, 0.0) for stem in stems], dtype=np.float32)


@cache
def limb_links(layout: str) -> np.ndarray:
    """Return [L, 2] joint indices of the limbs of a body layout: its bones and the trunk's diagonals."""
    known = layouts.get(layout)
    trunk = [(known.index[a], known.index[b]) for a, b in TORSO if a in known.index and b in known.index]
    return np.array([*known.edges, *trunk])


@cache
def _lean_shares(layout: str) -> np.ndarray:
    """Return [V] float32: the share of the shoulders' way by which a joint moves if the trunk leans."""
    arms, legs = ("shoulder", "elbow", "wrist", "pinky", "index", "thumb"), ("hip", "knee", "ankle", "heel", "foot")
    shares = [
        1.0 if joint.startswith(arms) else 0.0 if joint.startswith(legs) else HEAD_LEAN
        for joint in layouts.get(layout).joints
    ]
    return np.array(shares, dtype=np.float32)


def with_less_lean(world: np.ndarray, layout: str, up: np.ndarray | None) -> np.ndarray:
    """Return a body's shape [V, 3], m in camera axes, with less lean of the trunk to or from the camera.

    An image without depth hardly shows a small lean, and the estimator's is noise. A lean of θ against the vertical is
    scaled by θ² / (θ² + `LEAN_DEG`²), so that a bow or a person who lies remains. The upper joints move along the
    horizontal direction of view.

    Args:
        world: Joints about the body's own center, NaN if unknown.
        layout: A layout with shoulders and hips, such as mediapipe_33.
        up: [3] unit vector against gravity in the optical frame; None for a level camera.
    """
    index = layouts.get(layout).index
    level = np.eye(3) if up is None else gravity.level_rotation(up)
    joints = world @ level.T
    middle = {
        part: (joints[index[f"{part}_left"]] + joints[index[f"{part}_right"]]) / 2 for part in ("shoulder", "hip")
    }
    x, y, z = middle["shoulder"] - middle["hip"]
    lean = float(np.degrees(np.arctan2(abs(z), np.hypot(x, y))))
    joints[:, 2] -= z * LEAN_DEG**2 / (lean**2 + LEAN_DEG**2) * _lean_shares(layout)
    return (joints @ level).astype(np.float32)


def _without_occluded(
    surface: np.ndarray, rays: np.ndarray, fitted: np.ndarray, radii: np.ndarray, links: np.ndarray | None
) -> np.ndarray:
    """Return the surface [V] at each joint (m), NaN where another limb occludes the joint.

    Depth alone does not separate a hand nearer than estimated from a shoulder behind the other one; in the second case
    another limb of `links` [L, 2] covers the joint's pixel, as thick as the `radii` [V], and the fitted joints [V, 3]
    place it at the surface. A hand that hangs beside the hip does not cover it.
    """
    if links is None or not np.isfinite(fitted).all():
        return surface
    with np.errstate(invalid="ignore"):
        candidates = np.flatnonzero(fitted[:, 2] - surface > BEHIND_M)
    if not len(candidates):
        return surface
    start, end = links.T
    limbs = (rays[end] - rays[start])[:, :2]
    offsets = rays[candidates, None, :2] - rays[start, :2]  # (candidates, L, 2)
    along = np.clip((offsets * limbs).sum(axis=-1) / np.maximum((limbs**2).sum(axis=-1), 1e-12), 0.0, 1.0)
    limb_z = fitted[start, 2] + along * (fitted[end, 2] - fitted[start, 2])
    beside = np.linalg.norm(offsets - along[..., None] * limbs, axis=-1) * limb_z
    covers = beside < np.maximum(radii[start], radii[end]) + PIXEL_ERROR_M
    covers &= np.abs(limb_z - surface[candidates, None]) < OCCLUDER_M
    # The limb itself must lie before the joint, else it is the joint's own neighborhood.
    covers &= fitted[candidates, None, 2] - limb_z > BEHIND_M
    own = (links[None] == candidates[:, None, None]).any(axis=2)
    result = surface.copy()
    result[candidates[(covers & ~own).any(axis=1)]] = np.nan
    return result


def _sample_depth(depth: np.ndarray, pixels: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Return the valid depth in a square window around each pixel, [V, GRID²] sorted, NaN last.

    Pixels [V, 2] may be NaN or outside the image; `half` [V] is half of the window's edge, px.
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


def _split_surfaces(samples: np.ndarray, gap_m: float, min_share: float) -> np.ndarray:
    """Return the median depth of each sample's surface [V, K], in increasing order; NaN below the minimum share.

    Each row of sorted depth is split at gaps; beyond 2 m the minimum gap grows with z², as the noise of a depth camera.
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


def _thinned(shape: np.ndarray) -> np.ndarray:
    """Return [V] weights of the joints of a shape [V, 3], smaller for dense ones, as in a face."""
    apart = np.linalg.norm(shape[:, None] - shape[None], axis=2)
    return 1.0 / np.exp(-((apart / DENSE_M) ** 2)).sum(axis=1)


def _leaned(
    placed: np.ndarray, rays: np.ndarray, surfaces: np.ndarray, weights: np.ndarray, expected: float
) -> tuple[np.ndarray, float]:
    """Return the shape `placed` [V, 3], moved along the rays to the lean at which the surfaces of most joints agree.

    That is the lean to or from the camera, one of `LEANS`; `expected` is the object's expected distance. The second
    value is the distance by these surfaces.
    """
    relative = placed[:, 2] - expected
    distance, best = _estimate_distance(surfaces, relative, weights, expected)
    if best >= ENOUGH:
        return placed, distance
    added = np.zeros(len(placed), np.float32)
    offsets = placed[:, :2] - np.average(placed[:, :2], axis=0, weights=weights + 1e-6)
    along = offsets @ np.linalg.eigh((offsets * weights[:, None]).T @ offsets)[1][:, 1]  # the longest axis
    best *= LEAN_GAIN
    for lean in LEANS:
        other, share = _estimate_distance(surfaces, relative + lean * along, weights, expected)
        if share > best:
            distance, best, added = other, share, lean * along
    return np.where(np.isfinite(rays), placed * (1 + added / placed[:, 2])[:, None], placed), distance


def _estimate_distance(
    surfaces: np.ndarray, relative: np.ndarray, weights: np.ndarray, expected: float
) -> tuple[float, float]:
    """Return an object's distance and the share of joints that agree, by weight.

    The distance is the mode of the joints' surfaces [V, K] minus their relative depth [V].

    Not the median, because around thin limbs more samples may show the wall than the person. Only votes within 40 % of
    the expected distance count, if there are any, else the ones that make the size plausible: an object that is too
    near for the depth camera is not at the wall. NaN and 1 without any vote.
    """
    votes = surfaces - relative[:, None]
    usable = np.isfinite(votes)
    if np.isfinite(expected):
        low, high = PLAUSIBLE_SIZES[0] * expected, PLAUSIBLE_SIZES[1] * expected
        with np.errstate(invalid="ignore"):
            close = np.abs(votes - expected) < 0.4 * expected
            usable = close if close.any() else (votes > low) & (votes < high)
    if not usable.any():
        return float("nan"), 1.0
    values, weight = votes[usable], np.broadcast_to(weights[:, None], votes.shape)[usable]
    order = np.argsort(values)
    values, total = values[order], np.concatenate([[0.0], np.cumsum(weight[order] + 1e-3)])
    stop = np.searchsorted(values, values + VOTE_WIDTH_M, side="right")
    # Prefer the nearer of equal modes: a person stands before the wall.
    start = int(np.argmax((total[stop] - total[:-1]) * (1 - 0.02 * values / values[-1])))
    with np.errstate(invalid="ignore"):
        agree = ((votes >= values[start]) & (votes <= values[start] + VOTE_WIDTH_M)).any(axis=1)
    counted = np.isfinite(votes).any(axis=1)
    return float(values[(start + stop[start]) // 2]), float(weights[agree].sum() / (weights[counted].sum() + 1e-6))


def _pick_surface(surfaces: np.ndarray, expected: np.ndarray, nearer: np.ndarray, farther: np.ndarray) -> np.ndarray:
    """Return the nearest surface [V] of each joint between `nearer` before and `farther` behind `expected`, or NaN.

    A visible joint lies before everything else at its pixel: at the edge of an arm the arm is chosen, not the torso or
    the wall behind it.
    """
    offset = surfaces - expected[:, None]
    with np.errstate(invalid="ignore"):
        fits = (offset > -nearer[:, None]) & (offset < farther[:, None])
    rows, choice = np.arange(len(surfaces)), fits.argmax(axis=1)
    return np.where(fits[rows, choice], surfaces[rows, choice], np.nan)


@dataclass(frozen=True)
class LiftingConfig:
    """Settings of the lifting from pixels to meters."""

    window_m: float = setting(
        0.08, "Edge of the square around a joint in which depth is read", unit="m", range=(0.002, 0.5)
    )
    surface_gap_m: float = setting(0.05, "Minimum gap in depth between two surfaces", unit="m", range=(0.005, 1.0))
    min_share: float = setting(0.2, "Minimum share of the window's valid depth for a surface", range=(0.0, 1.0))
    max_disagreement_m: float = setting(
        0.35, "Maximum distance of a surface behind the joint's expected depth", unit="m", range=(0.01, 2.0)
    )
    hidden_m: float = setting(
        0.4, "Maximum distance of a surface before the joint's depth, else it occludes it", unit="m", range=(0.01, 2.0)
    )
    min_joint_score: float = setting(
        0.5, "Joints below this score get a third of the depth tolerances", range=(0.0, 1.0)
    )
    filled_score: float = setting(0.6, "Factor on the score of a joint without depth", range=(0.0, 1.0))
    no_depth_score: float = setting(0.5, "Factor on all scores without any depth", range=(0.0, 1.0))


DEFAULTS = LiftingConfig()


def is_plausible(size: float) -> bool:
    """Return whether a size by depth, relative to the estimator's own shape, can be a real person's; NaN can."""
    return not size <= PLAUSIBLE_SIZES[0] and not size >= PLAUSIBLE_SIZES[1]


class Lifted(NamedTuple):
    """Joints in meters."""

    positions: np.ndarray  # [V, 3] float32 m in the optical frame, NaN if unknown
    scores: np.ndarray  # [V] float32
    size: float  # size by depth relative to the estimator's own shape, about 0.8 to 1.2; NaN if unknown


def lift(
    pixels: np.ndarray,
    world: np.ndarray | None,
    scores: np.ndarray,
    depth: np.ndarray | None,
    intrinsics: Intrinsics,
    radii: np.ndarray | float = 0.0,
    links: np.ndarray | None = None,
    config: LiftingConfig = DEFAULTS,
    alone: Callable[[], np.ndarray] | None = None,
) -> Lifted:
    """Lift joints from pixels to meters, and measure their size.

    Depth that makes a person larger or smaller than `PLAUSIBLE_SIZES` is not used.

    Args:
        pixels: [V, 2] (u, v), NaN if the joint is unknown.
        world: [V, 3] meters about the object's own center, camera axes; None or NaN if the estimator has none.
        scores: [V] in 0..1.
        depth: [H, W] meters registered to the image, NaN or 0 if missing; None without depth.
        intrinsics: Intrinsics of the image.
        radii: [V] or one number: meters from the visible surface to the joint's center (`joint_radii`).
        links: [L, 2] joints of limbs that may occlude other joints (`limb_links`).
        config: Settings.
        alone: Returns the shape [V, 3] to use instead of `world` without any plausible depth (`with_less_lean`).

    Returns:
        Positions, NaN if unknown, and scores: unchanged for joints with depth, times `filled_score` for joints from the
        world landmarks, times `no_depth_score` without any plausible depth, 0 for NaN positions.

    Raises:
        InputError: Shapes do not fit each other, or depth is not of floats, or not in meters and there is no shape.
    """
    pixels, scores, world = _checked(pixels, scores, world, depth, intrinsics)
    rays = _rays(pixels, intrinsics)
    placed = fit_translation(world, rays, scores)
    surface, fitted, size = np.full(len(pixels), np.nan), placed, float("nan")
    if depth is not None:
        inward = np.zeros(len(pixels)) + radii
        surface, fitted, size = _find_surfaces(
            config, pixels, rays, placed, scores, depth, intrinsics.fx, inward, links
        )
    seen = np.isfinite(surface)
    if seen.any() and not np.isfinite(world).any() and (away := float(np.median(surface[seen]))) > MAX_DEPTH_M:
        raise InputError(f"depth is {away:.0f} m at the joints; expected meters, but it may be in millimeters")
    if not seen.any():
        placed = placed if alone is None else fit_translation(alone(), rays, scores)
        on_rays = _filled(placed, placed, seen, rays)
        return Lifted(*_result(on_rays, scores * config.no_depth_score), size)
    lifted = _on_rays(rays, surface + radii)
    positions = np.where(seen[:, None], lifted, _filled(fitted, lifted, seen, rays))
    return Lifted(*_result(positions, np.where(seen, scores, scores * config.filled_score)), size)


def _measure_size(samples: np.ndarray, expected: np.ndarray, scores: np.ndarray, min_score: float) -> float:
    """Return the median of the depth at visible joints relative to the expected depth [V]; NaN for few readings.

    The windows' sorted samples are [V, GRID²]; a window must be half full.
    """
    count = np.isfinite(samples).sum(axis=1)
    usable = (scores >= min_score) & (2 * count >= samples.shape[1]) & (expected > 0)
    if usable.sum() < MIN_READINGS:
        return float("nan")
    near = samples[usable, (count[usable] - 1) // 4]  # a person is before the background
    return float(np.median(near / expected[usable]))


def _find_surfaces(
    config: LiftingConfig,
    pixels: np.ndarray,
    rays: np.ndarray,
    placed: np.ndarray,
    scores: np.ndarray,
    depth: np.ndarray,
    focal: float,
    radii: np.ndarray,
    links: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return [V] depth of each joint's surface, NaN if none fits, the world landmarks fitted to them, and the size."""
    has_shape = np.isfinite(placed).all()
    middle = float(np.median(placed[:, 2])) if has_shape else float("nan")
    distance: Any = placed[:, 2]
    if not has_shape:
        values = _sample_depth(depth, pixels, np.zeros(len(pixels)))
        distance = float(np.nanmedian(values)) if np.isfinite(values).any() else 1.0
    half = 0.5 * config.window_m * focal / distance
    # At least 5×5 pixels: joints are not located better, and single pixels are noisy.
    half = np.broadcast_to(np.clip(half, 2.0, 0.1 * depth.shape[1]), len(pixels))
    samples = _sample_depth(depth, pixels, half)
    size = _measure_size(samples, placed[:, 2] - radii, scores, config.min_joint_score)
    if not is_plausible(size):
        return np.full(len(pixels), np.nan), placed, size
    layers = _split_surfaces(samples, config.surface_gap_m, config.min_share)
    trust = np.where(scores >= config.min_joint_score, 1.0, 1 / 3)
    wide, narrow = trust * config.max_disagreement_m, trust * config.hidden_m
    weights = scores
    if has_shape and links is not None:  # a body
        weights = scores * _thinned(placed)
        placed, distance = _leaned(placed, rays, layers, weights, middle)
        relative = placed[:, 2] - middle
    else:
        relative = placed[:, 2] - middle if has_shape else np.zeros(len(pixels))
        distance, _ = _estimate_distance(layers, relative, weights, middle)
    expected = distance + relative
    surface = _pick_surface(layers, expected, narrow, wide)
    if not has_shape or not np.isfinite(surface).any():
        return surface, placed, size
    # Occluders must not bend the fit; the fit then detects occlusions better.
    surface = _without_occluded(surface, rays, _on_rays(rays, expected + radii), radii, links)
    fitted = fit_similarity(placed, _on_rays(rays, surface + radii), weights, config.max_disagreement_m)
    surface = _pick_surface(layers, fitted[:, 2] - radii, narrow, wide)
    return _without_occluded(surface, rays, fitted, radii, links), fitted, size


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
    """Return [V, 3] directions with z = 1 through the pixels, without lens distortion."""
    rays = np.ones((len(pixels), 3), dtype=np.float32)
    rays[:, 0] = (pixels[:, 0] - intrinsics.cx) / intrinsics.fx
    rays[:, 1] = (pixels[:, 1] - intrinsics.cy) / intrinsics.fy
    known = np.isfinite(pixels).all(axis=1)
    if intrinsics.is_distorted and known.any():
        rays[known, :2] = camera_model.rays(pixels[known], intrinsics)
    return rays


def _on_rays(rays: np.ndarray, z: np.ndarray) -> np.ndarray:
    return (rays * z[:, None]).astype(np.float32)


def _filled(fitted: np.ndarray, lifted: np.ndarray, seen: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Place joints on their rays at the fitted landmarks' depth plus the mean deviation of lifted neighbors."""
    deviation = np.where(seen, lifted[:, 2] - fitted[:, 2], 0.0)
    distances = np.linalg.norm(fitted[:, None] - fitted[None], axis=2)
    near = np.exp(-((distances / NEIGHBOR_M) ** 2)) * seen
    z = fitted[:, 2] + (near @ deviation) / (near.sum(axis=1) + 0.2)
    return np.where(np.isfinite(rays).all(axis=1)[:, None], rays * z[:, None], fitted)


def _result(positions: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with np.errstate(invalid="ignore"):
        known = np.isfinite(positions).all(axis=1) & (positions[:, 2] > 0)
    return (
        np.where(known[:, None], positions, np.nan).astype(np.float32),
        np.where(known, scores, 0.0).astype(np.float32),
    )
