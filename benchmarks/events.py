"""`actrec bench events`: events of continuous recordings, put together from the clips of people in several datasets.

Clips of each person follow one another in random order with waiting in between, also clips of actions that no class of
`everyday` has. CAD-60's recordings of a minute are played as they are. A model gets only the test part of the datasets
that it was trained on, and all people of the others. Labels are compared as classes of `everyday`, or else by their own
names.
"""

import argparse
import os
from pathlib import Path
from typing import Any

from actrec import datasets, inference
from actrec.cli import Parser, amount, count
from actrec.datasets.base import Clip
from actrec.datasets.everyday import SETS
from actrec.inference.session import Session
from actrec.types import UNKNOWN
from actrec_models.data.continuous import ActionStream, join_clips, person_streams
from actrec_models.evaluation import elsewhere

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
    "label_changes_per_found_action": "changes an action found",
}


def measure(arguments: list[str]) -> dict[str, Any]:
    """Return the figures of each model on each dataset."""
    parser = Parser("actrec bench events", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--models", nargs="+", default=MODELS, metavar="MODEL", help="model packages of skeletons")
    add("--sets", nargs="+", default=SETS, choices=SETS, help="datasets (default: all)")
    add("--people", type=count, default=elsewhere.PEOPLE, help="people of each dataset (default: %(default)s)")
    add("--clips", type=count, default=elsewhere.CLIPS, help="clips of each person, at most (default: %(default)s)")
    add("--minutes", type=amount, default=8.0, help="end a person's recording after this long (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the order of clips")
    default = os.environ.get("ACTREC_DATA", "data")
    add("--data", type=Path, default=Path(default), help="folder of the datasets (default: %(default)s)")
    options = parser.parse_args(arguments)
    rows = []
    for model in options.models:
        session = inference.load(model)
        for name in options.sets:
            recordings = continuous(session, name, options)
            figures = elsewhere.play_all(session, recordings).figures()
            rows.append({"model": model, "set": name, **{COLUMNS[key]: figures[key] for key in COLUMNS}})
    return {"events": rows}


def continuous(session: Session, name: str, options: argparse.Namespace) -> list[ActionStream]:
    """Return one recording for each of some people of a dataset, or CAD-60's own, in classes of `everyday`."""
    trained = session.package.provenance
    is_home = trained.dataset in (name, "everyday")
    split = trained.split if trained.dataset == "everyday" else "own"
    fold = {key: value for key, value in trained.settings.get("dataset_options", {}).items() if key == "fold"}
    fold = fold if split == "leave_one_set_out" else {}
    parts = ["test"] if is_home else ["train", "test"]
    made: list[ActionStream] = []
    for part in parts:
        chosen = {"split": split, "part": part, "sets": [name], "trim": False, **fold}
        known = datasets.create("everyday", options.data, **chosen)
        unknown = datasets.create_unknown("everyday", options.data, **chosen)
        if name == "cad60":
            made += [whole_recording(known[i], known.classes[label]) for i, label in enumerate(known.labels)]
            made += [whole_recording(unknown[i], UNKNOWN) for i in range(len(unknown))]
        elif len(made) < options.people:
            limits = options.people - len(made), options.clips, options.minutes, options.seed
            made += person_streams(known, unknown, *limits)
    return made


def whole_recording(clip: Clip, label: str) -> ActionStream:
    """Return a recording of one long activity as it is."""
    return join_clips(clip.name, [clip], [label])
