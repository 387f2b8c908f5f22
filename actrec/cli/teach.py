"""`actrec teach`: fine-tune a package on the user's own actions."""

import argparse
import dataclasses
import importlib
import json
import logging
import os
import shlex
from pathlib import Path
from typing import Any

from actrec.cli.train import add_recording_argument, add_threads_argument
from actrec.inference.package import FILES
from actrec.utils import config, folders
from actrec.utils.errors import ConfigError

EPILOG = """\
Example:
  actrec record --label wave --repeat 12 --person anna     then the others: --label clap, --label unknown, …
  actrec teach my_actions
  actrec run --model my_actions_model

A folder per class (DIR/wave/a.mcap, DIR/clap/b.skeleton, …), any recordings with a labels.csv, and skeleton files
(.npz) that hold their own labels work as well.
"""

OPTIONS = ("minutes", "seed", "mirror", "steps", "rehearsals", "folds")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `actrec teach`."""
    parser.epilog = EPILOG
    add = parser.add_argument
    add(
        "folder",
        type=Path,
        metavar="DIR",
        help="recordings: a folder per class, with a labels.csv, or with labels in skeleton files",
    )
    pretrained = "pretrained package to fine-tune (default: a shipped one)"
    add("--from", dest="base", metavar="PACKAGE", help=pretrained)
    add("--out", type=Path, metavar="PKG", help="package to write (default: DIR_model)")
    add("--overwrite", action="store_true", help="replace an existing package")
    add("--minutes", type=float, help="time limit; if it is too short for fine-tuning, the head alone is trained")
    mirror = "also train on mirrored clips; auto: unless a label contains left, right or clockwise"
    add("--mirror", choices=("auto", "yes", "no"), help=mirror)
    add("--steps", type=int, help="fine-tuning steps of the whole network; 0: train the head alone")
    add("--rehearsals", type=int, help="fine-tunings without a class, which choose the rejection threshold")
    add("--folds", type=int, help="largest number of folds of the cross-validation")
    add_recording_argument(parser)
    add_threads_argument(parser)
    add("--seed", type=int, help="random seed")
    add("--json", action="store_true", help="print the report as JSON")
    add("--quiet", action="store_true", help="no progress bars")


def run(args: argparse.Namespace) -> int:
    """Fine-tune, export and report."""
    logging.basicConfig(format="%(message)s")
    out = _output_folder(args.folder.expanduser(), args.out)
    folders.check_output_folder(out, FILES, args.overwrite)
    fine_tuning = importlib.import_module("actrec_models.finetune.fine_tuning")
    given: dict[str, Any] = {
        name: getattr(args, name) for name in ("base", *OPTIONS) if getattr(args, name) is not None
    }
    settings = config.build(fine_tuning.TeachConfig, given)
    recording = config.parse_pairs(args.recording, "--recording")
    result = fine_tuning.teach(args.folder, settings, not args.quiet, args.threads, recording=recording)
    command = _command(args.folder, args.recording, settings, given, out)
    written = fine_tuning.write(result, out, command, settings.seed, args.overwrite)
    if args.json:
        print(json.dumps({"package": str(written.path), **fine_tuning.report(result)}, indent=2))
    else:
        print("\n  ".join([f"{written.path}: {', '.join(written.labels)}", *fine_tuning.summary(result)]))
        print(f"  {result.seconds / 60:.1f} minutes; try it: actrec run --model {shlex.quote(str(written.path))}")
    return 0


def _output_folder(recordings: Path, out: Path | None) -> Path:
    """Return the package's folder, which must not overlap the recordings."""
    if out is None:
        beside = Path(os.path.abspath(recordings))  # beside a symbolic link, not beside its target
        return beside.with_name(f"{beside.name}_model")
    place, recordings = out.expanduser().resolve(), recordings.resolve()
    if place == recordings or recordings in place.parents or place in recordings.parents:
        raise ConfigError(f"--out {out} overlaps the recordings in {recordings}: choose another folder")
    return place


def _command(folder: Path, recording: list[str], settings: Any, given: dict[str, Any], out: Path) -> str:
    """Return the command that repeats the fine-tuning, for the card."""
    words = ["actrec", "teach", Path(os.path.abspath(folder)).name]
    for name in (field.name for field in dataclasses.fields(settings) if field.name in given):
        words += [f"--{'from' if name == 'base' else name}", str(getattr(settings, name))]
    for pair in recording:
        words += ["--recording", pair]
    return shlex.join([*words, "--out", out.name])
