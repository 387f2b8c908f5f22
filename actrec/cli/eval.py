"""`actrec eval`: evaluate model packages and checkpoints on a dataset."""

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

from actrec import inference
from actrec.cli import refuse
from actrec.cli.train import (
    add_data_argument,
    add_dataset_arguments,
    add_recording_argument,
    add_threads_argument,
    folder_options,
    number_list,
)
from actrec.inference.package import PRECISIONS
from actrec.recordings import RecordingConfig
from actrec.utils import config
from actrec.utils.errors import ConfigError
from actrec.utils.folders import expanded

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
  actrec eval runs/nucla/fold_*/last.ckpt --folds all
  actrec eval --table sem_spa:9
  actrec eval --table sem_spa:9 spa:28=runs/spa/last.ckpt --report reports/sem_spa
  actrec eval deepacts_graph_nucla --stream recordings
  actrec eval deepacts_graph_nucla --elsewhere --data ~/datasets --json > figures.json

Several models without --fuse, --seeds or --folds are compared; models that differ only by their seed get the mean and
spread as well. Unreadable clips are refused by name; --skip-unreadable counts them as wrong.

--stream scores events and labels on continuous recordings of any kind. The folder's labels.csv has one line for
each action: recording,label,start_s,end_s (and body, if several people are in view); or .npz files hold their labels.
A recording without any action has the line recording,unknown.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `actrec eval`."""
    parser.epilog = EPILOG
    add = parser.add_argument
    package = "model package (a folder, or the name of one in the zoo) or checkpoint of a training (.ckpt)"
    add("models", nargs="*", metavar="MODEL", help=f"{package}; with --table: ROW=MODEL or ROW:COLUMN=MODEL")
    add("--table", metavar="PAPER:TABLE", help="print a table of a paper (PAPER: all of its tables), its figures and "
        "ours, and the commands that train its rows; score the models in their rows")  # fmt: skip
    add("--clips", choices=("live", "whole", "stretched", "subsequences"), help="live: the recognizer's window "
        "when the recording ends; whole: windows over all of the recording, their scores combined as the package "
        "defines; stretched: one window into which all of it is stretched, as for gestures that were cut out; "
        "subsequences: evenly spaced ones of its frames, as P-I3D (default: the mode of the model's recipe, else "
        "live)")  # fmt: skip
    add("--draws", type=int, nargs="+", metavar="N", help="also score N versions of each recording, augmented as in "
        "the model's training, and combine all scores: one number for all models, or one per model (default: 0, as "
        "live)")  # fmt: skip
    add("--skip-unreadable", action="store_true", help="count unreadable clips as wrong instead of refusing")
    add("--strict-inputs", action="store_true", help="refuse clips whose scene flow has another method, height or rate "
        "than the training's, instead of a warning")  # fmt: skip
    add(
        "--backend",
        default="onnxruntime",
        choices=inference.BACKENDS.names(),
        help="backend of packages (default: %(default)s)",
    )
    precision = "precision of packages; float16 if they were exported with it (default: %(default)s)"
    add("--precision", choices=PRECISIONS, default="float32", help=precision)
    add_threads_argument(parser)
    add("--workers", type=int, help="processes that read and prepare clips (default: this one)")
    add("--report", type=expanded, metavar="DIR", help="write report.html, report.md with plots, figures.json, CSVs")
    add("--json", action="store_true", help="print the figures as JSON")
    add("--quiet", action="store_true", help="no progress bar")
    add_data_argument(parser)
    add_recording_argument(parser)
    add_dataset_arguments(parser, "default: the training's; a coarser one of the same clips fits too")
    add = parser.add_argument_group("several models").add_argument
    add("--fuse", choices=("softmax", "logits"), help="fuse streams: sum their softmaxes or logits")
    add("--weights", type=float, nargs="+", metavar="W", help="of the streams (default: equal)")
    seeds = "repetitions that differ by seed: mean and spread (with --fuse: of each seed's fusion)"
    add("--seeds", action="store_true", help=seeds)
    folds = "one model per fold of the dataset: mean and spread"
    add("--folds", type=number_list, metavar="all|K,K-K", help=folds)
    add = parser.add_argument_group("continuous recordings").add_argument
    add("--stream", type=Path, metavar="DIR", help="score events in the recordings of this folder, not a dataset")
    add("--elsewhere", action="store_true", help="score on each set of `everyday` that the model was not trained on, "
        "by the common names of classes; `actrec export MODEL --figures` writes the --json to the card")  # fmt: skip
    add("--labels", type=Path, metavar="CSV", help="labels of the recordings (default: labels.csv in the folder)")


def run(args: argparse.Namespace) -> int:
    """Print the figures, and write the report if --report is given."""
    if args.table is not None:
        return _show_table(args)
    if not args.models:
        raise ConfigError("name a model package or a checkpoint to score, or a paper's table with --table")
    if args.stream is not None:
        return _score_streams(args)
    if args.elsewhere:
        return _score_elsewhere(args)
    if args.labels is not None:
        raise ConfigError("--labels is for continuous recordings only: leave it out, or give their folder as --stream")
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


def _show_table(args: argparse.Namespace) -> int:
    unused = {**_options(args), "option": args.option, "labels": args.labels, "stream": args.stream,
              "elsewhere": args.elsewhere, "dataset_options": None, "root": None,
              "recording": args.recording}  # fmt: skip
    refuse(unused, "with --table")
    tables = importlib.import_module("actrec_models.training.paper_tables").find(args.table)
    if args.models and len(tables) > 1:
        raise ConfigError(f"models are scored in one table: name it, e.g. --table {tables[0].name}")
    report = importlib.import_module("actrec_models.evaluation.table_report")
    options = {"backend": args.backend, "threads": args.threads, "precision": args.precision}
    scores = [] if not args.models else report.score(
        tables[0], args.models, args.data, root=args.root, progress=not args.quiet, **options
    )  # fmt: skip
    shown = report.as_dict(tables, scores) if args.json else report.text(tables, scores)
    print(json.dumps(shown, indent=2, ensure_ascii=False) if args.json else shown)
    if args.report is not None:
        report.write(args.report, tables, scores)
    return 0


def _score_streams(args: argparse.Namespace) -> int:
    unused = {**_options(args), "option": args.option, "report": args.report, "elsewhere": args.elsewhere,
              "dataset_options": None}  # fmt: skip
    refuse(unused, "with --stream, which scores no dataset")
    streams, protocol = (
        importlib.import_module(f"actrec_models.evaluation.{name}") for name in ("streams", "protocol")
    )
    given = config.build(RecordingConfig, config.parse_pairs(args.recording, "--recording"))
    recordings = streams.open_streams(args.stream, args.labels, given)
    opened = protocol.open_models(args.models, backend=args.backend, threads=args.threads, precision=args.precision)
    for model in opened:
        streams.check_model(model.session)
    scores = {
        name: streams.evaluate(model.session, recordings, progress=not args.quiet)
        for name, model in zip(args.models, opened, strict=True)
    }
    figures = {model: score.figures() for model, score in scores.items()}
    print(json.dumps(figures, indent=2) if args.json else streams.text(scores))
    return 0


def _score_elsewhere(args: argparse.Namespace) -> int:
    unused = {**_options(args), "report": args.report, "labels": args.labels, "dataset_options": None,
              "recording": args.recording}  # fmt: skip
    refuse(unused, "with --elsewhere")
    elsewhere, protocol = (
        importlib.import_module(f"actrec_models.evaluation.{name}") for name in ("elsewhere", "protocol")
    )
    opened = protocol.open_models(args.models, backend=args.backend, threads=args.threads, precision=args.precision)
    options = config.parse_pairs(args.option, "dataset option")
    figures = [elsewhere.measure(model, args.data, options, progress=not args.quiet) for model in opened]
    print(json.dumps(figures, indent=1) if args.json else elsewhere.text(figures))
    return 0


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of `actrec_models.evaluation.protocol.EvalOptions` given on the command line."""
    names = ("dataset", "split", "part", "root", "clips", "draws", "fuse", "weights", "workers")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    flags = {name: True for name in ("seeds", "skip_unreadable", "strict_inputs") if getattr(args, name)}
    folds = {} if args.folds is None else {"folds": args.folds or [0]}  # 0: all
    return {
        **given,
        **flags,
        **folds,
        "dataset_options": folder_options(args, config.parse_pairs(args.option, "dataset option")),
    }
