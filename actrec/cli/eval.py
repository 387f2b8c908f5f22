"""`actrec eval`: scores model packages and checkpoints on a dataset."""

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

from actrec.cli.train import add_data_argument, add_root_argument, add_threads_argument
from actrec.inference.package import PRECISIONS
from actrec.utils import config
from actrec.utils.errors import ConfigError

EPILOG = """\
Example:
  actrec eval deepacts_graph_nucla --data ~/datasets --report reports/nucla
  actrec eval deepacts_graph_nucla --precision float16
  actrec eval runs/my_run/last.ckpt --json
  actrec eval joint bone motion --fuse softmax --weights 1 1 0.6
  actrec eval sem spa --fuse softmax --draws 0 16
  actrec eval my_shrec17_28_package --dataset shrec17_14
  actrec eval seed1 seed2 seed3 --seeds
  actrec eval joint1 bone1 joint2 bone2 joint3 bone3 --fuse softmax --seeds
  actrec eval fold*/package --folds all

Several models without --fuse, --seeds or --folds are compared; those that differ by nothing but their seed get the mean
and spread as well. Clips that cannot be read are refused by name; --skip-unreadable counts them as wrong.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `actrec eval`."""
    parser.epilog = EPILOG
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="model package (a folder, or the name of one in the zoo) or checkpoint of a training (.ckpt)",
    )
    _add_target(parser)
    parser.add_argument(
        "--clips",
        choices=("live", "whole", "stretched"),
        help="what is taken of a recording: the window that the live recognizer has when it ends, or windows over all "
        "of it, their scores combined as the package says, or one window into which all of it is stretched, as for "
        "gestures that were cut out (default: what the model's recipe says, else live)",
    )
    parser.add_argument(
        "--draws",
        type=int,
        nargs="+",
        metavar="N",
        help="score each recording so many times more, varied as in the model's training, and combine all its scores: "
        "one number for all models, or one each (default: 0; the live recognizer does without)",
    )
    parser.add_argument(
        "--skip-unreadable", action="store_true", help="count clips that cannot be read as wrong instead of refusing"
    )
    _add_several(parser)
    parser.add_argument("--backend", default="onnxruntime", help="runs packages (default: %(default)s)")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="what packages compute in; float16 where they were exported with it (default: %(default)s)",
    )
    add_threads_argument(parser)
    parser.add_argument("--workers", type=int, help="processes that read and prepare clips (default: this one)")
    parser.add_argument("--report", type=Path, metavar="DIR", help="write report.html, report.md, figures.json, CSVs")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def _add_target(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to score on")
    group.add_argument("--dataset", help="default: the one it was trained on; a coarser one of the same clips fits too")
    group.add_argument("--split", help="default: the one it was trained on")
    group.add_argument("--part", help="train or test (default: test)")
    add_data_argument(parser)
    add_root_argument(group)
    group.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="option of the dataset; several times"
    )


def _add_several(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("several models")
    group.add_argument("--fuse", choices=("softmax", "logits"), help="streams of one: sum their softmaxes or logits")
    group.add_argument("--weights", type=float, nargs="+", metavar="W", help="of the streams (default: all alike)")
    group.add_argument("--fit-weights", action="store_true", help="choose the weights on the training part")
    group.add_argument(
        "--seeds",
        action="store_true",
        help="repetitions that differ by seed: mean and spread (with --fuse: of each seed's fusion)",
    )
    group.add_argument("--folds", metavar="all|K,K,…", help="one model a fold of the dataset: mean and spread")


def run(args: argparse.Namespace) -> int:
    """Prints the figures, and writes the report where one is asked for."""
    evaluation = importlib.import_module("actrec_models.evaluation.study")
    files = importlib.import_module("actrec_models.evaluation.report")
    opening = importlib.import_module("actrec_models.evaluation.models")
    options = evaluation.Options(**_options(args))
    models = opening.open_models(args.models, backend=args.backend, threads=args.threads, precision=args.precision)
    if args.report is not None:
        files.check(args.report)
    study = evaluation.run(models, args.data, options, progress=not args.quiet)
    if args.json:
        tables = importlib.import_module("actrec_models.evaluation.report")
        print(json.dumps(tables.as_dict(study), indent=2, allow_nan=False))
    else:
        print(files.text(study))
    if args.report is not None:
        files.write(study, args.report)
    return 0


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """Fields of `actrec_models.evaluation.target.Options` that were given."""
    names = ("dataset", "split", "part", "root", "clips", "draws", "fuse", "weights", "workers")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    flags = {name: True for name in ("fit_weights", "seeds", "skip_unreadable") if getattr(args, name)}
    folds = {"folds": _folds(args.folds)} if args.folds else {}
    return {**given, **flags, **folds, "dataset_options": config.parse_pairs(args.option, "dataset option")}


def _folds(text: str) -> list[int]:
    if text == "all":
        return [0]
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise ConfigError(f"--folds is '{text}', expected 'all' or numbers with commas, e.g. 1,2,3") from None
