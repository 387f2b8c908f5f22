"""`actrec bench teach`: `actrec teach` on a few UTD-MHAD actions, evaluated on new people.

Twelve clips each of five actions by the odd subjects are written as a user's folder (bags of skeletons and labels.csv);
the package is scored on all clips of the even subjects: clips of the five actions, and as `unknown` clips of the other
22, which it was not trained on. The actions were chosen beforehand: "easy" are five that clearly differ, "hard"
five strokes of one hand that differ by its path alone. With `--unknown N`, N clips each of every second of the other
actions are labeled `unknown`; clips of the rest are new to the package.
"""

import argparse
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actrec import datasets, inference
from actrec.cli import Parser
from actrec.cli.arguments import amount
from actrec.datasets.base import Clip, ClipDataset
from actrec.recordings.labels import LABELS_FILE, LabeledClip, write_labels
from actrec.recordings.rosbag.bag_writer import SKELETONS_TOPIC, BagWriter
from actrec.types import UNKNOWN, Body
from actrec.utils import config
from actrec_models import evaluation
from actrec_models.finetune import fine_tuning, results
from actrec_models.finetune.fine_tuning import TeachConfig

SETS = {
    "easy": ("wave", "clap", "boxing", "sit to stand", "squat"),
    "hard": ("swipe left", "swipe right", "draw x", "draw circle clockwise", "draw triangle"),
}

CLIPS = 12


def teach(arguments: Sequence[str]) -> dict[str, Any]:
    """Return the benchmark `teach`; see the module."""
    args = _parser().parse_args(list(arguments))
    root = datasets.folder(args.data, "utd_mhad")
    train, test = (datasets.create("utd_mhad", root, part=part) for part in datasets.PARTS)
    given = {name: getattr(args, name) for name in ("steps", "rehearsals", "minutes", "seed")}
    settings = config.build(TeachConfig, {k: v for k, v in given.items() if v is not None})
    rows = []
    for name in args.sets.split(","):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / name
            shown = [c for c in train.classes if c not in SETS[name]][::2] if args.unknown else []
            write_folder(
                folder, train, {**dict.fromkeys(SETS[name], CLIPS), **dict.fromkeys(shown, args.unknown)}, shown
            )
            lesson = fine_tuning.teach(folder, settings, threads=args.threads)
            package = results.write(lesson, Path(scratch) / f"{name}_model", "actrec bench teach", settings.seed)
            rows.append({"set": name, **scores(inference.load(package.path), test, shown), **_of(lesson)})
    return {
        "unknown": args.unknown,
        "steps": settings.steps,
        "rehearsals": settings.rehearsals,
        "seed": settings.seed,
        "sets": rows,
    }


def _parser() -> argparse.ArgumentParser:
    parser = Parser("actrec bench teach", description="Teaches five actions of UTD-MHAD.")
    parser.add_argument("--data", default=os.environ.get("ACTREC_DATA", "data"), help="folder of datasets")
    parser.add_argument("--sets", default=",".join(SETS), help=f"of {', '.join(SETS)} (default: all)")
    parser.add_argument(
        "--unknown", type=int, default=0, metavar="N", help="clips labeled unknown of each of 11 others"
    )
    parser.add_argument("--steps", type=int, help="as of actrec teach")
    parser.add_argument("--rehearsals", type=int, help="as of actrec teach")
    parser.add_argument("--minutes", type=amount, help="as of actrec teach")
    parser.add_argument("--seed", type=int, help="as of actrec teach")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: all)")
    return parser


def write_folder(folder: Path, clips: ClipDataset, actions: Mapping[str, int], unknown: Sequence[str] = ()) -> None:
    """Write so many clips of each action, taken turn about from the subjects, as a user's recordings.

    Args:
        folder: To make.
        clips: Of UTD-MHAD.
        actions: Name to number of clips.
        unknown: Those among them that are labeled `unknown`.
    """
    folder.mkdir(parents=True)
    lines = []
    for action, count in actions.items():
        mine = list(np.flatnonzero(clips.labels == clips.classes.index(action)))
        mine.sort(key=lambda i: (clips.metas[i]["trial"], clips.metas[i]["subject"]))
        for i in mine[:count]:
            clip = clips[int(i)]
            write_bag(folder / clip.name, clip)
            label = UNKNOWN if action in unknown else action
            lines.append(LabeledClip(clip.name, label, person=f"subject {clips.metas[i]['subject']}"))
    write_labels(folder / LABELS_FILE, lines)


def write_bag(path: Path, clip: Clip) -> None:
    """Write a clip's first body as `actrec record` does."""
    pixels = np.full((25, 2), np.nan, np.float32)
    with BagWriter(path) as bag:
        for stamp, positions in zip(clip.stamps_ns, clip.bodies[0], strict=True):
            known = np.isfinite(positions).all(axis=-1).astype(np.float32)
            body = Body("body_1", "kinect_v2_25", positions, pixels, known)
            bag.write_bodies(SKELETONS_TOPIC, int(stamp) + 1_000_000_000, "camera", [body])


def scores(session: inference.Session, test: ClipDataset, shown: Sequence[str] = ()) -> dict[str, Any]:
    """How a package does on people whom it has not seen, and on actions of no class, `shown` as unknown or not."""
    names = np.array([test.classes[label] for label in test.labels])
    known = np.flatnonzero(np.isin(names, session.package.labels))
    others = np.flatnonzero(~np.isin(names, session.package.labels))
    ours, theirs = (_probabilities(session, test, chosen) for chosen in (known, others))
    right = np.array(session.package.labels)[ours.argmax(axis=1)] == names[known]
    threshold = session.package.rejection.threshold
    accepted = ours.max(axis=1) >= threshold
    refused, new = theirs.max(axis=1) < threshold, ~np.isin(names[others], shown)
    figures = {}
    if shown:
        figures = {"others shown as unknown": int((~new).sum()), "of these rejected": float(refused[~new].mean())}
    return {
        **figures,
        "test_clips": len(known),
        "accuracy": float(right.mean()),
        "right_and_accepted": float((right & accepted).mean()),
        "rejected": float((~accepted).mean()),
        "wrong_and_accepted": float((~right & accepted).mean()),
        "other_clips": int(new.sum()),
        "others_rejected": float(refused[new].mean()),
    }


def _probabilities(session: inference.Session, test: ClipDataset, chosen: np.ndarray) -> np.ndarray:
    clips = ClipDataset([test[int(i)] for i in chosen], test.classes, test.layout)
    return session.softmax(evaluation.score(session, clips).logits)


def _of(lesson: fine_tuning.FineTuned) -> dict[str, Any]:
    figures = results.report(lesson)
    names = (
        "judged_by",
        "accuracy",
        "rehearsed",
        "rehearsed_clips",
        "threshold",
        "steps",
        "minutes",
        "processor_minutes",
    )
    return {f"own {name}" if name == "accuracy" else name: figures[name] for name in names}
