"""`actrec bench rendered-skeletons`: packages on test recordings as the perception finds them in rendered images.

Every n-th recording of N-UCLA's or UTD-MHAD's test part moves the simulated actor, filmed with sensor noise; the
estimators find it again, and packages are asked once, at its end. Offline, and no frame is lost: `simulated-nucla` runs
the live graph.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actrec import inference
from actrec.cli import Parser
from actrec.cli.arguments import amount, count
from actrec.errors import ConfigError, InputError
from actrec_models import data, evaluation
from actrec_models.data import ClipDataset, rendered

PACKAGES = {
    "nucla": "deepacts_graph_nucla,deepacts_graph_motion_nucla",
    "utd_mhad": "sem_net_utd_mhad,deepacts_graph_utd_mhad",
}


def measure(arguments: Sequence[str]) -> dict[str, Any]:
    """The benchmark `rendered-skeletons`; see the module."""
    args = _parser().parse_args(list(arguments))
    classes = data.create(args.dataset, data.folder(args.data, args.dataset), part="test").classes
    names = (args.packages or PACKAGES[args.dataset]).split(",")
    sessions = [_session(name, classes) for name in names]
    clips, left_out = _clips(args)
    if not clips:
        raise InputError("nobody is seen in any of the clips")
    found = ClipDataset(clips, classes)
    return {
        "dataset": args.dataset,
        "clips": len(found),
        "left out": len(left_out),
        "packages": [{"package": session.package.name, **scores(session, found)} for session in sessions],
    }


def _parser() -> argparse.ArgumentParser:
    parser = Parser("actrec bench rendered-skeletons", description="Packages on rendered test recordings.")
    parser.add_argument("--data", default=os.environ.get("ACTREC_DATA", "../shared/data"), help="folder of datasets")
    parser.add_argument("--dataset", choices=rendered.DATASETS, default="utd_mhad", help="(default: %(default)s)")
    parser.add_argument("--packages", help="names or folders with commas between (default: the dataset's shipped ones)")
    parser.add_argument("--every", type=count, default=6, help="take every n-th clip (default: %(default)s)")
    parser.add_argument("--fps", type=amount, default=15.0, help="of the rendering (default: 15)")
    parser.add_argument("--workers", type=count, default=2, help="processes that render (default: %(default)s)")
    parser.add_argument("--clips", type=Path, metavar="NPZ", help="keep what was rendered, or take what is kept there")
    return parser


def _session(name: str, classes: Sequence[str]) -> inference.Session:
    """The package, which must know these classes."""
    session = inference.load(name)
    if session.package.labels != tuple(classes):
        raise ConfigError(f"{name} does not have the dataset's {len(classes)} classes")
    return session


def _clips(args: argparse.Namespace) -> tuple[list[data.Clip], list[str]]:
    """What the estimators find, and what is left out."""
    if args.clips is not None and args.clips.is_file():
        return rendered.read(args.clips), []
    chosen = rendered.recordings(args.dataset, Path(args.data), "test")[:: args.every]
    clips, left_out = rendered.estimate_all(chosen, args.fps, args.workers)
    print("".join(f"{line}\n" for line in left_out), end="", file=sys.stderr)
    if args.clips is not None:
        rendered.write(args.clips, clips)
    return clips, left_out


def scores(session: inference.Session, clips: ClipDataset) -> dict[str, int]:
    """How many clips a package knows in the window that the recognizer has at their end."""
    probabilities = session.softmax(evaluation.score(session, clips, "live").logits)
    right = probabilities.argmax(axis=1) == clips.labels
    accepted = probabilities.max(axis=1) >= session.package.rejection.threshold
    counted = {"right": right, "right and accepted": right & accepted, "wrong and accepted": ~right & accepted}
    return {name: int(np.count_nonzero(which)) for name, which in counted.items()}
