"""Which of the bodies that a Kinect tracked are people, and which of those the clip is about.

The steps of Shahroudy et al. (CVPR 2016) and Zhang et al. (ICCV 2017), as DeepActsNet takes them over: a body seen too
shortly, or wider than a standing person for most of its frames, is a table or a chair; of the rest those that move most
are kept. A sensor that loses somebody gives them another identity afterwards: tracks that are never seen together are
joined.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np

from actrec.config import setting
from actrec.recordings.sequence import SkeletonSequence


@dataclass(frozen=True)
class BodyCleaning:
    """How bodies are chosen. A recording's only body is kept whatever it looks like."""

    min_frames: int = setting(
        11, "bodies seen in fewer frames are dropped; 0 keeps all", unit="frames", range=(0, 100_000)
    )
    spread: float = setting(
        0.8,
        "a frame in which a body's joints spread further in x than this many times their spread in y shows no person; "
        "0 does not look",
        range=(0.0, 100.0),
    )
    spread_share: float = setting(
        0.69754,
        "bodies of which at least this share of the frames shows no person are dropped",
        range=(0.0, 1.0),
    )
    max_bodies: int = setting(2, "bodies kept, those that move most first; 0 keeps all", range=(0, 6))
    join: bool = setting(True, "take tracks that are never seen in the same frame for one person's")


def clean(sequence: SkeletonSequence, options: BodyCleaning) -> SkeletonSequence:
    """The sequence with the bodies that `options` keep, that which moves most first.

    Bodies of which no joint is ever known are always left out. Where every body would be dropped for what it looks
    like, that which looks least so is kept.
    """
    seen = np.isfinite(sequence.bodies).all(-1).any(-1)  # (M, T)
    left = np.flatnonzero(seen.any(1))
    if len(left) > 1:
        left = _most_moving(sequence.bodies, left, seen, options)
    return _slots(sequence, left, seen, options)


def _most_moving(bodies: np.ndarray, left: np.ndarray, seen: np.ndarray, options: BodyCleaning) -> np.ndarray:
    left = _long_enough(left, seen, options)
    noise = _noise(bodies, options)
    if len(left) > 1:
        left = _upright(left, seen, noise, options)
    motion = [_motion(bodies[m], seen[m] & ~noise[m]) for m in left]
    return left[np.argsort(motion, kind="stable")[::-1]]


def _long_enough(left: np.ndarray, seen: np.ndarray, options: BodyCleaning) -> np.ndarray:
    frames = seen[left].sum(1)
    return left[frames >= min(options.min_frames, frames.max())]


def _noise(bodies: np.ndarray, options: BodyCleaning) -> np.ndarray:
    """[M, T] where a body is wider than a person."""
    known = np.isfinite(bodies).all(-1)[..., None]
    spread = np.where(known, bodies, -np.inf).max(2) - np.where(known, bodies, np.inf).min(2)  # (M, T, 3)
    spread = np.where(np.isfinite(spread), spread, 0)  # of a body that is not there
    return (spread[..., 0] > options.spread * spread[..., 1]) & (options.spread > 0)


def _upright(left: np.ndarray, seen: np.ndarray, noise: np.ndarray, options: BodyCleaning) -> np.ndarray:
    share = (noise & seen)[left].sum(1) / seen[left].sum(1)
    kept = left[(share < options.spread_share) | (share == 0)]
    return kept if len(kept) else left[[share.argmin()]]


def _motion(body: np.ndarray, frames: np.ndarray) -> float:
    """Variance of all joints of a body [T, V, 3] in x, y and z, summed, over the frames that show a person."""
    every = body[np.isfinite(body).all(-1)]
    calm = body[frames]
    calm = calm[np.isfinite(calm).all(-1)]
    return float(min(part.var(0).sum() for part in (every, calm) if len(part)))


def _slots(sequence: SkeletonSequence, order: np.ndarray, seen: np.ndarray, options: BodyCleaning) -> SkeletonSequence:
    slots: list[list[int]] = []
    for m in order:
        free = [slot for slot in slots if options.join and not (seen[slot] & seen[m]).any()]
        if free:
            free[0].append(int(m))
        elif not options.max_bodies or len(slots) < options.max_bodies:
            slots.append([int(m)])
    arrays = {name: getattr(sequence, name)[[slot[0] for slot in slots]] for name in ("bodies", "scores", "pixels")}
    for k, slot in enumerate(slots):
        for m in slot[1:]:
            for name, array in arrays.items():
                array[k, seen[m]] = getattr(sequence, name)[m, seen[m]]
    ids = tuple(sequence.body_ids[slot[0]] for slot in slots)
    return dataclasses.replace(sequence, body_ids=ids, **arrays)
