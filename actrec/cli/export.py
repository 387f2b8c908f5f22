"""`actrec export`: writes a model package from a training checkpoint, or of a network that is not trained."""

import argparse
import importlib
import logging
from pathlib import Path

from actrec import keyvalues
from actrec.cli.train import add_data_argument, add_init_argument
from actrec.errors import ConfigError

EPILOG = """\
Example:
  actrec export runs/nucla/last.ckpt --out models/zoo/deepacts_graph_nucla
  actrec export --network sem_net --option frames=32 --classes wave,point,walk --out ~/sem_net_untrained
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `actrec export`."""
    parser.epilog = EPILOG
    parser.add_argument("checkpoint", type=Path, nargs="?", help="of `actrec train`")
    parser.add_argument("--out", type=Path, required=True, help="folder of the package; its name becomes the package's")
    add_data_argument(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace a package that is there")
    untrained = parser.add_argument_group("without a checkpoint", "a package to try or to measure a network with")
    untrained.add_argument("--network", help="its name; `actrec models` lists them")
    untrained.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="of the network; repeat")
    untrained.add_argument("--classes", default="", help="labels, separated by commas")
    untrained.add_argument("--seed", type=int, default=1, help="of the random weights (default: 1)")
    add_init_argument(untrained)


def run(args: argparse.Namespace) -> int:
    """Exports and checks against PyTorch; of a checkpoint, chooses the rejection threshold and scores the test part."""
    if (args.checkpoint is None) == (args.network is None):
        raise ConfigError("name either a checkpoint or a --network")
    logging.basicConfig(format="%(message)s")
    logging.getLogger("actrec_models").setLevel(logging.INFO)
    if args.network is not None:
        return _untrained(args)
    export = importlib.import_module("actrec_models.export").export
    written = export(args.checkpoint, args.out, args.data, args.overwrite)
    accuracy, threshold = written.provenance.accuracy, written.rejection.threshold
    print(f"{written.path}: {accuracy:.1%} on the test part, rejection below {threshold:g}")
    return 0


def _untrained(args: argparse.Namespace) -> int:
    classes = [label.strip() for label in args.classes.split(",") if label.strip()]
    if len(classes) < 2:
        raise ConfigError("--network needs --classes with at least two labels, e.g. --classes wave,point")
    export = importlib.import_module("actrec_models.export").export_network
    options = keyvalues.read(args.option, "network option")
    written = export(args.network, options, classes, args.out, init=args.init, seed=args.seed, overwrite=args.overwrite)
    print(f"{written.path}: {written.provenance.split}; its labels mean nothing")
    return 0
