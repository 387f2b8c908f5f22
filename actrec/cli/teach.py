"""`actrec teach`: learns a person's own actions from their recordings."""

import argparse
import dataclasses
import importlib
import json
import logging
import os
import shlex
from pathlib import Path
from typing import Any

from actrec.cli.train import add_threads_argument
from actrec.inference.package import FILES
from actrec.utils.errors import ConfigError

EPILOG = """\
Example:
  actrec record --label wave --repeat 12 --person anna     then the others: --label clap, --label unknown, …
  actrec teach my_actions
  actrec run --model my_actions_model

Folders of a class each (DIR/wave/a.mcap, DIR/clap/b.skeleton, …) and any recordings with a labels.csv work as well.
"""

OPTIONS = ("minutes", "seed", "mirror", "steps", "rehearsals", "folds")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.epilog = EPILOG
    parser.add_argument("folder", type=Path, metavar="DIR", help="recordings: a folder a class, or with a labels.csv")
    parser.add_argument(
        "--from", dest="base", metavar="PACKAGE", help="package whose network is taken over (default: the shipped one)"
    )
    parser.add_argument("--out", type=Path, metavar="PKG", help="package to write (default: DIR_model)")
    parser.add_argument("--overwrite", action="store_true", help="replace a package that is there")
    parser.add_argument(
        "--minutes", type=float, help="time that the training may take; where it is short, draws and steps are left out"
    )
    parser.add_argument(
        "--mirror",
        choices=("auto", "yes", "no"),
        help="also learn from mirrored clips; auto: unless a label says left, right or clockwise",
    )
    parser.add_argument("--steps", type=int, help="of the whole network, after its head; 0: the head alone")
    parser.add_argument("--rehearsals", type=int, help="how often the whole way is rehearsed to choose the threshold")
    parser.add_argument("--folds", type=int, help="parts to leave out in turn where fewer than two people are named")
    parser.add_argument("--recording", action="append", default=[], metavar="KEY=VALUE", help="what recordings do not "
                        "tell of themselves, as hfov_deg=69 of a video; repeatable")  # fmt: skip
    add_threads_argument(parser)
    parser.add_argument("--seed", type=int, help="of everything random")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def run(args: argparse.Namespace) -> int:
    """Teaches, exports and reports."""
    from actrec.utils import config as utils_config
    from actrec.utils import files

    logging.basicConfig(format="%(message)s")
    out = _place(args.folder.expanduser(), args.out)
    files.check_place(out, FILES, args.overwrite)
    teaching = importlib.import_module("actrec_models.finetune.lesson")
    packaging = importlib.import_module("actrec_models.finetune.results")
    given: dict[str, Any] = {
        name: getattr(args, name) for name in ("base", *OPTIONS) if getattr(args, name) is not None
    }
    material = importlib.import_module("actrec_models.finetune.material")
    settings = utils_config.build(material.TeachConfig, given)
    recording = utils_config.parse_pairs(args.recording, "--recording")
    lesson = teaching.teach(args.folder, settings, not args.quiet, args.threads, recording=recording)
    written = packaging.write(lesson, out, _command(args, settings, given, out), settings.seed, args.overwrite)
    if args.json:
        print(json.dumps({"package": str(written.path), **packaging.report(lesson)}, indent=2))
    else:
        print("\n".join([f"{written.path}: {', '.join(written.labels)}", *("  " + w for w in packaging.words(lesson))]))
        print(f"  {lesson.seconds / 60:.1f} minutes; try it: actrec run --model {shlex.quote(str(written.path))}")
    return 0


def _place(recordings: Path, out: Path | None) -> Path:
    """Where the package goes: never where the recordings are."""
    if out is None:
        beside = Path(os.path.abspath(recordings))  # where a link to them lies, not what it leads to
        return beside.with_name(f"{beside.name}_model")
    place, recordings = out.expanduser().resolve(), recordings.resolve()
    if place == recordings or recordings in place.parents or place in recordings.parents:
        raise ConfigError(f"--out {out} and the recordings in {recordings} would lie in one another: choose another")
    return place


def _command(args: argparse.Namespace, settings: Any, given: dict[str, Any], out: Path) -> str:
    """What teaches it again, for its card."""
    words = [*_words(settings, given), *(word for pair in args.recording for word in ("--recording", pair))]
    return shlex.join(["actrec", "teach", Path(os.path.abspath(args.folder)).name, *words, "--out", out.name])


def _words(settings: Any, given: dict[str, Any]) -> list[str]:
    """The options that were given, as words."""
    names = [field.name for field in dataclasses.fields(settings) if field.name in given]
    return [
        word for name in names for word in (f"--{'from' if name == 'base' else name}", str(getattr(settings, name)))
    ]
