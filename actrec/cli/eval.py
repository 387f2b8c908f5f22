"""`actrec eval`: evaluate model packages and checkpoints on a dataset."""

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

Several models without --fuse, --seeds or --folds are compared; models that differ only by their seed get the mean and
spread as well. Unreadable clips are refused by name; --skip-unreadable counts them as wrong.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `actrec eval`."""
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
        help="live: the recognizer's window when the recording ends; whole: windows over all of the recording, their "
        "scores combined as the package defines; stretched: one window into which all of it is stretched, as for "
        "gestures that were cut out (default: the mode of the model's recipe, else live)",
    )
    parser.add_argument(
        "--draws",
        type=int,
        nargs="+",
        metavar="N",
        help="also score N versions of each recording, augmented as in the model's training, and combine all scores: "
        "one number for all models, or one per model (default: 0, as live)",
    )
    parser.add_argument(
        "--skip-unreadable", action="store_true", help="count unreadable clips as wrong instead of refusing"
    )
    _add_several(parser)
    parser.add_argument("--backend", default="onnxruntime", help="backend of packages (default: %(default)s)")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="precision of packages; float16 if they were exported with it (default: %(default)s)",
    )
    add_threads_argument(parser)
    parser.add_argument("--workers", type=int, help="processes that read and prepare clips (default: this one)")
    parser.add_argument("--report", type=Path, metavar="DIR", help="write report.md with plots, figures.json, CSVs")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def _add_target(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("dataset")
    group.add_argument("--dataset", help="default: the training's; a coarser one of the same clips fits too")
    group.add_argument("--split", help="default: the training's")
    group.add_argument("--part", help="train or test (default: test)")
    add_data_argument(parser)
    add_root_argument(group)
    group.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="option of the dataset; repeatable"
    )


def _add_several(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("several models")
    group.add_argument("--fuse", choices=("softmax", "logits"), help="fuse streams: sum their softmaxes or logits")
    group.add_argument("--weights", type=float, nargs="+", metavar="W", help="of the streams (default: equal)")
    group.add_argument(
        "--seeds",
        action="store_true",
        help="repetitions that differ by seed: mean and spread (with --fuse: of each seed's fusion)",
    )
    group.add_argument("--folds", metavar="all|K,K,…", help="one model per fold of the dataset: mean and spread")


def run(args: argparse.Namespace) -> int:
    """Print the figures, and write the report if --report is given."""
    evaluator, protocol, report = (
        importlib.import_module(f"actrec_models.evaluation.{name}") for name in ("evaluator", "protocol", "report")
    )
    options = protocol.EvalOptions(**_options(args))
    opened = protocol.open_models(args.models, backend=args.backend, threads=args.threads, precision=args.precision)
    if args.report is not None:
        report.check_folder(args.report)
    evaluated = evaluator.evaluate_models(opened, args.data, options, progress=not args.quiet)
    print(json.dumps(report.as_dict(evaluated), indent=2, allow_nan=False) if args.json else report.text(evaluated))
    if args.report is not None:
        report.write(evaluated, args.report)
    return 0


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of `actrec_models.evaluation.protocol.EvalOptions` given on the command line."""
    names = ("dataset", "split", "part", "root", "clips", "draws", "fuse", "weights", "workers")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    flags = {name: True for name in ("seeds", "skip_unreadable") if getattr(args, name)}
    folds = {"folds": _folds(args.folds)} if args.folds else {}
    return {**given, **flags, **folds, "dataset_options": config.parse_pairs(args.option, "dataset option")}


def _folds(text: str) -> list[int]:
    if text == "all":
        return [0]
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise ConfigError(f"--folds is '{text}', expected 'all' or numbers with commas, e.g. 1,2,3") from None
