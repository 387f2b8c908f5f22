"""`actrec train`: trains a network by a recipe."""

import argparse
import importlib
import logging
import os
from pathlib import Path

EPILOG = """\
Example:
  actrec train models/recipes/deepacts_graph_nucla.yaml --data ~/datasets --out runs/nucla
  actrec train my_p_i3d.yaml --init rgb_imagenet.pt --out runs/p_i3d
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `actrec train`."""
    parser.epilog = EPILOG
    parser.add_argument("recipe", type=Path, help="YAML file; see models/recipes")
    add_data_argument(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and metrics.csv")
    add_init_argument(parser)
    parser.add_argument("--fresh", action="store_true", help="start anew instead of going on from OUT/last.ckpt")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: all)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def add_data_argument(parser: argparse.ArgumentParser) -> None:
    """`--data`, which train, eval and export share."""
    root = os.environ.get("ACTREC_DATA", "../shared/data")
    parser.add_argument(
        "--data", default=root, help="folder that holds a folder a dataset (default: $ACTREC_DATA, %(default)s)"
    )


def add_init_argument(parser: argparse._ActionsContainer) -> None:
    """`--init`, which train and export share."""
    parser.add_argument(
        "--init",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="weights to start from: a checkpoint or package of ours, or a public .safetensors/.pt file (Kinetics I3D "
        "or 3D ResNeXt-101, Sports-1M C3D, ImageNet EfficientNet-B0 or ResNet-50); may be given several times",
    )


def run(args: argparse.Namespace) -> int:
    """Trains; prints the checkpoint's path."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("actrec_models").setLevel(logging.INFO)
    recipe = importlib.import_module("actrec_models.recipe").read(args.recipe)
    training = importlib.import_module("actrec_models.training")
    options = {"resume": not args.fresh, "progress": not args.quiet, "threads": args.threads, "init": args.init}
    print(training.train(recipe, args.data, args.out, **options))
    return 0
