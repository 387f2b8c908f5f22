"""`actrec build-engine`: build TensorRT engines of a model package or of perception, on the machine that runs them."""

import argparse
import contextlib
import importlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import fields

from tqdm import tqdm

from actrec.inference import zoo
from actrec.utils import config
from actrec.utils.errors import ConfigError

PERCEPTION = "perception"

EPILOG = """\
Example:
  actrec build-engine deepacts_graph_nucla
  actrec build-engine ~/my_actions --precision fp32 --most 8
  actrec build-engine ~/my_actions_int8 --precision int8
  actrec build-engine perception                              # bodies, hands and faces
  actrec build-engine perception person_detection body_landmarks_full
Use it with:  actrec run --ros-args -p backend:=tensorrt
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EPILOG
    add = parser.add_argument
    add("package", help=f"name of a zoo package, or its folder; {PERCEPTION}: the networks of bodies, hands and faces")
    add("networks", nargs="*", metavar="NETWORK", help=f"networks of {PERCEPTION} (default: all)")
    add("--precision", choices=("fp32", "fp16", "int8"), help="numeric type of the engine (default: fp16)")
    add("--keep", metavar="GROUP,…", help="layer groups that stay in float32")
    add("--most", type=int, metavar="N", help=f"number of people at once (default: 4; {PERCEPTION}: 8 regions)")
    add("--workspace-mb", type=int, metavar="MIB", help="memory for kernels (default: 1024)")
    add("--optimization-level", type=int, metavar="0-5", help="builder effort (default: 3)")
    add("--cache", help="folder for engines (default: $ACTREC_ENGINES, or ~/.cache/actrec/engines)")
    add("--memory", choices=("auto", "pycuda", "cuda-python"), help="library that allocates GPU memory")


def run(args: argparse.Namespace) -> int:
    """Build the engines, or load them from the cache, and print the duration."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("actrec").setLevel(logging.INFO)
    if args.package == PERCEPTION:
        return _build_perception(args)
    if args.networks:
        raise ConfigError(f"one package at a time: {args.package}; only {PERCEPTION} has several networks")
    package = zoo.find(args.package)
    module = importlib.import_module("actrec.inference.tensorrt.backend")
    known = {field.name for field in fields(module.TensorRtConfig)}
    options = {name: value for name, value in vars(args).items() if name in known and value is not None}
    began = time.monotonic()
    with _progress_bars() as show_progress:
        backend = module.TensorRtBackend(package, progress=show_progress, **options)
    print(f"{package.name}: {backend.device}, ready in {time.monotonic() - began:.1f} s")
    return 0


def _build_perception(args: argparse.Namespace) -> int:
    """Build engines of networks of perception, with the settings that its nodes have."""
    networks = importlib.import_module("actrec.perception.networks")
    kind, files = networks.BACKENDS.get("tensorrt"), networks.files()
    if unknown := [name for name in args.networks if name not in files]:
        raise ConfigError(f"{PERCEPTION} has no network '{unknown[0]}'; known: {', '.join(files)}")
    others = ("keep", "workspace_mb", "optimization_level", "cache", "memory")
    if given := [f"--{name.replace('_', '-')}" for name in others if getattr(args, name) is not None]:
        raise ConfigError(f"{given[0]} is for model packages: {PERCEPTION} takes --precision and --most")
    options = {"precision": args.precision, "max_batch": args.most}
    settings = config.build(
        networks.NetworkConfig, {name: value for name, value in options.items() if value is not None}
    )
    for name in args.networks or files:
        began = time.monotonic()
        with _progress_bars() as show_progress:
            network = kind(files[name], settings, show_progress)
        print(f"{name}: {network.device}, ready in {time.monotonic() - began:.1f} s")
    return 0


@contextlib.contextmanager
def _progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Return a function that shows the progress of one build."""
    bars: dict[str, tqdm] = {}  # of the builder's outer phases; the hundreds of inner ones are not shown

    def show_progress(phase: str, step: int, steps: int) -> None:
        if not bars:
            bars[phase] = tqdm(total=steps, desc=phase, unit="step", disable=None)
        if phase in bars:
            bars[phase].update(step - bars[phase].n)
            if step >= steps:
                bars.pop(phase).close()

    try:
        yield show_progress
    finally:
        for bar in bars.values():
            bar.close()
