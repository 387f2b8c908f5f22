"""Made-up actions outside every class, so that a network learns not to be sure of what it does not know.

Outlier exposure (Hendrycks et al., ICLR 2019) without a second dataset: a real person's pose stands still, or waves its
arms and now and then its legs about at random. No recorded action outside the classes is used, so that those can still
judge the rejection.
"""

import numpy as np

from actrec.skeleton.layouts import KINECT_V2_25
from actrec_models.data.clips import Clip

_J = KINECT_V2_25.index


def _chain(side: str, *joints: str) -> tuple[int, ...]:
    return tuple(_J[f"{joint}_{side}"] for joint in joints)


_HAND = ("wrist", "hand", "hand_tip", "thumb")
ARMS = tuple((_chain(s, "shoulder", "elbow", *_HAND), _chain(s, "elbow", *_HAND)) for s in ("left", "right"))
LEGS = tuple((_chain(s, "hip", "knee", "ankle", "foot"), _chain(s, "knee", "ankle", "foot")) for s in ("left", "right"))
"""Each limb as two chains that turn about their first joint: the whole limb, and its outer part."""


def other_action(clip: Clip, seconds: float, frames: int, rng: np.random.Generator) -> np.ndarray:
    """A window [1, frames, 25, 3] in metres of a person of `clip` doing something that is none of the classes."""
    pose = clip.bodies[0, rng.integers(clip.bodies.shape[1])]
    if np.isnan(pose).any():
        pose = np.where(np.isnan(pose), pose[_J["spine_mid"]], pose)
    times = np.arange(frames) * seconds / frames
    body = np.repeat(pose[None], frames, axis=0) + smooth_noise(times, rng, 0.02, 0.5)[:, None]
    if rng.random() < 0.2:
        return body[None].astype(np.float32)  # idle
    for limb in ARMS:
        if rng.random() < 0.7:
            _swing(body, limb, times, rng, largest=2.0)
    if rng.random() < 0.3:
        for limb in LEGS:
            _swing(body, limb, times, rng, largest=0.8)
    return body[None].astype(np.float32)


def _swing(
    body: np.ndarray, limb: tuple[tuple[int, ...], ...], times: np.ndarray, rng: np.random.Generator, largest: float
) -> None:
    """Turns a limb, then its outer part, by smooth random rotations that begin and may end at rest."""
    start, stop = np.sort(rng.uniform(times[0], times[-1], 2))
    envelope = np.clip((times - start) / 0.4, 0, 1) * np.clip((stop + 0.4 - times) / 0.4, 0, 1)
    for chain in limb:
        amplitude = rng.uniform(0.2, largest)
        turns = envelope[:, None] * (rng.normal(0, 0.6, 3) + smooth_noise(times, rng, 1.0, rng.uniform(0.3, 2.0)))
        pivot = body[:, chain[0]][:, None]
        rotation = _rotations(amplitude * turns)
        body[:, list(chain)] = (body[:, list(chain)] - pivot) @ rotation.transpose(0, 2, 1) + pivot


def smooth_noise(times: np.ndarray, rng: np.random.Generator, size: float, rate: float) -> np.ndarray:
    """[T, 3] random motion of about `size` about zero: three sinusoids an axis, of frequencies up to 2·`rate` Hz."""
    frequency = rng.uniform(0.1, 2 * rate, (3, 3, 1))
    phase = rng.uniform(0, 2 * np.pi, (3, 3, 1))
    weight = rng.normal(0, size / np.sqrt(3), (3, 3, 1))
    return (weight * np.sin(2 * np.pi * frequency * times + phase)).sum(axis=1).T


def _rotations(vectors: np.ndarray) -> np.ndarray:
    """[T, 3, 3] rotations of rotation vectors [T, 3] in radians (Rodrigues)."""
    angle = np.linalg.norm(vectors, axis=1)
    x, y, z = (vectors / np.maximum(angle, 1e-9)[:, None]).T
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=1).reshape(-1, 3, 3)
    s, c = np.sin(angle)[:, None, None], np.cos(angle)[:, None, None]
    return np.eye(3) + s * cross + (1 - c) * (cross @ cross)
