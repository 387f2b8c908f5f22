"""`actrec bench events`: events of continuous recordings, put together from the clips of people in several datasets.

Clips of each person follow one another in random order with waiting in between, also clips of actions that no class of
`everyday` has. CAD-60's recordings of a minute are played as they are. A model gets only the test part of the datasets
that it was trained on, and all people of the others. Labels are compared as classes of `everyday`, or else by their own
names.

`--drive`, `--fps` and `--hide-legs` are for another camera: it drives on a robot, has another frame rate, or a
table hides the legs.
"""

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from actrec import inference
from actrec.cli import Parser, amount, count
from actrec.datasets.everyday import SETS
from actrec.skeleton import windows
from actrec.skeleton.layouts import KINECT_V2_25
from actrec.skeleton.sequence import from_joints
from actrec.types import NANOSECONDS
from actrec_models.data.continuous import ActionStream
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


LEG_M = 1.5

_LEGS = [KINECT_V2_25.index[f"{joint}_{side}"] for joint in ("knee", "ankle", "foot") for side in ("left", "right")]


def seen(recording: ActionStream, drive_m_s: float, fps: float | None, hide_legs: bool) -> ActionStream:
    """Return a recording as another camera sees it: one that drives, has another rate, or does not see the legs."""
    sequence = recording.sequence
    stamps, bodies = sequence.stamps_ns, sequence.bodies
    if fps:
        wanted = np.arange(stamps[0], stamps[-1], NANOSECONDS / fps).astype(np.int64)
        bodies, stamps = np.stack([windows.resample(stamps, body, wanted) for body in bodies]), wanted
    if drive_m_s:
        way = drive_m_s * (stamps - stamps[0]) / NANOSECONDS
        place = LEG_M - np.abs((way + LEG_M) % (4 * LEG_M) - 2 * LEG_M)
        bodies = bodies - place[:, None, None] * np.array([0.8, 0.0, 0.6], np.float32)
    if hide_legs:
        bodies = bodies.copy()
        bodies[:, :, _LEGS] = np.nan
    made = from_joints(sequence.name, stamps, bodies.astype(np.float32), meta=sequence.meta, up=sequence.up)
    return replace(recording, sequence=made)


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
    add("--drive", type=amount, metavar="M_S", help=f"the camera drives so fast, aslant, {LEG_M:g} m to each side")
    add("--fps", type=amount, help="frames a second (default: the datasets' own)")
    add("--hide-legs", action="store_true", help="the camera does not see the legs")
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
            recordings = [seen(each, options.drive or 0.0, options.fps, options.hide_legs) for each in recordings]
            figures = elsewhere.play_all(session, recordings).figures()
            rows.append({"model": model, "set": share.name, **{COLUMNS[key]: figures[key] for key in COLUMNS}})
    return {"events": rows}
