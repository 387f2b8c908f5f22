"""Choice of the average probability that begins an event of each class, for a stated rate of false events."""

from collections.abc import Sequence

import numpy as np

from actrec import datasets
from actrec.datasets.base import ClipDataset
from actrec.inference.package import EventThresholds, ModelPackage
from actrec.inference.session import Session
from actrec.recognition import ActionEvent, ActionPrediction, EventConfig
from actrec.recognition.events import EventDetector
from actrec.skeleton.sequence import SkeletonSequence
from actrec.types import NANOSECONDS
from actrec.utils.errors import ConfigError
from actrec_models.data import unknown_clips
from actrec_models.data.continuous import ActionStream, person_streams
from actrec_models.evaluation import streams
from actrec_models.evaluation.streams import StreamScore
from actrec_models.training.recipe import Recipe

CANDIDATES = np.arange(0.3, 0.96, 0.05).round(2)
"""Thresholds to choose from."""

LEAST_ACTIONS = 5  # a class with fewer actions gets at least the common threshold
_PRICES = np.geomspace(0.05, 20, 30)  # of a false event, in events found


def training_streams(recipe: Recipe, classes: Sequence[str], data_root: str, root: str = "") -> list[ActionStream]:
    """Return one continuous recording of each person of the training part, with unknown actions and waiting."""
    folder = root or datasets.folder(data_root, recipe.dataset)
    whole = {"trim": False} if recipe.dataset == "everyday" else {}
    options = {"split": recipe.split, "part": "train", **recipe.dataset_options, **whole}
    known = datasets.create(recipe.dataset, folder, **options)
    unknown: ClipDataset = datasets.create_unknown(recipe.dataset, folder, **options)
    if not len(unknown) and recipe.unknown_dataset and not unknown_clips.missing_dataset(recipe, data_root):
        unknown = unknown_clips.load(recipe, classes, data_root, "train").read()
    return person_streams(known, unknown)


def choose(
    session: Session, recordings: Sequence[ActionStream], per_minute: float
) -> tuple[EventThresholds, StreamScore]:
    """Choose the thresholds that find most actions with at most so many false events a minute; also return the score.

    For a price of a false event, each class gets the threshold with the highest number of its events found, less the
    price of its false ones. The lowest price that keeps to the rate is taken. Classes of which the recordings show few
    actions get at least the threshold that keeps to the rate if all classes have it.

    Raises:
        ConfigError: No thresholds keep to the rate.
    """
    labels = session.package.labels
    settings = {"labels": "windows", "top_k": len(labels)}
    played = [(each, streams.play(session, each.sequence, **settings)[1]) for each in recordings]
    scores = [_score(session.package, played, np.full(len(labels), value)) for value in CANDIDATES]
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
    rare = np.array([scores[0].actions[name] < LEAST_ACTIONS for name in labels])
    best = np.full(len(labels), CANDIDATES[common]), scores[common]
    for price in _PRICES:
        # Of thresholds that are as good, the middle one.
        worth = found - price * false
        good = worth >= worth.max(axis=0) - 1e-9
        chosen = np.array([int(np.median(np.flatnonzero(column))) for column in good.T])
        chosen = CANDIDATES[np.where(rare, np.maximum(chosen, common), chosen)]
        score = _score(session.package, played, chosen)
        if score.false_events.total() <= per_minute * score.minutes:
            best = max(best, (chosen, score), key=lambda each: each[1].found.total())
            break
    return _described(labels, *best, len(recordings), per_minute), best[1]


def _described(
    labels: Sequence[str], begin: np.ndarray, score: StreamScore, people: int, per_minute: float
) -> EventThresholds:
    values, counts = np.unique(begin, return_counts=True)
    usual = float(values[np.argmax(counts)])
    others = {name: round(float(value), 2) for name, value in zip(labels, begin, strict=True) if value != usual}
    figures = score.figures()
    return EventThresholds(
        usual,
        others,
        f"continuous recordings of {people} people of the training part, {score.minutes:.0f} min, for at most "
        f"{per_minute:g} false events a minute: {figures['found_share'] or 0:.1%} of {figures['actions']} actions "
        f"found, "
        f"{figures['false_events_per_minute']:.2f} false events a minute",
    )


def _score(
    package: ModelPackage, played: Sequence[tuple[ActionStream, Sequence[ActionPrediction]]], begin: np.ndarray
) -> StreamScore:
    total = StreamScore()
    for stream, predictions in played:
        events = detect(package, stream.sequence, predictions, begin)
        total.add(streams.score(stream, events, (), package.labels))
    return total


def detect(
    package: ModelPackage, sequence: SkeletonSequence, predictions: Sequence[ActionPrediction], begin: np.ndarray
) -> list[ActionEvent]:
    """Return the events of a recording for thresholds [classes], from its windows' predictions of all classes."""
    detector, index = (
        EventDetector(package, EventConfig(), begin=begin),
        {name: i for i, name in enumerate(package.labels)},
    )
    frames = {int(stamp_ns): frame for frame, stamp_ns in enumerate(sequence.stamps_ns)}
    events = []
    for each in predictions:
        known = {body.body_id: body.positions for body in sequence.bodies_at(frames[each.stamp_ns])}
        if each.body_id not in known:
            continue
        probabilities = np.full(len(package.labels), np.nan)
        probabilities[[index[name] for name in each.top_labels]] = each.top_probabilities
        tracked_s = (each.stamp_ns - each.window_start_ns) / NANOSECONDS
        events += detector.update(each.body_id, each.stamp_ns, probabilities, known[each.body_id], tracked_s)
    return events
