"""`actrec bench rendered`: trains every RGB and flow network, small, on the simulated camera's clips.

A test of the machinery, from rendering through preparation, training and export to evaluation of the package. Its
accuracies say nothing about people.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from actrec import keyvalues, package
from actrec.cli import Parser
from actrec.errors import ActrecError, ConfigError
from actrec_models import page, recipe, recipe_files
from actrec_models.data.rendered_rgbd import RenderedRgbd

PAGE = Path("docs/benchmarks.md")
STREAMS = "bodies,hands,motion,flow,colour"
_HEAD = ("network", "inputs", "parameters", "epochs", "chance", "held-out actors", "minutes of training")


def rendered(arguments: list[str]) -> dict[str, Any]:
    """Prepares the clips, trains by every recipe in turn, exports each network and scores the package."""
    args = _parser().parse_args(arguments)
    recipes = args.recipes or recipe_files.folder("rendered")
    names = _names(recipes, args.networks)
    if args.write is not None:
        page.around(args.write, "rendered")  # a wrong page is said before an hour of work, not after
    data = args.out / "data"
    options = [word for entry in args.option for word in ("--option", entry)]
    prepared = data / "rendered"
    _actrec("prepare", "rendered", "--out", prepared, "--streams", STREAMS, "--workers", args.workers, *options)
    rows = []
    for number, name in enumerate(names, start=1):
        print(f"[{number}/{len(names)}] {name}", file=sys.stderr, flush=True)
        rows.append(_row(recipes / f"{name}.yaml", data, args.out / name, args.threads))
    figures = {"caveat": RenderedRgbd.caveat, "options": keyvalues.read(args.option, "--option"), "networks": rows}
    if args.write is not None:
        page.write(args.write, "rendered", table(figures))
    return figures


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="actrec bench rendered",
        description=f"{RenderedRgbd.caveat} Trains every RGB and flow network, small, and scores its package.",
        epilog="Example: actrec bench rendered --networks c3d_flow_at1,p_i3d --threads 2",
    )
    parser.add_argument("--networks", default="", help="names with commas between (default: every recipe there is)")
    parser.add_argument("--out", type=Path, default=Path("runs/rendered"), help="clips and runs (default: %(default)s)")
    parser.add_argument("--recipes", type=Path, help="folder of the recipes (default: those that come with actrec)")
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
    """Runs a command in a process of its own and gives what it printed.

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
    """The figures as one markdown table below what they do not say."""
    rows = [
        (f"`{r['network']}`", r["inputs"], f"{r['parameters']:,}", r["epochs"], f"{r['chance']:.1%}",
         f"**{r['held_out_actors']:.1%}** of {r['test_clips']}", f"{r['minutes']:.1f}")
        for r in figures["networks"]
    ]  # fmt: skip
    lines = [_HEAD, ["---"] * len(_HEAD), *rows]
    options = ", ".join(f"{key} {value}" for key, value in figures["options"].items())
    told = f"{figures['caveat']}{f' Options of the dataset: {options}.' if options else ''}"
    return f"{told}\n\n" + "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)
