"""`actrec export`: write a model package from training checkpoints, or from an untrained network."""

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
  actrec export my_package --float16 --out ~/my_package_again
  actrec export deepacts_graph_nucla --calibrate models/recipes/deepacts_graph_nucla_reject.yaml --out ~/nucla
  actrec export --network sem_net --option frames=32 --classes wave,point,walk --out ~/sem_net_untrained
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `actrec export`."""
    parser.epilog = EPILOG
    parser.add_argument(
        "sources",
        nargs="*",
        metavar="checkpoint",
        help="checkpoint of `actrec train`; with --float16, --calibrate or --fuse also a package, or the "
        "name of one in the zoo",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the package; its name becomes the package's")
    add_data_argument(parser)
    add_root_argument(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing package")
    parser.add_argument(
        "--float16",
        action="store_true",
        help="also write the network in half precision, checked against float32: half the size, for GPUs",
    )
    parser.add_argument(
        "--no-weights",
        action="store_true",
        help="omit PyTorch's weights: smaller, but unsuited to further training and fine-tuning",
    )
    parser.add_argument(
        "--calibrate",
        nargs="?",
        const="",
        metavar="RECIPE",
        help="of a package: choose threshold and confidence again, on training clips and other actions of its own "
        "recipe or of this one",
    )
    streams = parser.add_argument_group("several networks, trained separately on the same classes and window")
    streams.add_argument(
        "--fuse",
        choices=("softmax", "logits"),
        help="one package of all, softmaxes or logits summed as by `actrec eval --fuse`; without PyTorch's weights",
    )
    streams.add_argument("--weights", type=float, nargs="+", metavar="W", help="one per network (default: equal)")
    untrained = parser.add_argument_group("without a checkpoint", "an untrained package, to try a network or its speed")
    untrained.add_argument("--network", help="name of the network; `actrec models` lists them")
    untrained.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="option of the network; repeatable"
    )
    untrained.add_argument("--classes", default="", help="labels, separated by commas")
    untrained.add_argument("--seed", type=_seed, help="seed of the random weights (default: 1)")
    add_init_argument(untrained)


def _seed(text: str) -> int:
    if not (text.isdecimal() and int(text) < 2**31):
        raise argparse.ArgumentTypeError(f"'{text}' is no number from 0 to {2**31 - 1}")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Export, check against PyTorch, choose the rejection threshold and measure the accuracy."""
    if (not args.sources) == (args.network is None):
        if args.calibrate and not args.sources:
            raise ConfigError(f"--calibrate took {args.calibrate} as its recipe: put the package before it")
        raise ConfigError("give either a checkpoint or a --network")
    logging.basicConfig(format="%(message)s")
    logging.getLogger("actrec_models").setLevel(logging.INFO)
    if args.network is not None:
        _refuse_streams(args)
        if args.calibrate is not None:
            raise ConfigError("--calibrate needs a package, not an untrained --network")
        return _export_untrained(args)
    _refuse_network_options(args)
    if args.fuse:
        return _fuse(args)
    _refuse_streams(args)
    source = args.sources[0]
    if _is_package(source):
        return _recalibrate(args, source) if args.calibrate is not None else _add_float16(args, source)
    if args.calibrate is not None:
        raise ConfigError(f"{source} is no package; a checkpoint's export is calibrated anyway")
    export = importlib.import_module("actrec_models.export.exporter").export
    written = export(Path(source), args.out, args.data, args.overwrite, args.float16, not args.no_weights, args.root)
    _print_package(written)
    return 0


def _fuse(args: argparse.Namespace) -> int:
    """Write one package of several networks."""
    if args.calibrate is not None:
        raise ConfigError("--calibrate needs a single package; a fused one is calibrated anyway")
    fuse = importlib.import_module("actrec_models.export.fuse").fuse
    written = fuse(
        args.sources,
        args.out,
        args.data,
        args.fuse,
        args.weights or (),
        overwrite=args.overwrite,
        float16=args.float16,
        root=args.root,
    )
    _print_package(written)
    return 0


def _print_package(written: ModelPackage) -> None:
    """Print a package's accuracy and rejection."""
    trained = written.provenance
    accuracy = "not measured: no test part"
    if trained.figures["test_clips"]:
        accuracy = f"{trained.accuracy:.1%} on the test part"
    print(f"{written.path}: {accuracy}; {written.rejection.note}")
    _print_float16(written)


def _refuse_streams(args: argparse.Namespace) -> None:
    """Refuse several networks without --fuse, and options of several networks for one."""
    if len(args.sources) > 1:
        raise ConfigError(f"{len(args.sources)} networks become one package with --fuse softmax or --fuse logits")
    if args.fuse or args.weights:
        raise ConfigError(
            f"--{'fuse' if args.fuse else 'weights'} needs several trained networks: give their checkpoints"
        )


def _refuse_network_options(args: argparse.Namespace) -> None:
    """Refuse options of a new network for an existing one."""
    given = {"--option": args.option, "--classes": args.classes, "--seed": args.seed is not None, "--init": args.init}
    if named := [name for name, value in given.items() if value]:
        raise ConfigError(f"{named[0]} belongs to --network; {args.sources[0]} has its own")


def _is_package(source: str) -> bool:
    """Return whether `source` is a package's folder, or a name in the zoo."""
    path = Path(source).expanduser()
    return (path / DESCRIPTION).is_file() or (not path.exists() and source in {e.name for e in zoo.list_packages()})


def _add_float16(args: argparse.Namespace, source: str) -> int:
    """Write a copy of a package with its network also in float16."""
    if not args.float16:
        raise ConfigError(
            f"{source} is a package already: add --float16 to write its network in float16 too, or --calibrate to "
            "choose its rejection again"
        )
    add_float16 = importlib.import_module("actrec_models.export.repackage").add_float16
    written = add_float16(source, args.out, args.data, args.overwrite, weights=not args.no_weights, root=args.root)
    print(f"{written.path}: {', '.join(written.precisions)}")
    _print_float16(written)
    return 0


def _recalibrate(args: argparse.Namespace, source: str) -> int:
    """Write a copy of a package with a newly chosen rejection."""
    if args.float16:
        raise ConfigError("--calibrate keeps the networks: use it without --float16")
    repackage = importlib.import_module("actrec_models.export.repackage")
    recipe = importlib.import_module("actrec_models.training.recipe").read(args.calibrate) if args.calibrate else None
    weights = not args.no_weights
    _print_package(repackage.recalibrate(source, args.out, recipe, args.data, args.overwrite, args.root, weights))
    return 0


def _print_float16(written: ModelPackage) -> None:
    half = written.float16
    if half is None:
        return
    accuracy = "not measured on a dataset" if half.accuracy is None else f"{half.accuracy:.1%} on the test part"
    print(
        f"{written.onnx_path('float16')}: {accuracy}, logits within {half.difference:.2%} of their spread of float32's"
    )


def _export_untrained(args: argparse.Namespace) -> int:
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
    _print_float16(written)
    return 0
