"""`actrec train`: train a network by a recipe."""

import argparse
import dataclasses
import importlib
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from actrec.cli import up_to
from actrec.utils import config
from actrec.utils.errors import ConfigError
from actrec.utils.folders import expanded

MAX_THREADS = 4096

EPILOG = """\
Example:
  actrec train deepacts_graph_nucla --data ~/datasets --out runs/nucla
  actrec train papers/p_i3d_ntu60 --init rgb_imagenet.pt --out runs/p_i3d --devices 4
  actrec train papers/vpn_ntu60 --set split=cross_view --set seed=2 --out runs/vpn_cv
  actrec train papers/sem_spa:9:spa:28 --out runs/spa
  actrec train papers/deepacts_sysu --folds all --out runs/sysu
  torchrun --nproc_per_node 2 -m actrec train papers/sem_net_ntu60 --out runs/sem_net

papers/PAPER:TABLE:ROW:COLUMN is a row of a paper's table (actrec eval --table PAPER:TABLE lists them; without a column,
the first). The same command resumes a run that was stopped or killed. For its curves: tensorboard --logdir runs
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EPILOG
    add = parser.add_argument
    add("recipe", type=Path, help="YAML file, the name of one in models/recipes (papers/sem_net_ntu60), or a row of a "
        "paper's table (papers/sem_spa:9:spa)")  # fmt: skip
    another = "another value of a field of the recipe, or of a field of one, e.g. schedule.warm_up=0.1; repeatable"
    add("--set", action="append", default=[], metavar="KEY=VALUE", help=another)
    add_data_argument(parser)
    add_root_argument(parser)
    add_recording_argument(parser)
    add("--out", type=expanded, required=True, help="folder for checkpoints and log/version_N/metrics.csv")
    add_init_argument(parser)
    add("--fresh", action="store_true", help="restart instead of resuming from OUT/last.ckpt")
    repeat = parser.add_mutually_exclusive_group().add_argument
    repeat("--folds", type=number_list, metavar="all|K,K-K", help="train and score each of these folds of the dataset "
        "in a folder of its own, skip finished ones, and write OUT/summary.json with mean and deviation")  # fmt: skip
    repeat("--seeds", type=number_list, metavar="K,K-K", help="likewise for each of these seeds")
    add_threads_argument(parser)
    add("--quiet", action="store_true", help="no progress bar")
    add("--json", action="store_true", help="print the checkpoint's path and provenance as JSON")
    add = parser.add_argument_group("machine").add_argument
    add("--accelerator", choices=("auto", "gpu", "cpu"), help="(default: gpu if there is one)")
    add("--devices", type=int, help="GPUs of each node (default: all), or processes on a CPU")
    add("--nodes", type=int, help="machines, with torchrun or SLURM on each; they share the folder OUT")
    add("--workers", type=int, help="processes that read clips, for each device (default: by its cores; on a CPU none)")
    way = "augment skeletons in batches on the training device, or clip by clip in the processes that read clips"
    add("--features", choices=("auto", "device", "workers"), help=f"{way} (default: device if it covers the network)")
    add("--compile", action="store_true", help="compile training steps, on a GPU as CUDA graphs, for small networks")
    add("--checkpoint-minutes", type=float, metavar="N", help="save a checkpoint every N minutes within an epoch")
    add("--checkpoint-steps", type=int, metavar="N", help="save a checkpoint every N steps")


def add_data_argument(parser: argparse.ArgumentParser) -> None:
    """Declare `--data`, which train, eval and export share."""
    where = "folder that holds a folder for each dataset (default: $ACTREC_DATA, %(default)s)"
    parser.add_argument("--data", default=os.environ.get("ACTREC_DATA", "data"), help=where)


def add_root_argument(parser: argparse._ActionsContainer) -> None:
    """Declare `--root`, which prepare, train, eval and export share."""
    parser.add_argument("--root", default="", help="folder of the dataset itself (default: its own folder in --data)")


def add_dataset_arguments(parser: argparse.ArgumentParser, dataset: str) -> None:
    """Declare the dataset that eval and explain read; `dataset` is the help of `--dataset`."""
    group = parser.add_argument_group("dataset")
    add_root_argument(group)
    add = group.add_argument
    add("--dataset", help=dataset)
    add("--split", help="default: the training's")
    add("--part", help="train or test (default: test)")
    add("--option", action="append", default=[], metavar="NAME=VALUE", help="option of the dataset; repeatable")


def add_recording_argument(parser: argparse._ActionsContainer) -> None:
    """Declare `--recording`, which prepare, train, eval and teach share."""
    text = "property that your own recordings do not store: fps=15, hfov_deg=69 (video), mount=upside_down; repeatable"
    parser.add_argument("--recording", action="append", default=[], metavar="KEY=VALUE", help=text)


def number_list(text: str) -> list[int]:
    """Parse numbers with commas and ranges, `1,4-6`; `all` is an empty list. Raise ConfigError for other text."""
    if text == "all":
        return []
    found: list[int] = []
    try:
        for part in text.split(","):
            first, dash, last = part.partition("-")
            found += range(int(first), int(last if dash else first) + 1) or [int("empty range")]
    except ValueError:
        raise ConfigError(f"folds or seeds are '{text}', expected 'all' or numbers, e.g. 1,2,3 or 1-30") from None
    return found


def folder_options(args: argparse.Namespace, options: dict[str, Any]) -> dict[str, Any]:
    """Return the dataset's options, and with `--recording` the option `recording` of dataset `folder`."""
    given = config.parse_pairs(args.recording, "--recording")
    return config.merge_settings(options, {f"recording.{name}": value for name, value in given.items()})


def add_threads_argument(parser: argparse.ArgumentParser) -> None:
    """Declare `--threads`, which train, eval and teach share."""
    parser.add_argument("--threads", type=up_to(MAX_THREADS), default=0, metavar="N", help="CPU threads (default: all)")


def add_init_argument(parser: argparse._ActionsContainer) -> None:
    """Declare `--init`, which train and export share."""
    parser.add_argument("--init", type=Path, action="append", default=[], metavar="FILE", help="initial weights: a "
        "checkpoint or package of ours, or a public .safetensors/.pt file (Kinetics I3D or 3D ResNeXt-101, Sports-1M "
        "C3D, ImageNet EfficientNet-B0 or ResNet-50); repeatable")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Train, and print the checkpoint's path."""
    logging.basicConfig(format="%(message)s")
    first = os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"  # of several processes
    logging.getLogger("actrec_models").setLevel(logging.INFO if first else logging.ERROR)
    recording = config.parse_pairs(args.recording, "--recording")
    changes = config.parse_pairs(args.set, "field of the recipe")
    changes |= {f"dataset_options.recording.{name}": value for name, value in recording.items()}
    recipe = importlib.import_module("actrec_models.training.recipe").read(args.recipe, changes)
    if args.seeds == []:
        raise ConfigError("--seeds is 'all', expected numbers, e.g. 1-3")
    training = importlib.import_module("actrec_models.training.trainer")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # its other messages repeat the run's own lines
    asked = {field.name: getattr(args, field.name) for field in dataclasses.fields(training.Machine)}
    machine = config.build(training.Machine, {name: value for name, value in asked.items() if value is not None})
    options = {"resume": not args.fresh, "progress": not args.quiet, "threads": args.threads, "init": args.init,
               "root": args.root}  # fmt: skip
    if first:
        _describe_row(args)
    try:
        if args.folds is not None or args.seeds is not None:
            repetitions = importlib.import_module("actrec_models.evaluation.repetitions")
            kind, asked = ("fold", args.folds) if args.folds is not None else ("seed", args.seeds)
            summary = repetitions.train(recipe, kind, asked, args.data, args.out, machine=machine, **options)
            if first:
                print(json.dumps(summary.as_dict(), indent=2) if args.json else summary.text())
            return 0
        kept = training.train(recipe, args.data, args.out, machine=machine, **options)
    except training.TrainingInterrupted as stopped:
        if first:
            print(f"actrec: {stopped}", file=sys.stderr)
        return 128 + int(stopped.signal)
    if first:
        print(json.dumps(_made(kept), indent=2) if args.json else kept)
    return 0


def _describe_row(args: argparse.Namespace) -> None:
    """Log recipe and changes of a row of a paper's table; warn of missing initial weights, refuse a blocked one."""
    tables = importlib.import_module("actrec_models.training.paper_tables")
    if (row := tables.find_experiment(args.recipe)) is None:
        return
    logger = logging.getLogger("actrec_models")
    logger.info("%s: %s", row.name, row.command)
    if row.blocked:
        raise ConfigError(f"{row.name} cannot run: {row.blocked}")
    if row.init and not args.init and not any(args.out.glob("**/*.ckpt")):
        logger.warning("the paper starts this row from %s: name the file with --init", row.init)


def _made(path: Path) -> dict[str, Any]:
    content = importlib.import_module("actrec_models.training.checkpoints").read(path)
    provenance = importlib.import_module("actrec_models.training.provenance")
    return {"checkpoint": str(path), "steps": content["global_step"], **provenance.from_checkpoint(content)}
