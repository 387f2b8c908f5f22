"""`actrec bench rendered` and `actrec bench teach`: short trainings from clips to package.

`rendered` trains every RGB and flow network, small, on clips of the simulated camera: a test of rendering, preparation,
training, export and evaluation, whose accuracies say nothing about people. `teach` runs `actrec teach` on UTD-MHAD.
"""

import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actrec import datasets, inference
from actrec.cli import Parser
from actrec.datasets.base import Clip, ClipDataset
from actrec.inference import package
from actrec.recordings.labels import LABELS_FILE, LabeledClip, write_labels
from actrec.recordings.rosbag.bag_writer import SKELETONS_TOPIC, BagWriter
from actrec.types import UNKNOWN, Body
from actrec.utils import config
from actrec.utils.errors import ConfigError
from actrec_models import evaluation
from actrec_models.data.rendered import RenderedRgbd
from actrec_models.evaluation import elsewhere
from actrec_models.finetune import fine_tuning
from actrec_models.finetune.fine_tuning import TeachConfig
from actrec_models.training import recipe
from benchmarks import output

RECIPES = Path(__file__).parents[1] / "models/recipes"

# -- rendered ----------------------------------------------------------------------------------------------------------


def rendered(arguments: list[str]) -> dict[str, Any]:
    """Render the clips, then train, export and score each network."""
    parser = Parser(
        prog="actrec bench rendered",
        description=f"{RenderedRgbd.caveat} Trains every RGB and flow network, small, and scores its package.",
        epilog="Example: actrec bench rendered --networks c3d_flow_at1,p_i3d --threads 2",
    )
    parser.add_argument("--networks", default="", help="names with commas between (default: every recipe there is)")
    parser.add_argument("--out", type=Path, default=Path("runs/rendered"), help="clips and runs (default: %(default)s)")
    parser.add_argument("--recipes", type=Path, help="folder of the recipes (default: the recipes of actrec)")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="of the dataset; repeatable")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of a training (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="processes that render; 0: one (default: %(default)s)")
    args = parser.parse_args(arguments)
    recipes = args.recipes or RECIPES / "rendered"
    names = _names(recipes, args.networks)
    data = args.out / "data"
    options = [word for entry in args.option for word in ("--option", entry)]
    streams = ["--streams", "bodies,hands,motion,flow,color"]
    _actrec("prepare", "rendered", "--out", data / "rendered", *streams, "--workers", args.workers, *options)
    rows = []
    for number, name in enumerate(names, start=1):
        print(f"[{number}/{len(names)}] {name}", file=sys.stderr, flush=True)
        rows.append(_row(recipes / f"{name}.yaml", data, args.out / name, args.threads))
    return {"caveat": RenderedRgbd.caveat, "options": config.parse_pairs(args.option, "--option"), "networks": rows}


def _names(folder: Path, wanted: str) -> list[str]:
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    names = wanted.split(",") if wanted else known
    unknown = [name for name in names if name not in known]
    if unknown or not known:
        raise ConfigError(f"no recipe {', '.join(unknown)} in '{folder}'; there are: {', '.join(known) or 'none'}")
    return names


def _row(path: Path, data: Path, out: Path, threads: int) -> dict[str, Any]:
    """Train a network, or resume its training, export and score it."""
    read = recipe.read(path)
    _actrec("train", path, "--data", data, "--out", out, "--threads", threads, "--quiet")
    _actrec("export", out / "last.ckpt", "--data", data, "--out", out / path.stem, "--overwrite")
    scored = json.loads(_actrec("eval", out / path.stem, "--data", data, "--json", "--quiet"))
    made = package.load(out / path.stem)
    return {
        "network": path.stem,
        "inputs": ", ".join(spec.modality for spec in made.inputs),
        "parameters": made.provenance.figures["parameters"],
        "epochs": sum(stage.epochs for stage in read.plan()),
        "chance": 1 / len(made.labels),
        "held_out_actors": scored["accuracy"],
        "test_clips": scored["clips"],
        "minutes": round(60 * made.provenance.hours, 2),
    }


def _actrec(command: str, *arguments: object) -> str:
    """Run a command in a process of its own and return its output; raise ActrecError if it fails."""
    return output(f"actrec {command} {arguments[0]}", "-m", "actrec", command, *map(str, arguments))


# -- teach -------------------------------------------------------------------------------------------------------------

SETS = {
    "easy": ("wave", "clap", "boxing", "sit to stand", "squat"),
    "new": ("cross arms on the chest", "baseball swing", "arm curl", "tennis serve", "knock on door"),
    "hard": ("swipe left", "swipe right", "draw x", "draw circle clockwise", "draw triangle"),
}
"""Actions that clearly differ; actions without a class in `everyday`; strokes of one hand that differ by its path."""


def teach(arguments: Sequence[str]) -> dict[str, Any]:
    """Fine-tune packages as `actrec teach`, and compare their reports with their accuracy on new people.

    Each case is a base package, a set of five actions, a number of clips, a time limit, and a load. The first clips of
    UTD-MHAD's odd subjects are written as a user's folder. The package is scored on all clips of the even subjects: the
    five actions, and as `unknown` the other 22. With `--unknown N`, N clips each of every second of the other actions
    are labeled `unknown`; clips of the rest are new to the package.

    The taught clips are in the training of `joint_tcn_everyday`, the `new` actions as `unknown`. For bases that never
    saw UTD-MHAD, as `joint_tcn_open` or a network of split leave_one_set_out, give --from.
    """
    parser = Parser("actrec bench teach", description="Teaches five actions of UTD-MHAD.")
    parser.add_argument("--data", default=os.environ.get("ACTREC_DATA", "data"), help="folder of datasets")
    lists = {
        "from": (TeachConfig.base, "base packages"),
        "sets": (",".join(SETS), "sets of actions"),
        "clips": ("3,10", "clips of each action"),
        "minutes": ("10", "time limits"),
        "load": ("idle", "idle, or busy: every CPU core runs another process"),
    }
    for name, (default, text) in lists.items():
        parser.add_argument(f"--{name}", default=default, help=f"{text}, with commas between (default: {default})")
    parser.add_argument(
        "--unknown", type=int, default=0, metavar="N", help="clips labeled unknown of each of 11 others"
    )
    for name in ("steps", "rehearsals", "seed"):
        parser.add_argument(f"--{name}", type=int, help="as of actrec teach")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: all)")
    args = parser.parse_args(list(arguments))
    root = datasets.folder(args.data, "utd_mhad")
    train, test = (datasets.create("utd_mhad", root, part=part) for part in datasets.PARTS)
    given = {name: value for name in ("steps", "rehearsals", "seed") if (value := getattr(args, name)) is not None}
    rows = []
    for case in itertools.product(*(str(vars(args)[name]).split(",") for name in lists)):
        base, name, clips, minutes, load = case
        settings = config.build(TeachConfig, {**given, "base": base, "minutes": float(minutes)})
        shown = [c for c in train.classes if c not in SETS[name]][::2] if args.unknown else []
        actions = {**dict.fromkeys(SETS[name], int(clips)), **dict.fromkeys(shown, args.unknown)}
        with tempfile.TemporaryDirectory() as scratch, _loaded(load):
            folder = Path(scratch) / "mine"
            write_folder(folder, train, actions, shown)
            lesson = fine_tuning.teach(folder, settings, threads=args.threads)
            written = fine_tuning.write(lesson, Path(scratch) / "taught", "actrec bench teach", settings.seed)
            is_trained = "utd_mhad" in elsewhere.trained_sets(lesson.base)
            row = {"base": base, "base trained on UTD-MHAD": is_trained, "set": name, "clips": int(clips),
                   "minutes allowed": float(minutes), "load": load}  # fmt: skip
            found = scores(inference.load(written.path), test, shown)
            rows.append({**row, **found, **_lesson(lesson, found["accuracy"])})
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    gaps = [abs(row["report minus truth"]) for row in rows]
    chosen = {name: getattr(settings, name) for name in ("steps", "rehearsals", "seed")}
    return {"unknown": args.unknown, **chosen, "largest gap": max(gaps), "cases": rows}


@contextlib.contextmanager
def _loaded(load: str) -> Iterator[None]:
    """Keep every CPU core busy with another process meanwhile, if the load is "busy"."""
    if load not in ("idle", "busy"):
        raise ConfigError(f"--load is '{load}'; known: idle, busy")
    count = os.cpu_count() or 1 if load == "busy" else 0
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in others:
            process.kill()
            process.wait()


def write_folder(folder: Path, clips: ClipDataset, actions: Mapping[str, int], unknown: Sequence[str] = ()) -> None:
    """Write clips of UTD-MHAD as a user's recordings, from all subjects in turn.

    Args:
        folder: Is made.
        clips: Of UTD-MHAD.
        actions: Name to number of clips.
        unknown: Actions labeled `unknown`.
    """
    folder.mkdir(parents=True)
    lines = []
    for action, number in actions.items():
        mine = list(np.flatnonzero(clips.labels == clips.classes.index(action)))
        mine.sort(key=lambda i: (clips.metas[i]["trial"], clips.metas[i]["subject"]))
        for i in mine[:number]:
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
    """Score a package on new people, and on other actions, of which `shown` were labeled unknown."""
    names = np.array([test.classes[label] for label in test.labels])
    known = np.flatnonzero(np.isin(names, session.package.labels))
    others = np.flatnonzero(~np.isin(names, session.package.labels))
    ours, theirs = (_probabilities(session, test, chosen) for chosen in (known, others))
    right = np.array(session.package.labels)[ours.argmax(axis=1)] == names[known]
    accepted, refused = ~session.is_rejected(ours), session.is_rejected(theirs)
    new = ~np.isin(names[others], shown)
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
        "unknown_rejected": float(refused[new].mean()),
    }


def _probabilities(session: inference.Session, test: ClipDataset, chosen: np.ndarray) -> np.ndarray:
    clips = ClipDataset([test[int(i)] for i in chosen], test.classes, test.layout)
    return session.softmax(evaluation.score(session, clips).logits)


def _lesson(lesson: fine_tuning.FineTuned, truth: float) -> dict[str, Any]:
    figures = fine_tuning.report(lesson)
    names = ("accuracy_interval", "procedure", "head_accuracy", "fine_tuned_accuracy", "not_fine_tuned",
             "threshold", "steps", "minutes", "processor_minutes")  # fmt: skip
    own = {"evaluated_by": figures["evaluated_by"], "report": figures["accuracy"]}
    return {**own, "report minus truth": figures["accuracy"] - truth, **{name: figures[name] for name in names}}
