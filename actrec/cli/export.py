"""`actrec export`: writes a model package from a training checkpoint."""

import argparse
import importlib
from pathlib import Path

from actrec.cli.train import add_data_argument

EPILOG = """\
Example:
  actrec export runs/nucla/last.ckpt --out models/zoo/deepacts_graph_nucla
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `actrec export`."""
    parser.epilog = EPILOG
    parser.add_argument("checkpoint", type=Path, help="of `actrec train`")
    parser.add_argument("--out", type=Path, required=True, help="folder of the package; its name becomes the package's")
    add_data_argument(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace a package that is there")


def run(args: argparse.Namespace) -> int:
    """Exports, checks against PyTorch, chooses the rejection threshold, scores the test part."""
    export = importlib.import_module("actrec_models.export").export
    written = export(args.checkpoint, args.out, args.data, args.overwrite)
    accuracy, threshold = written.provenance.accuracy, written.rejection.threshold
    print(f"{written.path}: {accuracy:.1%} on the test part, rejection below {threshold:g}")
    return 0
