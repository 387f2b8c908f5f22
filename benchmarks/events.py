"""`actrec bench events`: events of continuous recordings, put together from the clips of people in several datasets.

Clips of each person follow one another in random order, also clips of actions that no class of `everyday` has. A model
gets only the test part of the dataset that it was trained on, and all people of the others. Labels are compared as
classes of `everyday`, or else by their own names.
"""

import argparse
import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

from actrec import inference
from actrec.cli import Parser, amount, count
from actrec.datasets.base import Entry
from actrec.datasets.everyday import SETS, Everyday, vocabulary
from actrec.inference.session import Session
from actrec_models.evaluation import streams
from actrec_models.evaluation.streams import ActionStream, StreamScore

MODELS = ("deepacts_graph_nucla", "deepacts_graph_motion_nucla", "deepacts_graph_utd_mhad", "sem_net_utd_mhad")

COLUMNS = {
    "minutes": "minutes",
    "actions": "actions",
    "found_share": "found",
    "false_events_per_minute": "false a minute",
    "repeated_events": "repeated",
    "median_delay_from_start_s": "delay from start, s",
    "median_delay_from_end_s": "from end, s",
    "wrong_share_of_time": "wrong label, share of time",
    "label_changes_per_minute": "changes a minute",
}


def measure(arguments: list[str]) -> dict[str, Any]:
    """Return the figures of each model on each dataset."""
    parser = Parser("actrec bench events", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--models", nargs="+", default=MODELS, metavar="MODEL", help="model packages of skeletons")
    add("--sets", nargs="+", default=SETS, choices=SETS, help="datasets (default: all)")
    add("--people", type=count, default=4, help="people of each dataset (default: %(default)s)")
    add("--clips", type=count, default=24, help="clips of each person, at most (default: %(default)s)")
    add("--minutes", type=amount, default=8.0, help="end a person's recording after this long (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the order of clips")
    default = os.environ.get("ACTREC_DATA", "data")
    add("--data", type=Path, default=Path(default), help="folder of the datasets (default: %(default)s)")
    options = parser.parse_args(arguments)
    rows = []
    for model in options.models:
        session = inference.load(model)
        for name in options.sets:
            recordings = person_streams(session, name, options)
            figures = evaluate(session, recordings).figures()
            rows.append({"model": model, "set": name, **{COLUMNS[key]: figures[key] for key in COLUMNS}})
    return {"events": rows}


def person_streams(session: Session, name: str, options: argparse.Namespace) -> list[ActionStream]:
    """Return one recording for each of some people of a dataset."""
    source = Everyday(options.data, sets=[name])
    own = {entry.name: source.source(name).classes[entry.label] for entry in source.source(name).entries()}
    is_home = session.package.provenance.dataset in (name, "everyday")
    people: dict[str, list[Entry]] = {}
    for entry in [*source.entries(), *source.unknown_entries()]:
        if not is_home or entry.meta["own"] == "test":
            people.setdefault(str(entry.meta["subject"]), []).append(entry)
    made, generator = [], np.random.default_rng(options.seed)
    for person in sorted(people)[: options.people]:
        clips, labels, seconds = [], [], 0.0
        for index in generator.permutation(len(people[person]))[: options.clips]:
            clip = source.read(entry := people[person][int(index)])
            seconds += float(clip.stamps_ns[-1] - clip.stamps_ns[0]) / 1e9
            clips.append(clip)
            is_known = entry.label >= 0
            labels.append(source.classes[entry.label] if is_known else own[entry.name.removeprefix(f"{name}/")])
            if seconds > 60 * options.minutes:
                break
        made.append(streams.join_clips(person, clips, labels))
    return made


def evaluate(session: Session, recordings: list[ActionStream]) -> StreamScore:
    """Return the sum of the scores, in classes of `everyday`."""
    dataset, total = session.package.provenance.dataset, StreamScore()
    classes = {label: everyday_class(dataset, label) for label in session.package.labels}
    for recording in recordings:
        events, labels = streams.play(session, recording.sequence)
        total.add(
            streams.score(
                recording,
                [dataclasses.replace(event, label=classes[event.label]) for event in events],
                [dataclasses.replace(label, label=classes.get(label.label, label.label)) for label in labels],
                set(classes.values()),
            )
        )
    return total


def everyday_class(dataset: str, label: str) -> str:
    """Return the class of `everyday` of another dataset's label; the label itself if there is none."""
    actions = () if dataset == "everyday" else vocabulary().actions(dataset, label, "") or ()
    return actions[0][0] if actions else label
