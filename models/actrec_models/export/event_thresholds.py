"""Choice of the average probability that begins an event of each class, for a stated rate of false events."""

import bisect
import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np

from actrec import datasets
from actrec.datasets.base import ClipDataset
from actrec.inference.package import EventThresholds, ModelPackage
from actrec.inference.session import Session
from actrec.recognition import EventConfig
from actrec.recognition.events import EventDetector, Rest
from actrec.types import NANOSECONDS, UNKNOWN
from actrec.utils.errors import ConfigError
from actrec_models.data import unknown_clips
from actrec_models.data.continuous import ActionStream, person_streams
from actrec_models.evaluation import elsewhere, streams
from actrec_models.evaluation.streams import Evidence, StreamScore
from actrec_models.training.recipe import Recipe

CANDIDATES = np.array([*np.arange(0.3, 0.96, 0.05).round(2), 0.97, 0.98, 0.99])
"""Thresholds to choose from."""

PRIOR = 30
"""Actions of the mean class that count beside a class's own: thresholds from few actions do not hold for others."""

LEAST_ACTIONS = 5  # of a class that can be a motion

MOST_RESTS = 0.25
"""Largest share of the actions of a motion that have a rest in them."""

LEFT_OUT_MINUTES = 1.0
"""Length of the recording of each person of a set left out of training."""

_BEGIN_S, _END_S = 0.8, 0.3  # rests nearer to the start or the end of an action are not in it
_PRICES = np.geomspace(0.05, 20, 30)  # of a false event, in events found

Played = tuple[ActionStream, Sequence[Evidence]]
"""A recording with the probabilities of its windows."""


@dataclasses.dataclass(frozen=True)
class Material:
    """Recordings on which thresholds are chosen.

    Attributes:
        played: They, each with the probabilities of a network.
        source: Whose recordings they are, for the package.
    """

    played: Sequence[Played]
    source: str


def play(session: Session, recordings: Sequence[ActionStream]) -> list[Played]:
    """Return recordings with the probabilities of a network."""
    return [(each, streams.evidence(session, each.sequence)) for each in recordings]


def left_out(sessions: Sequence[Session], base: ModelPackage, data_root: str) -> Material:
    """Return recordings of people of the sets that networks were trained without, each played by its network.

    They show how sure a network is of people and sensors that are new to it. Only people of the training part are
    taken, with the confidence that `base` was given.

    Args:
        sessions: Networks of the same recipe and labels as `base`, trained with split leave_one_set_out.

    Raises:
        ConfigError: A network was trained on every set.
    """
    played, names = [], []
    for session in sessions:
        session.package = dataclasses.replace(session.package, rejection=base.rejection)
        for share in elsewhere.left_out(session.package, data_root, base):
            recordings = elsewhere.recordings(data_root, share, {}, people=0, minutes=LEFT_OUT_MINUTES)
            learned = elsewhere.learned_classes(session.package)
            played += play(session, [_as_known(each, learned) for each in recordings])
            names.append(share.name)
    epochs = elsewhere.other_epochs([session.package for session in sessions], base)
    return Material(played, f"people of {', '.join(names)}, each left out of training{epochs}")


def _as_known(stream: ActionStream, classes: Sequence[str]) -> ActionStream:
    """Return a recording whose actions in no one of these classes are unknown ones."""
    actions = (each if each.label in classes else dataclasses.replace(each, label=UNKNOWN) for each in stream.actions)
    return dataclasses.replace(stream, actions=tuple(actions))


def training_streams(recipe: Recipe, classes: Sequence[str], data_root: str, root: str = "") -> list[ActionStream]:
    """Return one continuous recording of each person of the training part, with unknown actions and waiting.

    The procedural actor of `everyday` is no person.
    """
    folder = root or datasets.folder(data_root, recipe.dataset)
    whole = {"trim": False, "acted": 0} if recipe.dataset == "everyday" else {}
    options = {"split": recipe.split, "part": "train", **recipe.dataset_options, **whole}
    known = datasets.create(recipe.dataset, folder, **options)
    unknown: ClipDataset = datasets.create_unknown(recipe.dataset, folder, **options)
    if not len(unknown) and recipe.unknown_dataset and not unknown_clips.missing_dataset(recipe, data_root):
        unknown = unknown_clips.load(recipe, classes, data_root, "train").read()
    return person_streams(known, unknown)


def choose(
    package: ModelPackage, material: Material, per_minute: float, motions: tuple[str, ...]
) -> tuple[EventThresholds, StreamScore]:
    """Choose the thresholds that find most actions with at most so many false events a minute; also return the score.

    For a price of a false event, each class gets the threshold with the highest number of its events found, less the
    price of its false ones; `PRIOR` actions of the mean class count beside its own. The lowest price that keeps to the
    rate is taken, and the next lower one for as many classes as keep to it, the ones that gain most first.

    Args:
        motions: Classes that rest ends, see the function `motions`.

    Raises:
        ConfigError: No thresholds keep to the rate.
    """
    labels, played = package.labels, material.played
    known = EventThresholds(motions=motions)
    package = dataclasses.replace(package, events=known)
    scores = [_score(package, played, np.full(len(labels), value)) for value in CANDIDATES]
    found, false = (
        np.array([[getattr(s, key)[name] for name in labels] for s in scores]) for key in ("found", "false_events")
    )
    rates = np.array([score.false_events.total() / score.minutes for score in scores])
    if not (rates <= per_minute).any():
        raise ConfigError(
            f"no threshold up to {CANDIDATES[-1]:g} keeps to {per_minute:g} false events a minute (at least "
            f"{rates.min():.2f}): allow more"
        )
    common = int(np.argmax(rates <= per_minute))
    mean = PRIOR / max(scores[0].actions.total(), 1)
    found, false = (counts + mean * counts.sum(axis=1, keepdims=True) for counts in (found, false))
    best = np.full(len(labels), common), scores[common]

    def keeps(indices: np.ndarray) -> bool:
        """Return whether thresholds keep to the rate; the ones that find most are remembered."""
        nonlocal best
        score = _score(package, played, CANDIDATES[indices])
        if score.false_events.total() > per_minute * score.minutes:
            return False
        best = max(best, (indices, score), key=lambda each: each[1].found.total())
        return True

    steps = [_at_price(found, false, price) for price in _PRICES[::-1]]
    count = bisect.bisect_left(steps, True, key=lambda step: not keeps(step))
    strict, loose = steps[max(count - 1, 0)], steps[min(count, len(steps) - 1)]
    columns = np.arange(len(labels))
    gain, cost = (table[loose, columns] - table[strict, columns] for table in (found, false))
    order = np.argsort(-gain / np.maximum(cost, 1e-9), kind="stable")
    mixed = [np.where(np.isin(columns, order[:number]), loose, strict) for number in columns + 1]
    bisect.bisect_left(mixed, True, key=lambda step: not keeps(step))
    chosen, score = CANDIDATES[best[0]], best[1]
    return _described(known, labels, chosen, score, material, per_minute), score


def _at_price(found: np.ndarray, false: np.ndarray, price: float) -> np.ndarray:
    """Return the index [classes] of the best threshold of each class; of ones that are as good, the middle one."""
    worth = found - price * false
    good = worth >= worth.max(axis=0) - 1e-9
    return np.array([int(np.median(np.flatnonzero(column))) for column in good.T])


def motions(recordings: Sequence[ActionStream], labels: Sequence[str]) -> tuple[str, ...]:
    """Return the classes of which few actions have a rest between their start and their end."""
    counts, rests = Counter[str](), Counter[str]()
    for stream in recordings:
        rest, stamps = Rest(), stream.sequence.stamps_ns.tolist()
        at_rest = []
        for stamp_ns, joints in zip(stamps, stream.sequence.bodies[0], strict=True):
            rest.update(stamp_ns, joints)
            if rest.lasts(stamp_ns, EventConfig().rest_s):
                at_rest.append((stamp_ns - stamps[0]) / NANOSECONDS)
        for action in stream.actions:
            counts[action.label] += 1
            rests[action.label] += any(action.start_s + _BEGIN_S <= at_s <= action.end_s - _END_S for at_s in at_rest)
    return tuple(name for name in labels if counts[name] >= LEAST_ACTIONS and rests[name] <= MOST_RESTS * counts[name])


def _described(
    known: EventThresholds,
    labels: Sequence[str],
    begin: np.ndarray,
    score: StreamScore,
    material: Material,
    per_minute: float,
) -> EventThresholds:
    values, counts = np.unique(begin, return_counts=True)
    usual = float(values[np.argmax(counts)])
    others = {name: round(float(value), 2) for name, value in zip(labels, begin, strict=True) if value != usual}
    figures = score.figures()
    described = (
        f"continuous recordings of {len(material.played)} {material.source}, {score.minutes:.0f} min, for at most "
        f"{per_minute:g} false events a minute: {figures['found_share'] or 0:.1%} of {figures['actions']} actions "
        f"found, {figures['false_events_per_minute']:.2f} false events a minute"
    )
    return dataclasses.replace(known, begin=usual, classes=others, chosen_on=described)


def _score(package: ModelPackage, played: Sequence[Played], begin: np.ndarray) -> StreamScore:
    total = StreamScore()
    for stream, evidence in played:
        detector = EventDetector(package, EventConfig(), begin=begin)
        events = [event for each in evidence for event in detector.update(*each)]
        total.add(streams.score(stream, events, (), package.labels))
    return total
