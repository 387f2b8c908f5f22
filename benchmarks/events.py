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

from actrec import inference
from actrec.cli import Parser, amount, count
from actrec.datasets.everyday import SETS
from actrec_models.evaluation import elsewhere
from actrec_models.evaluation.elsewhere import Share

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
    limits = {name: getattr(options, name) for name in ("people", "clips", "minutes", "seed")}
    rows = []
    for model in options.models:
        session = inference.load(model)
        is_home = session.package.provenance.dataset in options.sets
        home = [Share(session.package.provenance.dataset, "own")] if is_home else []
        for share in [*home, *elsewhere.shares(session.package, str(options.data), options.sets)]:
            recordings = elsewhere.recordings(str(options.data), share, {}, **limits)
            figures = elsewhere.play_all(session, recordings).figures()
            rows.append({"model": model, "set": share.name, **{COLUMNS[key]: figures[key] for key in COLUMNS}})
    return {"events": rows}
