"""`actrec export`: writes a model package from training checkpoints, or of a network that is not trained."""

import argparse
import importlib
import logging
from pathlib import Path

from actrec.cli.train import add_data_argument, add_init_argument, add_root_argument
from actrec.inference import zoo
from actrec.inference.package import DESCRIPTION, ModelPackage
from actrec.utils import config
from actrec.utils.errors import ConfigError

EPILOG = """\
Example:
  actrec export runs/nucla/last.ckpt --out models/zoo/deepacts_graph_nucla
  actrec export runs/nucla/last.ckpt --float16 --out ~/nucla
  actrec export runs/joints/last.ckpt runs/bones/last.ckpt --fuse softmax --out ~/two_streams
  actrec export my_package --simplify --float16 --out ~/my_package_again
  actrec export deepacts_graph_nucla --calibrate models/recipes/deepacts_graph_nucla_reject.yaml --out ~/nucla
  actrec export --network sem_net --option frames=32 --classes wave,point,walk --out ~/sem_net_untrained
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `actrec export`."""
    parser.epilog = EPILOG
    parser.add_argument(
        "sources",
        nargs="*",
        metavar="checkpoint",
        help="of `actrec train`; with --float16, --simplify, --calibrate or --fuse also a package, or the name of one "
        "in the zoo",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the package; its name becomes the package's")
    add_data_argument(parser)
    add_root_argument(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace a package that is there")
    parser.add_argument(
        "--float16",
        action="store_true",
        help="write the network in half precision beside it, checked against float32: half the size, for GPUs",
    )
    parser.add_argument(
        "--no-weights",
        action="store_true",
        help="leave out PyTorch's weights: smaller, but nothing can be trained on from it or taught with it",
    )
    parser.add_argument(
        "--simplify",
        action="store_true",
        help="of a package: write its networks anew as this version does, simpler and faster, with the same logits",
    )
    parser.add_argument(
        "--calibrate",
        nargs="?",
        const="",
        metavar="RECIPE",
        help="of a package: choose threshold and confidence anew, on training clips and other actions of its own "
        "recipe or of this one",
    )
    streams = parser.add_argument_group("of several networks, trained apart on the same classes and window")
    streams.add_argument(
        "--fuse",
        choices=("softmax", "logits"),
        help="one package of all, softmaxes or logits added as by `actrec eval --fuse`; without PyTorch's weights",
    )
    streams.add_argument("--weights", type=float, nargs="+", metavar="W", help="one each (default: all alike)")
    untrained = parser.add_argument_group("without a checkpoint", "a package to try or to measure a network with")
    untrained.add_argument("--network", help="its name; `actrec models` lists them")
    untrained.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="of the network; repeat")
    untrained.add_argument("--classes", default="", help="labels, separated by commas")
    untrained.add_argument("--seed", type=_seed, help="of the random weights (default: 1)")
    add_init_argument(untrained)


def _seed(text: str) -> int:
    if not (text.isdecimal() and int(text) < 2**31):
        raise argparse.ArgumentTypeError(f"'{text}' is no number from 0 to {2**31 - 1}")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Exports and checks against PyTorch; of a checkpoint, chooses the rejection threshold and scores the test part."""
    if (not args.sources) == (args.network is None):
        if args.calibrate and not args.sources:
            raise ConfigError(f"--calibrate takes {args.calibrate} for its recipe: name the package before it")
        raise ConfigError("name either a checkpoint or a --network")
    logging.basicConfig(format="%(message)s")
    logging.getLogger("actrec_models").setLevel(logging.INFO)
    if args.network is not None:
        _refuse_streams(args)
        if args.simplify or args.calibrate is not None:
            option = "--simplify" if args.simplify else "--calibrate"
            raise ConfigError(f"{option} is of a package or a checkpoint, not of a --network that nobody trained")
        return _untrained(args)
    _refuse_with_source(args)
    if args.fuse:
        return _fused(args)
    _refuse_streams(args)
    source = args.sources[0]
    if _is_package(source):
        return _again(args, source)
    if args.simplify or args.calibrate is not None:
        done = "simplified" if args.simplify else "calibrated"
        raise ConfigError(f"{source} is no package; what is exported from a checkpoint is {done} anyway")
    export = importlib.import_module("actrec_models.export.exporter").export
    written = export(Path(source), args.out, args.data, args.overwrite, args.float16, not args.no_weights, args.root)
    _tell(written)
    return 0


def _fused(args: argparse.Namespace) -> int:
    """Writes one package of several networks."""
    if args.simplify or args.calibrate is not None:
        option, done = ("--simplify", "simplified") if args.simplify else ("--calibrate", "calibrated")
        raise ConfigError(f"{option} is of one package; what is fused is {done} anyway")
    fuse = importlib.import_module("actrec_models.export.fuse").fuse
    _tell(
        fuse(
            args.sources,
            args.out,
            args.data,
            args.fuse,
            args.weights or (),
            overwrite=args.overwrite,
            float16=args.float16,
            root=args.root,
        )
    )
    return 0


def _tell(written: ModelPackage) -> None:
    """Says how good a package was found."""
    made = written.provenance
    measured = f"{made.accuracy:.1%} on the test part" if made.figures["test_clips"] else "not measured: no test part"
    print(f"{written.path}: {measured}; {written.rejection.note}")
    _tell_float16(written)


def _refuse_streams(args: argparse.Namespace) -> None:
    """Refuses what is of several networks where there is one."""
    if len(args.sources) > 1:
        raise ConfigError(f"{len(args.sources)} networks become one package with --fuse softmax or --fuse logits")
    if args.fuse or args.weights:
        raise ConfigError(
            f"--{'fuse' if args.fuse else 'weights'} is of several trained networks: name their checkpoints"
        )


def _refuse_with_source(args: argparse.Namespace) -> None:
    """Refuses what says how a network is made that is there already."""
    given = {"--option": args.option, "--classes": args.classes, "--seed": args.seed is not None, "--init": args.init}
    if named := [name for name, value in given.items() if value]:
        raise ConfigError(f"{named[0]} goes with --network; {args.sources[0]} has its own")


def _is_package(source: str) -> bool:
    """Whether a folder with a description, or a name that the zoo knows."""
    path = Path(source).expanduser()
    return (path / DESCRIPTION).is_file() or (not path.exists() and source in {e.name for e in zoo.list_packages()})


def _again(args: argparse.Namespace, source: str) -> int:
    """Writes a copy of a package with other files of its network."""
    if args.calibrate is not None:
        return _calibrated(args, source)
    if not (args.float16 or args.simplify):
        raise ConfigError(
            f"{source} is a package already; --float16 writes one with the network in float16 too, --simplify its "
            "networks anew, --calibrate its rejection"
        )
    again = importlib.import_module("actrec_models.export.repackage").again
    made = {"float16": args.float16, "simplify": args.simplify, "weights": not args.no_weights}
    written = again(source, args.out, args.data, args.overwrite, root=args.root, **made)
    print(f"{written.path}: {', '.join(written.precisions)}")
    _tell_float16(written)
    return 0


def _calibrated(args: argparse.Namespace, source: str) -> int:
    """Writes a copy of a package whose rejection is chosen anew."""
    if args.float16 or args.simplify:
        raise ConfigError("--calibrate keeps the networks as they are: --float16 and --simplify go without it")
    repackage = importlib.import_module("actrec_models.export.repackage")
    recipe = importlib.import_module("actrec_models.training.recipe").read(args.calibrate) if args.calibrate else None
    weights = not args.no_weights
    _tell(repackage.calibrated(source, args.out, recipe, args.data, args.overwrite, args.root, weights))
    return 0


def _tell_float16(written: ModelPackage) -> None:
    half = written.float16
    if half is None:
        return
    accuracy = "not measured on a dataset" if half.accuracy is None else f"{half.accuracy:.1%} on the test part"
    print(
        f"{written.onnx_path('float16')}: {accuracy}, logits within {half.difference:.2%} of their spread of float32's"
    )


def _untrained(args: argparse.Namespace) -> int:
    classes = [label.strip() for label in args.classes.split(",") if label.strip()]
    if len(classes) < 2:
        raise ConfigError("--network needs --classes with at least two labels, e.g. --classes wave,point")
    export = importlib.import_module("actrec_models.export.exporter").export_network
    options = config.parse_pairs(args.option, "network option")
    written = export(
        args.network,
        options,
        classes,
        args.out,
        init=args.init,
        seed=1 if args.seed is None else args.seed,
        overwrite=args.overwrite,
        float16=args.float16,
    )
    print(f"{written.path}: {written.provenance.split}; its labels mean nothing")
    _tell_float16(written)
    return 0
