"""`actrec quantize`: write a model package with its network in int8 beside float32."""

import argparse
import importlib
import logging
from pathlib import Path

from actrec.cli import names
from actrec.cli.train import add_data_argument
from actrec.utils.errors import ConfigError

EPILOG = """\
Example:
  actrec quantize sem_net_utd_mhad --data ~/datasets --out ~/sem_net_int8
  actrec quantize my_actions_model --dataset folder --root my_actions --out ~/my_actions_int8
  actrec quantize my_model --keep body/blocks.0,fc --out ~/my_model_int8

The ranges are computed of recorded clips, of the training's dataset or another. Then, on the robot:
  actrec build-engine ~/sem_net_int8 --precision int8
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `actrec quantize`."""
    parser.epilog = EPILOG
    parser.add_argument("package", help="name of one in the zoo, or its folder")
    parser.add_argument("--out", type=Path, required=True, help="folder of the package; its name becomes the package's")
    add_data_argument(parser)
    parser.add_argument("--dataset", default="", help="dataset whose training part gives the ranges (default: its own)")
    parser.add_argument("--root", default="", help="folder of the dataset itself (default: its own folder in --data)")
    parser.add_argument("--clips", type=int, metavar="N", help="clips for the ranges (default: 200)")
    parser.add_argument("--keep", default="", metavar="GROUP,…", help="layer groups that stay in float32")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing package")


def run(args: argparse.Namespace) -> int:
    """Quantize, compare, and print the accuracy before and after."""
    if args.clips is not None and args.clips < 1:
        raise ConfigError(f"--clips is {args.clips}, expected 1 or more")
    logging.basicConfig(format="%(message)s")
    logging.getLogger("actrec_models").setLevel(logging.INFO)
    keep = tuple(names(args.keep))
    quantize = importlib.import_module("actrec_models.export.repackage").quantize
    options = {} if args.clips is None else {"clips": args.clips}
    written = quantize(
        args.package, args.out, args.data, dataset=args.dataset, root=args.root, keep=keep, overwrite=args.overwrite,
        **options,
    )  # fmt: skip
    int8, before = written.int8, written.provenance.accuracy
    accuracy = "not scored" if int8.accuracy is None else f"{int8.accuracy:.1%} on the test part, float32 {before:.1%}"
    kept = f"; in float32: {', '.join(int8.kept)}" if int8.kept else ""
    print(f"{written.onnx_path('int8')}: {accuracy}, logits within {int8.difference:.2%} of their spread{kept}")
    return 0
