"""`actrec train`: trains a network by a recipe."""

import argparse
import importlib
import os
from pathlib import Path

EPILOG = """\
Example:
  actrec train models/recipes/deepacts_graph_nucla.yaml --data ~/datasets --out runs/nucla
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `actrec train`."""
    parser.epilog = EPILOG
    parser.add_argument("recipe", type=Path, help="YAML file; see models/recipes")
    add_data_argument(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and metrics.csv")
    parser.add_argument("--init", type=Path, help="checkpoint of an earlier run whose weights to start from")
    parser.add_argument("--fresh", action="store_true", help="start anew instead of going on from OUT/last.ckpt")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: all)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def add_data_argument(parser: argparse.ArgumentParser) -> None:
    """`--data`, which train, eval and export share."""
    root = os.environ.get("ACTREC_DATA", "../shared/data")
    parser.add_argument(
        "--data", default=root, help="folder that holds a folder a dataset (default: $ACTREC_DATA, %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Trains; prints the checkpoint's path."""
    recipe = importlib.import_module("actrec_models.recipe").read(args.recipe)
    training = importlib.import_module("actrec_models.training")
    options = {"resume": not args.fresh, "progress": not args.quiet, "threads": args.threads, "init": args.init}
    print(training.train(recipe, args.data, args.out, **options))
    return 0
