"""Made-up actions outside every class, so that a network learns not to be sure of what it does not know.

Outlier exposure (Hendrycks et al., ICLR 2019) without a second dataset: a real person's pose stands still, gestures
(its hands go from place to place within reach), or throws its arms and now and then its legs about. No recorded action
outside the classes is used, so that those can still judge the rejection.
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
    shown = clip.bodies[0, ~np.isnan(clip.bodies[0]).all(axis=(1, 2))]  # another one may have come first
    # Most clips begin with somebody who stands.
    pose = shown[0 if rng.random() < 0.6 else rng.integers(len(shown))]
    if np.isnan(pose).any():
        middle = pose[_J["spine_mid"]]
        pose = np.where(np.isnan(pose), np.nanmean(pose, axis=0) if np.isnan(middle).any() else middle, pose)
    times = np.arange(frames) * seconds / frames
    body = np.repeat(pose[None].astype(np.float64), frames, axis=0)
    kind = rng.random()
    if kind < 0.65:
        _gesture(body, times, rng)
    elif kind < 0.85:
        _thrash(body, times, rng)
    return (body + smooth_noise(times, rng, 0.02, 0.5)[:, None])[None].astype(np.float32)


def _gesture(body: np.ndarray, times: np.ndarray, rng: np.random.Generator) -> None:
    """Leads one hand or both from place to place before the body, both often in each other's mirror image."""
    left = body[0, _J["shoulder_left"]] - body[0, _J["shoulder_right"]]
    left /= max(np.linalg.norm(left), 1e-6)
    up = body[0, _J["spine_shoulder"]] - body[0, _J["spine_base"]]
    up = up - (up @ left) * left
    up /= max(np.linalg.norm(up), 1e-6)
    axes = np.stack([left, up, np.cross(left, up)])  # left, up, forward
    sides = [("left", "right"), ("left",), ("right",)][rng.choice(3, p=[0.5, 0.25, 0.25])]
    start, stop = np.sort(rng.uniform(times[0] - 1.0, times[-1] + 1.0, 2))
    marks = np.linspace(start, max(stop, start + 0.5), rng.integers(3, 9))
    places = rng.uniform([-0.35, -0.5, 0.05], [0.6, 0.7, 0.7], (len(marks), 3))
    if rng.random() < 0.5:  # to and fro between two places, as waving, clapping or boxing does
        places = places[np.arange(len(marks)) % 2] + rng.normal(0, 0.03, places.shape)
    mirrored = rng.random() < 0.6
    for side in sides:
        own = places if mirrored or side == sides[0] else places[::-1]
        outward = 1.0 if side == "left" else -1.0
        _lead(body, side, times, marks, (own * [outward, 1, 1]) @ axes, axes)


def _lead(
    body: np.ndarray, side: str, times: np.ndarray, marks: np.ndarray, places: np.ndarray, axes: np.ndarray
) -> None:
    """Moves an arm: its wrist passes `places` [K, 3] (from the shoulder) at `marks` and rests before and after."""
    shoulder, elbow, wrist = (_J[f"{joint}_{side}"] for joint in ("shoulder", "elbow", "wrist"))
    rest = body[0, wrist] - body[0, shoulder]
    marks = np.concatenate([[marks[0] - 0.5], marks, [marks[-1] + 0.5]])
    places = np.concatenate([[rest], places, [rest]])
    path = np.stack([eased(times, marks, places[:, i]) for i in range(3)], axis=1)
    upper = max(float(np.linalg.norm(body[0, elbow] - body[0, shoulder])), 0.05)
    fore = max(float(np.linalg.norm(body[0, wrist] - body[0, elbow])), 0.05)
    reach = np.clip(np.linalg.norm(path, axis=1), abs(upper - fore) + 0.02, upper + fore - 0.005)[:, None]
    along = path / np.maximum(np.linalg.norm(path, axis=1, keepdims=True), 1e-6)
    # The elbow lies on a circle about the line from shoulder to wrist, and hangs down and outwards on it.
    hint = -axes[1] + (0.5 if side == "left" else -0.5) * axes[0]
    aside = hint - (along @ hint)[:, None] * along
    aside /= np.maximum(np.linalg.norm(aside, axis=1, keepdims=True), 1e-6)
    foot = (upper**2 - fore**2 + reach**2) / (2 * reach)
    bent = along * foot + aside * np.sqrt(np.maximum(upper**2 - foot**2, 0))
    origin = body[:, shoulder]
    ends = [body[0, _J[f"{j}_{side}"]] - body[0, wrist] for j in ("hand", "hand_tip", "thumb")]
    body[:, elbow], body[:, wrist] = origin + bent, origin + along * reach
    forearm = (along * reach - bent) / fore
    for joint, end in zip(("hand", "hand_tip", "thumb"), ends, strict=True):
        body[:, _J[f"{joint}_{side}"]] = body[:, wrist] + forearm * np.linalg.norm(end)


def eased(times: np.ndarray, marks: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values at `times`, easing in and out between marks."""
    k = np.clip(np.searchsorted(marks, times) - 1, 0, len(marks) - 2)
    share = np.clip((times - marks[k]) / np.maximum(marks[k + 1] - marks[k], 1e-6), 0, 1)
    share = share * share * (3 - 2 * share)
    return values[k] * (1 - share) + values[k + 1] * share


def _thrash(body: np.ndarray, times: np.ndarray, rng: np.random.Generator) -> None:
    for limb in ARMS:
        if rng.random() < 0.7:
            _swing(body, limb, times, rng, largest=2.0)
    if rng.random() < 0.5:
        for limb in LEGS:
            _swing(body, limb, times, rng, largest=0.8)


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
        rotation = rotations(amplitude * turns)
        body[:, list(chain)] = (body[:, list(chain)] - pivot) @ rotation.transpose(0, 2, 1) + pivot


def smooth_noise(times: np.ndarray, rng: np.random.Generator, size: float, rate: float) -> np.ndarray:
    """[T, 3] random motion of about `size` about zero: three sinusoids an axis, of frequencies up to 2·`rate` Hz."""
    frequency = rng.uniform(0.1, 2 * rate, (3, 3, 1))
    phase = rng.uniform(0, 2 * np.pi, (3, 3, 1))
    weight = rng.normal(0, size / np.sqrt(3), (3, 3, 1))
    return (weight * np.sin(2 * np.pi * frequency * times + phase)).sum(axis=1).T


def rotations(vectors: np.ndarray) -> np.ndarray:
    """[T, 3, 3] rotations of rotation vectors [T, 3] in radians (Rodrigues)."""
    angle = np.linalg.norm(vectors, axis=1)
    x, y, z = (vectors / np.maximum(angle, 1e-9)[:, None]).T
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=1).reshape(-1, 3, 3)
    s, c = np.sin(angle)[:, None, None], np.cos(angle)[:, None, None]
    return np.eye(3) + s * cross + (1 - c) * (cross @ cross)
