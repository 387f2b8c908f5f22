"""Augmentation of hand clips (`hand_22`): what differs between people, cameras and hand trackers."""

import numpy as np

from actrec.geometry import rotation
from actrec.skeleton.layouts import HAND_22
from actrec_models.data.augment import Augmentation, pivot, seat_lost

_X, _Y, _Z = 0, 1, 2
_PALM = HAND_22.index["palm"]


def vary_hands(hands: np.ndarray, options: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """Varies [M, T, 22, 3] metres: camera, size, proportions, noise. Never mirrored: swipes and turns have a side."""
    if options.reach or options.held_deg:
        hands = _vary_way(hands, options, rng)
    middle = pivot(hands)
    turn = rotation(_X, np.radians(rng.uniform(-1, 1) * options.tilt_deg))
    turn = turn @ rotation(_Z, np.radians(rng.uniform(-1, 1) * options.tilt_deg))
    turn = turn @ rotation(_Y, np.radians(rng.uniform(-1, 1) * options.turn_deg))
    stretch = 1 + rng.uniform(-options.size, options.size, 3).astype(np.float32)
    varied = ((hands - middle) * stretch) @ turn.T.astype(np.float32)
    varied = _vary_proportions(varied, options.proportions, rng)
    varied += rng.normal(0, 1, varied.shape).astype(np.float32) * np.float32(rng.uniform(0, options.noise_m))
    varied += rng.normal(0, options.bias_m, (1, 1, len(HAND_22), 3)).astype(np.float32)
    if rng.random() < options.missing:
        _lose(varied, rng)
    return varied.astype(np.float32)


def _vary_way(hands: np.ndarray, options: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """Another's way of making the gesture: the palm goes less far or further, the hand is held otherwise about it."""
    reach = np.float32(1 + rng.uniform(-1, 1) * options.reach)
    held = np.eye(3)
    for axis in (_X, _Y, _Z):
        held = held @ rotation(axis, np.radians(rng.uniform(-1, 1) * options.held_deg))
    palm = hands[:, :, _PALM : _PALM + 1]
    seen = ~np.isnan(palm).any(axis=-1, keepdims=True)
    middle = np.where(seen, palm, 0).sum(axis=1, keepdims=True) / np.maximum(seen.sum(axis=1, keepdims=True), 1)
    varied: np.ndarray = (hands - palm) @ held.T + middle + reach * (palm - middle)
    return varied.astype(np.float32)


def _vary_proportions(hands: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    """Scales each bone by its own constant factor and rebuilds the joints from the wrist."""
    parents = list(HAND_22.parents)
    factor = np.ones(len(parents), dtype=np.float32)
    factor[1:] = 1 + rng.uniform(-amount, amount, len(parents) - 1)
    varied = np.ascontiguousarray(np.moveaxis(hands, -2, 0))  # (V, M, T, 3): each joint one row
    outwards = range(1, len(parents))  # parents come first in this layout
    lost = seat_lost(varied, parents, outwards)
    bones = factor[:, None, None, None] * (varied - varied[parents])
    for v in outwards:
        np.add(varied[parents[v]], bones[v], out=varied[v])
    varied[lost] = np.nan
    return np.ascontiguousarray(np.moveaxis(varied, 0, -2))


def _lose(hands: np.ndarray, rng: np.random.Generator) -> None:
    """Loses the whole hand for a short while, as trackers do when it moves fast."""
    frames = hands.shape[1]
    start = int(rng.integers(frames))
    hands[:, start : start + int(rng.integers(1, max(frames // 10, 2)))] = np.nan
