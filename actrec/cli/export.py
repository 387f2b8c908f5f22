"""`actrec export`: write a model package from training checkpoints, or from an untrained network."""

import argparse
import importlib
import logging
from pathlib import Path

from actrec.cli import amount, names, up_to
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
  actrec export runs/everyday_package --calibrate --left-out runs/without_* --out runs/calibrated
  actrec export runs/calibrated --events 0.7 --left-out runs/without_* --out models/zoo/joint_tcn_everyday
  actrec export my_package --float16 --out ~/my_package_again
  actrec export deepacts_graph_nucla --calibrate models/recipes/deepacts_graph_nucla_reject.yaml --out ~/nucla
  actrec export deepacts_graph_nucla --figures figures.json --out models/zoo/deepacts_graph_nucla --overwrite
  actrec export --network sem_net --option frames=32 --classes wave,point,walk --out ~/sem_net_untrained
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `actrec export`."""
    parser.epilog = EPILOG
    add = parser.add_argument
    add("sources", nargs="*", metavar="checkpoint", help="checkpoint of `actrec train`; with --float16, "
        "--calibrate or --fuse also a package, or the name of one in the zoo")  # fmt: skip
    add("--out", type=Path, required=True, help="folder of the package; its name becomes the package's")
    add_data_argument(parser)
    add_root_argument(parser)
    add("--overwrite", action="store_true", help="replace an existing package")
    half = "also write the network in half precision, checked against float32: half the size, for GPUs"
    add("--float16", action="store_true", help=half)
    without = "omit PyTorch's weights: smaller, but unsuited to further training and fine-tuning"
    add("--no-weights", action="store_true", help=without)
    add("--calibrate", nargs="?", const="", metavar="RECIPE", help="of a package: choose threshold and confidence "
        "again, on training clips and other actions of its own recipe or of this one")  # fmt: skip
    add("--figures", type=Path, nargs="+", metavar="JSON", help="of a package: write these figures of `actrec eval "
        "--elsewhere --json` to its card")  # fmt: skip
    add(
        "--events",
        nargs="?",
        type=amount,
        const=1.0,
        metavar="RATE",
        help="of a package: choose the thresholds of "
        "events, for at most so many false ones a minute on people of its training part (default: %(const)s)",
    )
    add("--left-out", nargs="+", metavar="PACKAGE", help="with --calibrate or --events: choose them on people of the "
        "sets that these packages of the same recipe were trained without")  # fmt: skip
    add = parser.add_argument_group("several networks, trained separately on the same classes and window").add_argument
    one = "one package of all, softmaxes or logits summed as by `actrec eval --fuse`; without PyTorch's weights"
    add("--fuse", choices=("softmax", "logits"), help=one)
    add("--weights", type=float, nargs="+", metavar="W", help="one per network (default: equal)")
    about = "an untrained package, to try a network or its speed"
    untrained = parser.add_argument_group("without a checkpoint", about)
    add = untrained.add_argument
    add("--network", help="name of the network; `actrec models` lists them")
    add("--option", action="append", default=[], metavar="KEY=VALUE", help="option of the network; repeatable")
    add("--classes", default="", help="labels, separated by commas")
    add("--seed", type=up_to(2**31 - 1), help="seed of the random weights (default: 1)")
    add_init_argument(untrained)


def run(args: argparse.Namespace) -> int:
    """Export, check against PyTorch, choose the rejection threshold and measure the accuracy."""
    _check_options(args)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("actrec_models").setLevel(logging.INFO)
    if args.network is not None:
        written = _export_untrained(args)
        print(f"{written.path}: {written.provenance.split}; its labels mean nothing")
    elif args.fuse:
        fuse = importlib.import_module("actrec_models.export.fuse").fuse
        options = {"overwrite": args.overwrite, "float16": args.float16, "root": args.root}
        written = fuse(args.sources, args.out, args.data, args.fuse, args.weights or (), **options)
        _print_accuracy(written)
    elif not _is_package(args.sources[0]):
        if args.calibrate is not None:
            raise ConfigError(f"{args.sources[0]} is no package; a checkpoint's export is calibrated anyway")
        export, source = importlib.import_module("actrec_models.export.exporter").export, Path(args.sources[0])
        written = export(source, args.out, args.data, args.overwrite, args.float16, not args.no_weights, args.root)
        _print_accuracy(written)
    elif args.calibrate is not None:
        written = _recalibrate(args, args.sources[0])
        _print_accuracy(written)
    elif args.figures:
        add_figures = importlib.import_module("actrec_models.export.repackage").add_figures
        written = add_figures(args.sources[0], args.out, args.figures, args.overwrite, not args.no_weights)
        print(f"{written.path}: card with figures of {len(args.figures)} files")
        return 0
    elif args.events is not None:
        written = _choose_events(args, args.sources[0])
        print(f"{written.path}: {written.events.chosen_on}")
    else:
        written = _add_float16(args, args.sources[0])
        print(f"{written.path}: {', '.join(written.precisions)}")
    if half := written.float16:
        accuracy = "not measured on a dataset" if half.accuracy is None else f"{half.accuracy:.1%} on the test part"
        spread = f"logits within {half.difference:.2%} of their spread of float32's"
        print(f"{written.onnx_path('float16')}: {accuracy}, {spread}")
    return 0


def _check_options(args: argparse.Namespace) -> None:
    """Raise ConfigError for options that do not belong together."""
    if (not args.sources) == (args.network is None):
        if args.calibrate and not args.sources:
            raise ConfigError(f"--calibrate took {args.calibrate} as its recipe: put the package before it")
        raise ConfigError("give either a checkpoint or a --network")
    if args.network is not None and args.no_weights:
        raise ConfigError("--no-weights belongs to a checkpoint or a package, not to --network")
    if args.network is None:
        of_network = {"--option": args.option, "--classes": args.classes, "--init": args.init}
        given = [name for name, value in of_network.items() if value] + ["--seed"] * (args.seed is not None)
        if given:
            raise ConfigError(f"{given[0]} belongs to --network; {args.sources[0]} has its own")
        if args.fuse and args.calibrate is not None:
            raise ConfigError("--calibrate needs a single package; a fused one is calibrated anyway")
        if args.fuse:
            steps = {"--figures": args.figures, "--events": args.events is not None, "--left-out": args.left_out}
            if later := [name for name, value in steps.items() if value]:
                raise ConfigError(f"{later[0]} is a step of its own: fuse first, then give it to the package")
            return
    of_package = bool(args.sources) and _is_package(args.sources[0])
    if args.figures and (args.float16 or args.calibrate is not None or not of_package or args.fuse):
        raise ConfigError("--figures needs a package, without --float16, --calibrate, --fuse or --network")
    if args.events is not None:
        if not args.sources or not _is_package(args.sources[0]):
            raise ConfigError("--events needs a package: export the network first")
        if args.figures or args.calibrate is not None:
            other = "--figures" if args.figures else "--calibrate"
            raise ConfigError(f"--events and {other} are two steps: give them one after the other")
    elif args.left_out and args.calibrate is None:
        raise ConfigError("--left-out belongs to --calibrate and to --events: add one of them")
    if len(args.sources) > 1:
        raise ConfigError(f"{len(args.sources)} networks become one package with --fuse softmax or --fuse logits")
    if args.fuse or args.weights:
        option = "--fuse" if args.fuse else "--weights"
        raise ConfigError(f"{option} needs several trained networks: give their checkpoints")
    if args.network is not None and args.calibrate is not None:
        raise ConfigError("--calibrate needs a package, not an untrained --network")


def _is_package(source: str) -> bool:
    """Return whether `source` is a package's folder, or a name in the zoo."""
    path = Path(source).expanduser()
    return (path / DESCRIPTION).is_file() or (not path.exists() and source in {e.name for e in zoo.list_packages()})


def _add_float16(args: argparse.Namespace, source: str) -> ModelPackage:
    """Write a copy of a package with its network also in float16."""
    if not args.float16:
        raise ConfigError(
            f"{source} is a package already: add --float16 to write its network in float16 too, or --calibrate to "
            "choose its rejection again"
        )
    add_float16 = importlib.import_module("actrec_models.export.repackage").add_float16
    options = {"weights": not args.no_weights, "root": args.root}
    written: ModelPackage = add_float16(source, args.out, args.data, args.overwrite, **options)
    return written


def _recalibrate(args: argparse.Namespace, source: str) -> ModelPackage:
    """Write a copy of a package with a newly chosen rejection."""
    if args.float16:
        raise ConfigError("--calibrate keeps the networks: use it without --float16")
    recalibrate = importlib.import_module("actrec_models.export.repackage").recalibrate
    recipe = importlib.import_module("actrec_models.training.recipe").read(args.calibrate) if args.calibrate else None
    chosen = source, args.out, recipe, args.data, args.overwrite, args.root, not args.no_weights
    written: ModelPackage = recalibrate(*chosen, left_out=args.left_out or ())
    return written


def _choose_events(args: argparse.Namespace, source: str) -> ModelPackage:
    """Write a copy of a package with newly chosen thresholds of events."""
    if args.float16:
        raise ConfigError("--events keeps the networks: use it without --float16")
    choose_events = importlib.import_module("actrec_models.export.repackage").choose_events
    chosen = source, args.out, args.events, args.data, args.overwrite, args.root, not args.no_weights
    written: ModelPackage = choose_events(*chosen, left_out=args.left_out or ())
    return written


def _export_untrained(args: argparse.Namespace) -> ModelPackage:
    classes = names(args.classes)
    if len(classes) < 2:
        raise ConfigError("--network needs --classes with at least two labels, e.g. --classes wave,point")
    export = importlib.import_module("actrec_models.export.exporter").export_network
    seed, options = 1 if args.seed is None else args.seed, config.parse_pairs(args.option, "network option")
    more = {"init": args.init, "seed": seed, "overwrite": args.overwrite, "float16": args.float16}
    written: ModelPackage = export(args.network, options, classes, args.out, **more)
    return written


def _print_accuracy(written: ModelPackage) -> None:
    trained = written.provenance
    tested = trained.figures["test_clips"]
    accuracy = f"{trained.accuracy:.1%} on the test part" if tested else "not measured: no test part"
    print(f"{written.path}: {accuracy}; {written.rejection.note}")
