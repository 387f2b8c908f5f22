"""`actrec bench rendered`: trains every RGB and flow network, small, on the simulated camera's clips.

A test of the machinery, from rendering through preparation, training and export to evaluation of the package. Its
accuracies say nothing about people.

`actrec bench rendered-skeletons`: packages on test recordings as the perception finds them in rendered images.

Every n-th recording of N-UCLA's or UTD-MHAD's test part moves the simulated actor, rendered with sensor noise; the
estimators find it again, and packages are asked once, at its end. Offline, and no frame is lost: `simulated-nucla` runs
the live graph.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actrec import datasets, inference
from actrec.cli import Parser
from actrec.cli.arguments import amount, count
from actrec.datasets.base import ClipDataset
from actrec.inference import package
from actrec.utils import config
from actrec.utils.errors import ActrecError, ConfigError, InputError
from actrec_models import evaluation
from actrec_models.data import rendered_skeletons
from actrec_models.data.rendered import RenderedRgbd
from actrec_models.training import recipe
from benchmarks import pages

PAGE = Path("docs/benchmarks.md")

STREAMS = "bodies,hands,motion,flow,color"

_HEAD = ("network", "inputs", "parameters", "epochs", "chance", "held-out actors", "minutes of training")


def rendered(arguments: list[str]) -> dict[str, Any]:
    """Prepare the clips, trains by every recipe in turn, exports each network and scores the package."""
    args = _parser().parse_args(arguments)
    recipes = args.recipes or recipe.folder("rendered")
    names = _names(recipes, args.networks)
    if args.write is not None:
        pages.around(args.write, "rendered")  # report a wrong page before an hour of work
    data = args.out / "data"
    options = [word for entry in args.option for word in ("--option", entry)]
    prepared = data / "rendered"
    _actrec("prepare", "rendered", "--out", prepared, "--streams", STREAMS, "--workers", args.workers, *options)
    rows = []
    for number, name in enumerate(names, start=1):
        print(f"[{number}/{len(names)}] {name}", file=sys.stderr, flush=True)
        rows.append(_row(recipes / f"{name}.yaml", data, args.out / name, args.threads))
    figures = {"caveat": RenderedRgbd.caveat, "options": config.parse_pairs(args.option, "--option"), "networks": rows}
    if args.write is not None:
        pages.write(args.write, "rendered", table(figures))
    return figures


def _parser() -> argparse.ArgumentParser:
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
    parser.add_argument(
        "--write", type=Path, nargs="?", const=PAGE, help=f"put the table between the marks of this page ({PAGE})"
    )
    return parser


def _names(folder: Path, wanted: str) -> list[str]:
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    names = wanted.split(",") if wanted else known
    unknown = [name for name in names if name not in known]
    if unknown or not known:
        raise ConfigError(f"no recipe {', '.join(unknown)} in '{folder}'; there are: {', '.join(known) or 'none'}")
    return names


def _row(path: Path, data: Path, out: Path, threads: int) -> dict[str, Any]:
    """One network: trained, or trained on where a run was stopped, exported and scored."""
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
    """Run a command in its own process and return its output.

    Raises:
        ActrecError: It failed; it has said why.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    words = [sys.executable, "-m", "actrec", command, *map(str, arguments)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, env=environment, check=False)
    if done.returncode:
        raise ActrecError(f"actrec {command} failed (exit status {done.returncode}); see above")
    return done.stdout


# -- the page ----------------------------------------------------------------------------------------------------------


def table(figures: dict[str, Any]) -> str:
    """Format the figures as a markdown table below a note on their limits."""
    rows = [
        (f"`{r['network']}`", r["inputs"], f"{r['parameters']:,}", r["epochs"], f"{r['chance']:.1%}",
         f"**{r['held_out_actors']:.1%}** of {r['test_clips']}", f"{r['minutes']:.1f}")
        for r in figures["networks"]
    ]  # fmt: skip
    lines = [_HEAD, ["---"] * len(_HEAD), *rows]
    options = ", ".join(f"{key} {value}" for key, value in figures["options"].items())
    told = f"{figures['caveat']}{f' Options of the dataset: {options}.' if options else ''}"
    return f"{told}\n\n" + "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


PACKAGES = {
    "nucla": "deepacts_graph_nucla,deepacts_graph_motion_nucla",
    "utd_mhad": "sem_net_utd_mhad,deepacts_graph_utd_mhad",
}


def measure(arguments: Sequence[str]) -> dict[str, Any]:
    """Return the benchmark `rendered-skeletons`; see the module."""
    args = _skeletons_parser().parse_args(list(arguments))
    classes = datasets.create(args.dataset, datasets.folder(args.data, args.dataset), part="test").classes
    names = (args.packages or PACKAGES[args.dataset]).split(",")
    sessions = [_session(name, classes) for name in names]
    clips, left_out = _clips(args)
    if not clips:
        raise InputError("no person is detected in any of the clips")
    found = ClipDataset(clips, classes)
    return {
        "dataset": args.dataset,
        "clips": len(found),
        "left out": len(left_out),
        "packages": [{"package": session.package.name, **scores(session, found)} for session in sessions],
    }


def _skeletons_parser() -> argparse.ArgumentParser:
    parser = Parser("actrec bench rendered-skeletons", description="Packages on rendered test recordings.")
    parser.add_argument("--data", default=os.environ.get("ACTREC_DATA", "data"), help="folder of datasets")
    parser.add_argument("--dataset", choices=tuple(PACKAGES), default="utd_mhad", help="(default: %(default)s)")
    parser.add_argument("--packages", help="names or folders with commas between (default: the dataset's shipped ones)")
    parser.add_argument("--every", type=count, default=6, help="take every n-th clip (default: %(default)s)")
    parser.add_argument("--fps", type=amount, default=15.0, help="of the rendering (default: 15)")
    parser.add_argument("--workers", type=count, default=2, help="processes that render (default: %(default)s)")
    parser.add_argument(
        "--clips", type=Path, metavar="NPZ", help="save the rendered clips here, or use the ones saved here"
    )
    return parser


def _session(name: str, classes: Sequence[str]) -> inference.Session:
    """Return the package, which must know these classes."""
    session = inference.load(name)
    if session.package.labels != tuple(classes):
        raise ConfigError(f"{name} does not have the dataset's {len(classes)} classes")
    return session


def _clips(args: argparse.Namespace) -> tuple[list[datasets.Clip], list[str]]:
    """Return the share of detected people, and the missing ones."""
    if args.clips is not None and args.clips.is_file():
        return rendered_skeletons.read(args.clips), []
    test = datasets.create(args.dataset, datasets.folder(args.data, args.dataset), part="test")
    clips, left_out = rendered_skeletons.estimate_all(test, args.every, args.fps, args.workers)
    print("".join(f"{line}\n" for line in left_out), end="", file=sys.stderr)
    if args.clips is not None:
        rendered_skeletons.write(args.clips, clips)
    return clips, left_out


def scores(session: inference.Session, clips: ClipDataset) -> dict[str, int]:
    """How many clips a package knows in the window that the recognizer has at their end."""
    probabilities = session.softmax(evaluation.score(session, clips, "live").logits)
    right = probabilities.argmax(axis=1) == clips.labels
    accepted = probabilities.max(axis=1) >= session.package.rejection.threshold
    counted = {"right": right, "right and accepted": right & accepted, "wrong and accepted": ~right & accepted}
    return {name: int(np.count_nonzero(which)) for name, which in counted.items()}
