"""Unknown clips: motion outside the classes of a recipe, synthetic or from another dataset.

Synthetic clips make a network unsure about unknown actions: outlier exposure (Hendrycks et al., ICLR 2019) without a
second dataset. A real body stands still, gestures, or swings its arms and legs. A real hand is still, moves slowly,
wanders between points, or moves single fingers. Hand clips from bodies attach a rigid hand to a recorded arm.

Clips of another dataset determine the rejection threshold. They train only as the background class of a recipe.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from actrec import datasets
from actrec.datasets.base import IDENTITY, Clip, ClipDataset
from actrec.recordings.labels import normalize_name
from actrec.skeleton.layouts import HAND_22, KINECT_V2_25
from actrec.utils.errors import ActrecError, ConfigError
from actrec_models.data import rendered_skeletons
from actrec_models.data.continuous import smooth_noise
from actrec_models.data.data_recipe import DataRecipe

_MOST = 2000
"""Largest number of clips: the images of all 114,000 of NTU RGB+D 120 would take days."""


@dataclass(frozen=True)
class UnknownClips:
    """Clips of no class, as pairs of a dataset and an index into it, not read yet; and the excluded actions."""

    clips: Sequence[tuple[ClipDataset, int]]
    excluded: Sequence[str]

    def read(self) -> ClipDataset:
        """Read the clips; the user's recordings labeled `unknown` have label −1."""
        first = self.clips[0][0] if self.clips else ClipDataset([], ())
        read = ClipDataset([clips[index] for clips, index in self.clips], first.classes, first.layout)
        read.scene_flow = dict(first.scene_flow)
        rows = zip(read.entries, self._recordings(), strict=True)
        read.entries = [replace(entry, meta={IDENTITY: recording} if recording else {}) for entry, recording in rows]
        return read

    def identities(self) -> tuple[str, ...]:
        """Return the distinct identities of the user's recordings; empty for published datasets."""
        return tuple(dict.fromkeys(filter(None, self._recordings())))

    def _recordings(self) -> list[str]:
        parts = {id(clips): clips for clips, _ in self.clips}
        names = {place: clips.recordings for place, clips in parts.items()}
        return [names[id(clips)][index] for clips, index in self.clips]


def missing_dataset(recipe: DataRecipe, data_root: str) -> str:
    """Return a message if the files of `unknown_dataset` are missing; empty otherwise."""
    name = recipe.unknown_dataset
    if not name or not datasets.DATASETS.get(name).has_files or Path(datasets.folder(data_root, name)).is_dir():
        return ""
    return f"the unknown_dataset {name} is not in {data_root}"


def excluded_actions(recipe: DataRecipe, others: Iterable[str], classes: Iterable[str]) -> list[str]:
    """Return the actions of the unknown dataset that the recipe excludes or that have the name of a class."""
    known = {normalize_name(name) for name in classes}
    return [name for name in others if name in recipe.unknown_exclude or normalize_name(name) in known]


def load(recipe: DataRecipe, classes: Sequence[str], data_root: str, part: str) -> UnknownClips:
    """Return the unknown clips of a part: clips of other actions, and the user's recordings labeled `unknown`.

    Part "train" must have some; of each part at most `_MOST` are taken.

    Raises:
        ConfigError: The recipe excludes an action that the unknown dataset does not have, or all of its clips.
        DeviceError, InputError: The dataset cannot be read.
    """
    name = recipe.unknown_dataset
    clips, own = (_part(make, recipe, data_root, part) for make in (datasets.create, datasets.create_unknown))
    if absent := sorted(set(recipe.unknown_exclude) - set(clips.classes)):
        raise ConfigError(f"unknown_exclude names {', '.join(absent)}, which {name} does not have")
    without = excluded_actions(recipe, clips.classes, classes)
    kept = [(clips, place) for place, label in enumerate(clips.labels) if clips.classes[label] not in without]
    kept += [(own, place) for place in range(len(own))]
    if not kept and part == "train":
        raise ConfigError(
            f"no clip of the unknown_dataset {name} shows an action outside the classes: choose another one, or none"
        )
    if len(kept) > _MOST:
        kept = [kept[i] for i in sorted(np.random.default_rng(0).choice(len(kept), _MOST, replace=False).tolist())]
    return UnknownClips(kept, without)


def background(
    recipe: DataRecipe, clips: ClipDataset, data_root: str, root: str = ""
) -> tuple[ClipDataset, ClipDataset]:
    """Return the clips that train as the background class, and the ones of held-out groups (`Validation.by`).

    They are the recordings of the training part that are labeled unknown, else the clips of the unknown dataset.

    Args:
        clips: The training part of the classes.

    Raises:
        ConfigError: There are none, or they do not fit the classes' clips.
    """
    own: ClipDataset = recipe.unknown_clips(data_root, "train", root)
    if recipe.rendered and len(own):
        own = rendered_skeletons.add(own, recipe.rendered)
    if not len(own):
        missing = missing_dataset(recipe, data_root)
        if missing or not recipe.unknown_dataset:
            cause = missing or "there is no unknown_dataset"
            raise ConfigError(
                f"the recipe has a background, but {recipe.dataset} has no clips labeled unknown and {cause}: name a "
                "dataset that is there, or set background to 0"
            )
        own = load(recipe, clips.classes, data_root, "train").read()
    if own.layout != clips.layout:
        raise ConfigError(
            f"clips of the background hold {own.layout}, clips of the classes {clips.layout}: name another "
            "unknown_dataset, or set background to 0"
        )
    validation = recipe.held_out()
    held = validation.split(clips, recipe.seed)[1] if validation.by else None
    groups = set(map(validation.group, held.metas)) if held is not None else set()
    is_held = np.array([validation.group(meta) in groups for meta in own.metas])
    if is_held.all():
        raise ConfigError("all clips of the background are of held-out groups: hold out others, or set background to 0")
    return own.subset(np.flatnonzero(~is_held)), own.subset(np.flatnonzero(is_held))


def _part(make: Callable[..., ClipDataset], recipe: DataRecipe, data_root: str, part: str) -> ClipDataset:
    name = recipe.unknown_dataset
    try:
        return make(name, datasets.folder(data_root, name), part=part, **recipe.unknown_options)
    except ActrecError as error:
        raise type(error)(f"unknown_dataset {name}: {error}; or choose another one, or none") from error


# -- synthetic clips --------------------------------------------------------------------------------------------

_J = KINECT_V2_25.index


def _chain(side: str, *joints: str) -> tuple[int, ...]:
    return tuple(_J[f"{joint}_{side}"] for joint in joints)


_HAND = ("wrist", "hand", "hand_tip", "thumb")
ARMS = tuple((_chain(s, "shoulder", "elbow", *_HAND), _chain(s, "elbow", *_HAND)) for s in ("left", "right"))
LEGS = tuple((_chain(s, "hip", "knee", "ankle", "foot"), _chain(s, "knee", "ankle", "foot")) for s in ("left", "right"))
"""Each limb as two chains that rotate about their first joint: the whole limb, and its outer part."""


def synthetic_body_action(clip: Clip, seconds: float, frames: int, rng: np.random.Generator) -> np.ndarray:
    """Return a window [1, frames, 25, 3] in m of a person of `clip` with synthetic motion outside the classes."""
    shown = clip.bodies[0, ~np.isnan(clip.bodies[0]).all(axis=(1, 2))]
    # Most clips begin with a standing person.
    pose = shown[0 if rng.random() < 0.6 else rng.integers(len(shown))]
    missing = np.isnan(pose).any(axis=-1)
    if missing.any():  # places to compute with
        middle = pose[_J["spine_mid"]]
        pose = np.where(np.isnan(pose), np.nanmean(pose, axis=0) if np.isnan(middle).any() else middle, pose)
    times = np.arange(frames) * seconds / frames
    body = np.repeat(pose[None].astype(np.float64), frames, axis=0)
    kind = rng.random()
    if kind < 0.65:
        _gesture(body, times, rng)
    elif kind < 0.85:
        _thrash(body, times, rng)
    body += smooth_noise(times, rng, 0.02, 0.5)[:, None]
    body[:, missing] = np.nan  # a clip of a class lacks them too
    return body[None].astype(np.float32)


def _gesture(body: np.ndarray, times: np.ndarray, rng: np.random.Generator) -> None:
    """Move one or both hands between points before the body, both often mirrored."""
    left = _unit(body[0, _J["shoulder_left"]] - body[0, _J["shoulder_right"]])
    up = body[0, _J["spine_shoulder"]] - body[0, _J["spine_base"]]
    up = _unit(up - (up @ left) * left)
    axes = np.stack([left, up, np.cross(left, up)])  # left, up, forward
    sides = [("left", "right"), ("left",), ("right",)][rng.choice(3, p=[0.5, 0.25, 0.25])]
    start, stop = np.sort(rng.uniform(times[0] - 1.0, times[-1] + 1.0, 2))
    marks = np.linspace(start, max(stop, start + 0.5), rng.integers(3, 9))
    places = rng.uniform([-0.35, -0.5, 0.05], [0.6, 0.7, 0.7], (len(marks), 3))
    if rng.random() < 0.5:  # to and fro, as in waving, clapping or boxing
        places = places[np.arange(len(marks)) % 2] + rng.normal(0, 0.03, places.shape)
    mirrored = rng.random() < 0.6
    for side in sides:
        own = places if mirrored or side == sides[0] else places[::-1]
        outward = 1.0 if side == "left" else -1.0
        _lead(body, side, times, marks, (own * [outward, 1, 1]) @ axes, axes)


def _lead(
    body: np.ndarray, side: str, times: np.ndarray, marks: np.ndarray, places: np.ndarray, axes: np.ndarray
) -> None:
    """Move an arm: its wrist passes `places` [K, 3] (from the shoulder) at `marks` and rests before and after."""
    shoulder, elbow, wrist = (_J[f"{joint}_{side}"] for joint in ("shoulder", "elbow", "wrist"))
    rest = body[0, wrist] - body[0, shoulder]
    marks = np.concatenate([[marks[0] - 0.5], marks, [marks[-1] + 0.5]])
    places = np.concatenate([[rest], places, [rest]])
    path = eased(times, marks, places)
    upper = max(float(np.linalg.norm(body[0, elbow] - body[0, shoulder])), 0.05)
    fore = max(float(np.linalg.norm(body[0, wrist] - body[0, elbow])), 0.05)
    reach = np.clip(np.linalg.norm(path, axis=1), abs(upper - fore) + 0.02, upper + fore - 0.005)[:, None]
    along = _unit(path)
    # The elbow lies on a circle about the line from shoulder to wrist, and hangs down and outwards on it.
    hint = -axes[1] + (0.5 if side == "left" else -0.5) * axes[0]
    aside = _unit(hint - (along @ hint)[:, None] * along)
    foot = (upper**2 - fore**2 + reach**2) / (2 * reach)
    bent = along * foot + aside * np.sqrt(np.maximum(upper**2 - foot**2, 0))
    origin = body[:, shoulder]
    ends = [body[0, _J[f"{j}_{side}"]] - body[0, wrist] for j in ("hand", "hand_tip", "thumb")]
    body[:, elbow], body[:, wrist] = origin + bent, origin + along * reach
    forearm = (along * reach - bent) / fore
    for joint, end in zip(("hand", "hand_tip", "thumb"), ends, strict=True):
        body[:, _J[f"{joint}_{side}"]] = body[:, wrist] + forearm * np.linalg.norm(end)


def eased(times: np.ndarray, marks: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the values [T] or [T, 3] at `times`, easing in and out between the ones [K] or [K, 3] at marks."""
    k = np.clip(np.searchsorted(marks, times) - 1, 0, len(marks) - 2)
    share = np.clip((times - marks[k]) / np.maximum(marks[k + 1] - marks[k], 1e-6), 0, 1)
    share = (share * share * (3 - 2 * share)).reshape(-1, *[1] * (values.ndim - 1))
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
    """Rotate a limb, then its outer part, by smooth random rotations that begin and may end at rest."""
    start, stop = np.sort(rng.uniform(times[0], times[-1], 2))
    envelope = np.clip((times - start) / 0.4, 0, 1) * np.clip((stop + 0.4 - times) / 0.4, 0, 1)
    for chain in limb:
        amplitude = rng.uniform(0.2, largest)
        turns = envelope[:, None] * (rng.normal(0, 0.6, 3) + smooth_noise(times, rng, 1.0, rng.uniform(0.3, 2.0)))
        pivot = body[:, chain[0]][:, None]
        rotation = rotations(amplitude * turns)
        body[:, list(chain)] = (body[:, list(chain)] - pivot) @ rotation.transpose(0, 2, 1) + pivot


def rotations(vectors: np.ndarray) -> np.ndarray:
    """Return the matrices [T, 3, 3] of rotation vectors [T, 3] in radians."""
    return np.asarray(Rotation.from_rotvec(vectors).as_matrix())


FINGERS = tuple(
    tuple(HAND_22.index[f"{finger}_{part}"] for part in ("base", "first", "second", "tip"))
    for finger in ("thumb", "index", "middle", "ring", "pinky")
)

_WRIST, _INDEX, _PINKY = (HAND_22.index[joint] for joint in ("wrist", "index_base", "pinky_base"))
_SLOWEST, _SLOW = 0.02, 0.12
"""m/s, range of the speed of a slowly moving hand; a swipe is ten times as fast."""


def synthetic_hand_gesture(clip: Clip, seconds: float, frames: int, rng: np.random.Generator) -> np.ndarray:
    """Return a window [1, frames, 22, 3] in m of a hand of `clip` with synthetic motion outside the gestures."""
    pose = _pose(clip, rng)
    times = np.arange(frames) * seconds / frames
    hand = np.repeat(pose[None], frames, axis=0)
    kind = rng.random()
    if kind < 0.2:
        _lead_slowly(hand, times, rng)
    elif kind < 0.55:
        _wander(hand, times, rng)
    elif kind < 0.75:
        _move_fingers(hand, times, rng)
    return (hand + smooth_noise(times, rng, 0.004, 0.5)[:, None])[None].astype(np.float32)


def _pose(clip: Clip, rng: np.random.Generator) -> np.ndarray:
    """Return one frame [22, 3] of a clip: often the first, in which the hand is at rest."""
    pose = clip.bodies[0, 0 if rng.random() < 0.5 else rng.integers(clip.bodies.shape[1])].astype(np.float64)
    if np.isnan(pose).all():
        return np.zeros_like(pose)
    return np.where(np.isnan(pose), np.nanmean(pose, axis=0), pose)


def _lead_slowly(hand: np.ndarray, times: np.ndarray, rng: np.random.Generator) -> None:
    """Move the hand straight and slowly to another point, rotating it."""
    way = _unit(rng.normal(0, 1, 3))
    distance = rng.uniform(0.03, 0.3)
    way *= distance
    took = distance / rng.uniform(_SLOWEST, _SLOW)
    start = rng.uniform(times[0] - took, times[-1])
    share = eased(times, np.array([start, start + took]), np.array([0.0, 1.0]))[:, None]
    _turn(hand, share * rng.normal(0, 0.5, 3))
    hand += (share * way)[:, None]


def _wander(hand: np.ndarray, times: np.ndarray, rng: np.random.Generator) -> None:
    """Move the hand between random points, or in circles, rotating it."""
    start, stop = np.sort(rng.uniform(times[0] - 1.0, times[-1] + 1.0, 2))
    pause = rng.uniform(0.25, 0.8)
    marks = np.arange(start, max(stop, start + 5 * pause), pause)
    places = rng.normal(0, 1, (len(marks), 3)) * np.exp(rng.uniform(np.log(0.03), np.log(0.4)))
    if rng.random() < 0.3:  # circles in a random plane
        plane = np.linalg.qr(rng.normal(0, 1, (3, 2)))[0]
        angle = np.arange(len(marks)) * np.pi / 2
        circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        places = circle @ plane.T * np.exp(rng.uniform(np.log(0.04), np.log(0.3)))
    places[[0, -1]] = 0
    path = eased(times, marks, places)
    within = (times > marks[0]) & (times < marks[-1])
    _turn(hand, within[:, None] * smooth_noise(times, rng, rng.uniform(0.0, 0.6), 0.8))
    hand += path[:, None]


def _move_fingers(hand: np.ndarray, times: np.ndarray, rng: np.random.Generator) -> None:
    """Bend and stretch some fingers, each at its own time, as in counting or playing."""
    across = _unit(hand[0, _INDEX] - hand[0, _PINKY])
    moved = rng.permutation(len(FINGERS))[: rng.integers(1, len(FINGERS))]
    for finger in moved:
        marks = np.sort(rng.uniform(times[0], times[-1], rng.integers(3, 8)))
        bends = np.where(np.arange(len(marks)) % 2, rng.uniform(0.4, 1.2), 0.0) * rng.choice([-1, 1])
        bends[-1] = 0
        turned = rotations(eased(times, marks, bends)[:, None] * across).transpose(0, 2, 1)
        joints = list(FINGERS[finger])
        for first, joint in enumerate(joints[:-1], start=1):  # each joint rotates the joints after it
            pivot, rest = hand[:, joint][:, None], joints[first:]
            hand[:, rest] = (hand[:, rest] - pivot) @ turned + pivot


def _turn(hand: np.ndarray, vectors: np.ndarray) -> None:
    """Rotate the hand [T, 22, 3] about its wrist by rotation vectors [T, 3]."""
    pivot = hand[:, _WRIST][:, None]
    hand[:] = (hand - pivot) @ rotations(vectors).transpose(0, 2, 1) + pivot


_ELBOW, _BODY_WRIST = (KINECT_V2_25.index[f"{joint}_right"] for joint in ("elbow", "wrist"))
_FROM, _TO = HAND_22.index["wrist"], HAND_22.index["middle_base"]


def hands_from_bodies(clips: ClipDataset, poses: ClipDataset) -> ClipDataset:
    """Convert the right hands of body clips (`kinect_v2_25`) to clips of `hand_22`.

    Each clip gets the first pose of one clip of `poses` (hands), in turn, rotated like its forearm.
    """
    step = max(len(poses) // max(len(clips), 1), 1)
    hands = [
        hand_from_body(clips[i].leveled(), poses[i * step % len(poses)].leveled().bodies[0, 0])
        for i in range(len(clips))
    ]
    return ClipDataset(hands, clips.classes, "hand_22")


def hand_from_body(clip: Clip, pose: np.ndarray) -> Clip:
    """Attach the pose [22, 3] m of a right hand to a clip's first body; NaN if its elbow or wrist is missing."""
    wrist = clip.bodies[0, :, _BODY_WRIST].astype(np.float64)
    forearm = _unit(wrist - clip.bodies[0, :, _ELBOW])
    pose = np.where(np.isnan(pose), np.nanmean(pose, axis=0), pose) if np.isnan(pose).any() else pose
    turned = (pose - pose[_FROM]) @ _shortest_turns(_unit(pose[_TO] - pose[_FROM]), forearm).transpose(0, 2, 1)
    return Clip(clip.name, clip.label, clip.stamps_ns, (turned + wrist[:, None])[None].astype(np.float32))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6))


def _shortest_turns(start: np.ndarray, goals: np.ndarray) -> np.ndarray:
    """Return the shortest rotations [T, 3, 3] of direction `start` [3] to `goals` [T, 3]."""
    axis = np.cross(start, goals)
    angle = np.arctan2(np.linalg.norm(axis, axis=1), goals @ start)
    return rotations(_unit(axis) * angle[:, None])
