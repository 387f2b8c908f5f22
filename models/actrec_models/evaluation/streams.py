"""Scores of events and labels on continuous recordings, in which the spans of actions are labeled."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from actrec import features
from actrec.inference.session import Session, body_layout
from actrec.perception.recorded_joints import read_bodies
from actrec.recognition import ActionEvent, ActionPrediction, ActionRecognizer
from actrec.recognition.events import BEGAN
from actrec.recognition.tracks import STREAM_NAMES
from actrec.recordings import RecordingConfig
from actrec.recordings.labels import LABELS_FILE, LabeledClip, normalize_name, own_labels, read_labels
from actrec.skeleton.layouts import HANDS
from actrec.skeleton.sequence import SkeletonSequence
from actrec.types import NANOSECONDS, UNKNOWN
from actrec.utils.errors import DeviceError, InputError
from actrec_models.data.continuous import ActionStream

logger = logging.getLogger(__name__)

TOLERANCE_S = 1.0
"""An action is found if its event begins between its start and this long after its end."""


@dataclass
class StreamScore:
    """Figures of one recording, or the sum over several.

    Attributes:
        minutes: Length.
        actions, found: By label, the actions that the model knows, and how many of them have an event.
        false_events: By label, events that match no action, or an action that already has one.
        repeated: How many of these repeat an action's event.
        start_delays_s, end_delays_s: Of each found action, the time from its start and its end to the event.
        wrong_s, labeled_s: Time with a label of no action at this time, and with any label.
        label_changes: Changes of a body's label.
        changes_in_actions: Changes of the label during found actions.
    """

    minutes: float = 0.0
    actions: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    false_events: Counter[str] = field(default_factory=Counter)
    repeated: int = 0
    start_delays_s: list[float] = field(default_factory=list)
    end_delays_s: list[float] = field(default_factory=list)
    wrong_s: float = 0.0
    labeled_s: float = 0.0
    label_changes: int = 0
    changes_in_actions: int = 0

    def add(self, other: "StreamScore") -> None:
        """Add the figures of another recording."""
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def figures(self) -> dict[str, float | int | None]:
        """Return the figures for `--json`; None for a median or a share of nothing."""
        found = self.found.total()
        return {
            **self.event_figures(),
            "wrong_share_of_time": _share(self.wrong_s, 60 * self.minutes),
            "label_changes_per_minute": _share(self.label_changes, self.minutes),
            "label_changes_per_found_action": _share(self.changes_in_actions, found),
        }

    def event_figures(self) -> dict[str, float | int | None]:
        """Return the figures of events alone, for scores that were made without labels."""
        actions, found = self.actions.total(), self.found.total()
        return {
            "minutes": round(self.minutes, 2),
            "actions": actions,
            "found": found,
            "found_share": _share(found, actions),
            "false_events": self.false_events.total(),
            "false_events_per_minute": _share(self.false_events.total(), self.minutes),
            "repeated_events": self.repeated,
            "median_delay_from_start_s": float(np.median(self.start_delays_s)) if found else None,
            "median_delay_from_end_s": float(np.median(self.end_delays_s)) if found else None,
        }


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def open_streams(
    folder: str | Path, labels: str | Path | None = None, config: RecordingConfig | None = None
) -> list[ActionStream]:
    """Return the recordings of a folder whose actions are labeled, each with its actions.

    Args:
        folder: Holds the recordings, of any kind (`read_bodies`). Their actions are in `labels.csv`, or in skeleton
            files themselves (`actrec.recordings.skeleton_npz`).
        labels: The labels file; None for the folder's own. Then files that are not listed are ignored.
        config: Settings for recordings without this information, such as `fps`.

    Raises:
        DeviceError: A file is missing.
        InputError: A recording shows no person or holds hands, or the labels file is invalid or empty.
    """
    config, path = config or RecordingConfig(), Path(labels) if labels else Path(folder) / LABELS_FILE
    own = own_labels(Path(folder), config.fps) if not labels and Path(folder).is_dir() else {}
    actions = {name: list(file.actions) for name, file in own.items() if file.actions is not None}
    if not actions and not path.exists():
        raise DeviceError(f"there is no '{path}', and no .npz in '{folder}' has labels of its own: write one of them")
    listed: dict[str, list[LabeledClip]] = {}
    for clip in read_labels(path) if path.exists() else ():
        listed.setdefault(clip.recording, []).append(clip)
    actions |= listed
    if not actions:
        raise InputError(f"'{path}' labels no recording: give each action a line with recording, label, start_s, end_s")
    return [_open_stream(Path(folder) / recording, config, clips) for recording, clips in actions.items()]


def _open_stream(path: Path, config: RecordingConfig, actions: Sequence[LabeledClip]) -> ActionStream:
    stream = ActionStream(_bodies(path, config), tuple(actions))
    ids, duration_s = stream.sequence.body_ids, stream.end_s
    for action in actions:
        if action.body and action.body not in ids:
            raise InputError(f"'{path}' has no body '{action.body}' for '{action.label}'; it has {', '.join(ids)}")
        if action.start_s > duration_s:
            raise InputError(
                f"'{path}' lasts {duration_s:.2f} s, but its '{action.label}' starts at {action.start_s:g} s: give "
                "start_s and end_s in seconds from its first frame"
            )
    return stream


def _bodies(path: Path, config: RecordingConfig) -> SkeletonSequence:
    sequence = read_bodies(path, config)
    if sequence.layout in HANDS:
        raise InputError(
            f"'{path}' holds hands ({sequence.layout}), but events are of bodies: give recordings of people"
        )
    return sequence


def play(
    session: Session, sequence: SkeletonSequence, **settings: Any
) -> tuple[list[ActionEvent], list[ActionPrediction]]:
    """Return all events and labels of a recording, as the live recognizer makes them from every frame."""
    recognizer = ActionRecognizer(session, **settings)
    found, labels = [], []
    for index, stamp_ns in enumerate(sequence.stamps_ns):
        labels += recognizer.add_skeletons(int(stamp_ns), sequence.bodies_at(index), sequence.up)
        labels += recognizer.predict()
        found += recognizer.events()
    if warning := recognizer.counts.describe_restarts("bodies", recognizer.config.max_gap_s):
        logger.warning("%s: %s", sequence.name, warning)
    return found, labels


class Evidence(NamedTuple):
    """Arguments of `EventDetector.update` for one window of a body."""

    body_id: str
    stamp_ns: int
    probabilities: np.ndarray  # [classes]
    joints: np.ndarray  # [V, 3] m
    tracked_s: float


def evidence(session: Session, sequence: SkeletonSequence) -> list[Evidence]:
    """Return the probabilities of all windows of a recording, from which events can be detected many times."""
    labels = session.package.labels
    index = {name: number for number, name in enumerate(labels)}
    frames = {int(stamp_ns): frame for frame, stamp_ns in enumerate(sequence.stamps_ns)}
    made = []
    for each in play(session, sequence, labels="windows", top_k=len(labels))[1]:
        bodies = {body.body_id: body.positions for body in sequence.bodies_at(frames[each.stamp_ns])}
        if each.body_id in bodies:
            probabilities = np.full(len(labels), np.nan)
            probabilities[[index[name] for name in each.top_labels]] = each.top_probabilities
            tracked_s = (each.stamp_ns - each.window_start_ns) / NANOSECONDS
            made.append(Evidence(each.body_id, each.stamp_ns, probabilities, bodies[each.body_id], tracked_s))
    return made


def check_model(session: Session) -> None:
    """Raise InputError if the model requires more than skeletons."""
    package = session.package
    others = [
        stream for stream, required in features.streams(package.inputs).items() if required and stream != "bodies"
    ]
    if others or body_layout(package) in HANDS:
        wanted = ", ".join(STREAM_NAMES[stream] for stream in others) or "hands"
        raise InputError(f"model {package.name} takes {wanted}, but these recordings have skeletons alone")


def evaluate(session: Session, streams: Sequence[ActionStream], progress: bool = False, **settings: Any) -> StreamScore:
    """Play recordings and return the sum of their scores.

    Raises:
        InputError: The model requires more than skeletons.
    """
    check_model(session)
    package = session.package
    known = set(map(normalize_name, (*package.labels, UNKNOWN)))
    others = {each.label for stream in streams for each in stream.actions if normalize_name(each.label) not in known}
    if others:
        names = ", ".join(sorted(others))
        logger.warning("model %s has no class %s: events in these actions are false", package.name, names)
    total = StreamScore()
    for stream in tqdm(streams, package.name, disable=not progress):
        total.add(score(stream, *play(session, stream.sequence, **settings), package.labels))
    return total


def text(scores: Mapping[str, StreamScore]) -> str:
    """Return a table of the figures by model, and each model's labels with events missed or false."""
    lines = []
    for name, found in scores.items():
        lines += [name, *(f"  {key.replace('_', ' '):<31} {_plain(value)}" for key, value in found.figures().items())]
        for label in sorted(found.actions | found.false_events):
            count, wrong = found.actions[label], found.false_events[label]
            if found.found[label] < count or wrong:
                lines.append(f"    {label}: {found.found[label]} of {count} found, {wrong} false")
    return "\n".join(lines)


def _plain(value: float | int | None) -> str:
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def score(
    stream: ActionStream, events: Iterable[ActionEvent], labels: Sequence[ActionPrediction], known: Iterable[str]
) -> StreamScore:
    """Compare the events and labels of a recording with its actions.

    An event finds the earliest action of its label and body that has none yet and lasts at the event, or ended at most
    `TOLERANCE_S` before. Labels may be spelled in another way (`normalize_name`). Actions of labels that the model does
    not know must cause no event.

    Args:
        known: Labels of the model.
    """
    start_ns = stream.sequence.start_ns
    spelling = {normalize_name(label): label for label in known}
    named = ((spelling.get(normalize_name(each.label)), each) for each in stream.actions)
    actions = sorted((replace(each, label=label) for label, each in named if label), key=lambda each: each.start_s)
    result = StreamScore(stream.minutes, Counter(each.label for each in actions))
    open_actions = list(actions)
    for event in events:
        if event.kind != BEGAN:
            continue
        at_s = (event.stamp_ns - start_ns) / NANOSECONDS
        match = next((each for each in open_actions if _shows(each, event.label, event.body_id, at_s)), None)
        if match is None:
            result.false_events[event.label] += 1
            result.repeated += any(_shows(each, event.label, event.body_id, at_s) for each in actions)
            continue
        open_actions.remove(match)
        result.found[event.label] += 1
        result.start_delays_s.append(at_s - match.start_s)
        result.end_delays_s.append(at_s - _end_s(match, stream))
    found = [each for each in actions if each not in open_actions]
    _add_labels(result, stream, labels, actions, found)
    return result


def _shows(action: LabeledClip, label: str, body_id: str, at_s: float) -> bool:
    """Return whether an action has this label and body and lasts at this time, or ended shortly before."""
    is_same = action.label == label and action.body in ("", body_id)
    return is_same and action.start_s <= at_s <= action.end_s + TOLERANCE_S


def _end_s(action: LabeledClip, stream: ActionStream) -> float:
    return min(action.end_s, stream.end_s)


def _add_labels(
    result: StreamScore,
    stream: ActionStream,
    labels: Sequence[ActionPrediction],
    actions: Sequence[LabeledClip],
    found: Sequence[LabeledClip],
) -> None:
    """Add the figures of the labels, each of which holds until the next label of its body."""
    start_ns, end_ns = stream.sequence.start_ns, int(stream.sequence.stamps_ns[-1])
    by_body: dict[str, list[ActionPrediction]] = {}
    for label in labels:
        by_body.setdefault(label.body_id, []).append(label)
    labeled: list[tuple[int, int]] = []
    wrong: list[tuple[int, int]] = []
    for body_id, own in by_body.items():
        stops = [*(label.stamp_ns for label in own[1:]), end_ns]
        for before, now, stop_ns in zip([None, *own], own, stops, strict=False):
            at_s = (now.stamp_ns - start_ns) / NANOSECONDS
            if now.label != UNKNOWN:
                labeled.append((now.stamp_ns, stop_ns))
                if not any(_shows(each, now.label, body_id, at_s) for each in actions):
                    wrong.append((now.stamp_ns, stop_ns))
            if before is not None and before.label != now.label:
                result.label_changes += 1
                own_actions = (each for each in found if each.body in ("", body_id))
                result.changes_in_actions += any(each.start_s < at_s <= _end_s(each, stream) for each in own_actions)
    result.labeled_s, result.wrong_s = _covered_s(labeled), _covered_s(wrong)


def _covered_s(spans: Iterable[tuple[int, int]]) -> float:
    """Return the time in which at least one of some spans in ns lasts, s."""
    covered, reached = 0, 0
    for start, stop in sorted(spans):
        covered += max(stop - max(start, reached), 0)
        reached = max(reached, stop)
    return covered / NANOSECONDS
