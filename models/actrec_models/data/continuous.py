"""One action after another: continuous recordings put together from a person's clips, and windows of two actions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from actrec.datasets.base import Clip, ClipDataset
from actrec.recordings.labels import LabeledClip
from actrec.skeleton import layouts, windows
from actrec.skeleton.activity import active_span
from actrec.skeleton.sequence import SkeletonSequence, from_joints, stamps_at
from actrec.types import NANOSECONDS, UNKNOWN
from actrec.utils import gravity

BLEND_S, REST_S = 0.7, 3.0
"""Time from one clip to the next in a joined recording, and of rest at its ends."""

IDLE_S = (0.3, 1.5)
"""Shortest and longest time for which a person waits after a clip, in addition to the waiting that the clip shows."""

_PERSON = ("subject", "actor", "person", "style")
"""Metadata that names a person, the first one counts: of published sets, of one's own recordings, of Bandai-Namco."""

LONGEST_PAUSE_S = 0.45
"""Without the person: live, `windows.MAX_GAP_S` without the person restarts the window."""

WAIT_S, MOVE_S = (0.0, 1.5), (0.4, 1.0)
"""Shortest and longest time for which a person waits after an action, and moves from there to the next one."""

OVER_S = (1.2, 2.5)
"""Shortest and longest time after the end of an action at which a window shows none any longer."""

EARLY_S = 0.5
"""Longest time before an action at which a window ends that shows none yet."""

_RATE_HZ = 30.0
_SWAY_M = 0.01
_NEXT = 8  # the next clip is, of this many random ones, the one whose first pose is nearest to the last pose


@dataclass(frozen=True)
class ActionStream:
    """A continuous recording of joints with the actions in it, whose times count from its first frame."""

    sequence: SkeletonSequence
    actions: tuple[LabeledClip, ...]

    @property
    def end_s(self) -> float:
        """Time of the last frame, s, as the times of the actions count (`SkeletonSequence.start_ns`)."""
        return (int(self.sequence.stamps_ns[-1]) - self.sequence.start_ns) / NANOSECONDS

    @property
    def minutes(self) -> float:
        """Length of the recording, min."""
        stamps = self.sequence.stamps_ns
        return float(stamps[-1] - stamps[0]) / NANOSECONDS / 60


def person_streams(
    known: ClipDataset,
    unknown: ClipDataset,
    people: int = 0,
    clips: int = 24,
    minutes: float = 8.0,
    seed: int = 0,
    names: Mapping[str, str] | None = None,
) -> list[ActionStream]:
    """Return one recording for each person: clips in random order, also of unknown actions, with waiting in between.

    An action lasts as long as its clip's motion (`active_span`). People of several sets are distinguished by `set`.
    Clips without a person are of one, and the unknown ones of another.

    Args:
        known, unknown: Clips with metadata of `_PERSON`; unknown ones have label −1 or a class of their own.
        people: Number of people, at most; 0 for all.
        clips, minutes: Each recording ends after so many clips, or so long.
        names: Labels of clips of `unknown` by their names, for models that know these actions; others are `unknown`.
    """
    owned: dict[str, list[tuple[ClipDataset, int, str]]] = {}
    for part in (known, unknown):
        for index, (meta, label) in enumerate(zip(part.metas, part.labels, strict=True)):
            name = next((str(meta[key]) for key in _PERSON if meta.get(key) not in (None, "")), "")
            person = "_".join(filter(None, (str(meta.get("set", "")), name)))
            person = person or ("person" if part is known else "others")
            owned.setdefault(person, []).append((part, index, known.classes[label] if part is known else UNKNOWN))
    rng = np.random.default_rng(seed)
    chosen = sorted(owned)
    if people and people < len(chosen):
        chosen = sorted(rng.choice(chosen, people, replace=False).tolist())
    return [_person_stream(person, owned[person], clips, minutes, rng, names or {}) for person in chosen]


def _person_stream(
    person: str,
    owned: Sequence[tuple[ClipDataset, int, str]],
    most: int,
    minutes: float,
    rng: np.random.Generator,
    names: Mapping[str, str],
) -> ActionStream:
    """Return a person's recording; each next clip begins near to the last pose, as far as a few random ones allow."""
    order = [owned[index] for index in rng.permutation(len(owned))[: most + _NEXT]]
    waiting = [(part[index].leveled(), label) for part, index, label in order]
    made: list[tuple[Clip, str]] = []
    seconds = 0.0
    while waiting and len(made) < most and seconds < 60 * minutes:
        last = made[-1][0].bodies[0, -1] if made else None
        distances = [0.0 if last is None else _pose_distance(last, clip.bodies[0, 0]) for clip, _ in waiting[:_NEXT]]
        made.append(waiting.pop(int(np.argmin(distances))))
        stamps_ns = made[-1][0].stamps_ns
        seconds += float(stamps_ns[-1] - stamps_ns[0]) / NANOSECONDS + BLEND_S + float(np.mean(IDLE_S))
    spans = [active_span(clip.stamps_ns, clip.bodies) for clip, _ in made]
    chosen = [clip for clip, _ in made]
    labels = [names.get(clip.name, label) if label == UNKNOWN else label for clip, label in made]
    return join_clips(person, chosen, labels, spans=spans, idle_s=IDLE_S, rng=rng)


def _pose_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean distance in m of the joints of two poses [V, 3] about their medians; only height is kept."""
    moved = np.nanmedian(b, axis=0) - np.nanmedian(a, axis=0)
    apart = np.linalg.norm(b - a - moved * [1, 0, 1], axis=-1)
    return float(np.nanmean(apart)) if np.isfinite(apart).any() else np.inf


def join_clips(
    name: str,
    clips: Sequence[Clip],
    labels: Sequence[str],
    rate_hz: float = 30.0,
    *,
    spans: Sequence[tuple[int, int]] | None = None,
    idle_s: tuple[float, float] = (0.0, 0.0),
    rng: np.random.Generator | None = None,
) -> ActionStream:
    """Return one continuous recording of the first bodies of clips, one after the other, with their labels.

    The person is moved to the place where the clip before ended, and goes from its last pose to the next first one in
    `BLEND_S`. The first and the last pose are held for `REST_S`. All is in level axes.

    Args:
        clips, labels: In order, one label for each clip; `unknown` for any other action.
        rate_hz: Frame rate of the result.
        spans: First and last frame of the action in each clip; None for whole clips.
        idle_s: Shortest and longest time for which the last pose of each clip is held, swaying a little.
        rng: Random numbers; needed for `idle_s`.
    """
    parts: list[np.ndarray] = []
    actions = []
    for number, (clip, label) in enumerate(zip(clips, labels, strict=True)):
        joints, stamps_ns = clip.leveled().bodies[0], clip.stamps_ns
        frames = max(int((stamps_ns[-1] - stamps_ns[0]) * rate_hz / NANOSECONDS), 1) + 1
        joints = windows.resample(stamps_ns, joints, windows.stretched_stamps(stamps_ns[0], stamps_ns[-1], frames))
        if parts:
            shift = np.nanmedian(parts[-1][-1], axis=0) - np.nanmedian(joints[0], axis=0)
            if not np.isfinite(shift).all():  # the person is out of view there
                shift = np.zeros(3, np.float32)
            joints = joints + shift * np.array([1, 0, 1], np.float32)
            steps = np.linspace(0, 1, round(BLEND_S * rate_hz) + 2)[1:-1, None, None]
            weights = (3 * steps**2 - 2 * steps**3).astype(np.float32)
            parts.append((1 - weights) * parts[-1][-1] + weights * joints[0])
        else:
            parts.append(np.repeat(joints[:1], round(REST_S * rate_hz), axis=0))
        start = sum(map(len, parts))
        parts.append(joints)
        first, last = (0, -1) if spans is None else spans[number]
        begin_s, end_s = ((stamps_ns[frame] - stamps_ns[0]) / NANOSECONDS for frame in (first, last))
        end_s = min(float(end_s), (len(joints) - 1) / rate_hz)
        actions.append(LabeledClip(name, label, start / rate_hz + float(begin_s), start / rate_hz + end_s))
        if rng is not None and idle_s[1] > 0:
            times = np.arange(round(rng.uniform(*idle_s) * rate_hz)) / rate_hz
            sway = smooth_noise(times, rng, _SWAY_M, 0.5) * np.minimum(times, 1.0)[:, None]
            parts.append((joints[-1] + sway[:, None]).astype(np.float32))
    parts.append(np.repeat(parts[-1][-1:], round(REST_S * rate_hz), axis=0))
    bodies = np.concatenate(parts)[None]
    stamps_ns = stamps_at(rate_hz, bodies.shape[1])
    sequence = from_joints(name, stamps_ns, bodies, up=np.array(gravity.LEVEL, np.float32))
    return ActionStream(sequence, tuple(actions))


# -- windows of two actions ------------------------------------------------------------------------------------------


def begun_s(length_s: float) -> float:
    """Return the time of an action until which it has hardly begun, s."""
    return min(0.25 * length_s, 0.5)


def smooth_noise(times: np.ndarray, rng: np.random.Generator, size: float, rate: float) -> np.ndarray:
    """Return random motion [T, 3] of about `size`: three sinusoids an axis, of frequencies up to 2·`rate` Hz."""
    frequency = rng.uniform(0.1, 2 * rate, (3, 3, 1))
    phase = rng.uniform(0, 2 * np.pi, (3, 3, 1))
    weight = rng.normal(0, size / np.sqrt(3), (3, 3, 1))
    return (weight * np.sin(2 * np.pi * frequency * times + phase)).sum(axis=1).T


def follow(
    before: Clip, clip: Clip, rng: np.random.Generator, layout: str = "kinect_v2_25", speed: float = 1.0
) -> Clip:
    """Prepend `before` to `clip`, moved to the position of the person, with a pause in which the person is not seen.

    The pause is short enough when the clip's time is multiplied by `speed`.
    """
    pause = round(rng.uniform(0.2, LONGEST_PAUSE_S) / speed * NANOSECONDS)
    moved = _moved(before, clip, layout)
    stamps = before.stamps_ns - before.stamps_ns[-1] + clip.stamps_ns[0] - pause
    return _joined(clip, (stamps, moved), (clip.stamps_ns, clip.bodies))


def wait_and_follow(
    before: Clip,
    clip: Clip,
    rng: np.random.Generator,
    layout: str = "kinect_v2_25",
    speed: float = 1.0,
    shortest_s: float = 0.0,
) -> Clip:
    """Prepend `before` to `clip`: the person waits in its last pose, then moves to the first one of `clip`.

    Times hold when the clip's time is multiplied by `speed`; both together last `shortest_s` at least.
    """
    moved = _moved(before, clip, layout)
    wait_s, move_s = rng.uniform(*WAIT_S), rng.uniform(*MOVE_S)
    wait_s = max(wait_s, shortest_s - move_s)
    waited = _waiting(moved[:, -1], wait_s, rng)
    last = waited[:, -1] if waited.shape[1] else moved[:, -1]
    steps = np.linspace(0, 1, round(move_s * _RATE_HZ) + 2, dtype=np.float32)[1:-1, None, None]
    weights = 3 * steps**2 - 2 * steps**3
    between = np.concatenate([waited, (1 - weights) * last[:, None] + weights * clip.bodies[:, :1]], axis=1)
    spacing = NANOSECONDS / _RATE_HZ / speed
    between_ns = clip.stamps_ns[0] - np.round(np.arange(between.shape[1], 0, -1) * spacing).astype(np.int64)
    before_ns = before.stamps_ns - before.stamps_ns[-1] + between_ns[0] - round(spacing)
    return _joined(clip, (before_ns, moved), (between_ns, between), (clip.stamps_ns, clip.bodies))


def wait(clip: Clip, seconds: float, rng: np.random.Generator, speed: float = 1.0) -> Clip:
    """Append waiting in the last pose of `clip`, of this length when the clip's time is multiplied by `speed`."""
    waited = _waiting(clip.bodies[:, -1], seconds, rng)
    spacing = NANOSECONDS / _RATE_HZ / speed
    waited_ns = clip.stamps_ns[-1] + np.round(np.arange(1, waited.shape[1] + 1) * spacing).astype(np.int64)
    return _joined(clip, (clip.stamps_ns, clip.bodies), (waited_ns, waited))


def _waiting(pose: np.ndarray, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Return poses [M, T, V, 3] of people [M, V, 3] who sway a little."""
    times = np.arange(1, round(seconds * _RATE_HZ) + 1) / _RATE_HZ
    sway = smooth_noise(times, rng, _SWAY_M, 0.5) * np.minimum(times, 1.0)[:, None]
    return (pose[:, None] + sway[None, :, None]).astype(np.float32)


def _moved(before: Clip, clip: Clip, layout: str) -> np.ndarray:
    """Return the bodies of `before`, as many as in `clip`, moved so that they end where the bodies of `clip` begin."""
    root = layouts.get(layout).index["palm" if layout == "hand_22" else "spine_base"]
    people, own = before.bodies[: len(clip.bodies)], clip.bodies
    # People of the second clip only appear with it.
    absent = np.full((len(own) - len(people), *people.shape[1:]), np.nan, np.float32)
    people = np.concatenate([people, absent])
    return np.asarray(people + _way(people[:, -1], own[:, 0], root)[:, None, None])


def _joined(clip: Clip, *parts: tuple[np.ndarray, np.ndarray]) -> Clip:
    stamps, bodies = zip(*parts, strict=True)
    return Clip(clip.name, clip.label, np.concatenate(stamps), np.concatenate(bodies, axis=1))


def _way(start: np.ndarray, end: np.ndarray, root: int) -> np.ndarray:
    """Return the shift [M, 3] from bodies `start` [M, V, 3] to `end`: of the roots, or the mean of common joints."""
    ways = end - start
    known = np.isfinite(ways).all(axis=-1, keepdims=True)
    middle = np.where(known, ways, 0).sum(axis=1) / np.where(known.any(axis=1), known.sum(axis=1), np.nan)
    return np.asarray(np.where(known[:, root], ways[:, root], middle), np.float32)
