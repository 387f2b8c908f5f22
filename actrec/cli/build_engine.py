"""`actrec build-engine`: build TensorRT engines of a model package or of perception.

TensorRT builds on the machine that runs the engine. TensorRT for RTX also builds ahead of time, without a GPU.
"""

import argparse
import contextlib
import importlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

from tqdm import tqdm

from actrec import inference
from actrec.inference import zoo
from actrec.inference.tensorrt.libraries import LIBRARIES, RTX, TENSORRT, checked_capabilities
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
  actrec build-engine deepacts_graph_nucla --backend tensorrt_rtx          # a workstation with an RTX card
  actrec build-engine deepacts_graph_nucla --for sm_86,sm_89               # for other machines, here without a GPU
Use it with:  actrec run --ros-args -p backend:=tensorrt
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EPILOG
    add = parser.add_argument
    add("package", help=f"name of a zoo package, or its folder; {PERCEPTION}: the networks of bodies, hands and faces")
    add("networks", nargs="*", metavar="NETWORK", help=f"networks of {PERCEPTION} (default: all)")
    add(
        "--backend",
        choices=tuple(LIBRARIES),
        help=f"library of the engine (default: {TENSORRT.backend}, with --for {RTX.backend})",
    )
    add("--for", dest="capabilities", metavar="sm_86,…", help="build ahead of time for GPUs of these compute "
        "capabilities, with TensorRT for RTX; needs no GPU")  # fmt: skip
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
    kind = inference.BACKENDS.get(_backend(args))
    known = {field.name for field in fields(kind.config_class)}
    options = {name: value for name, value in vars(args).items() if name in known and value is not None}
    if args.capabilities is not None:
        _build_ahead(args, package, config.build(kind.config_class, options))
        return 0
    began = time.monotonic()
    with _progress_bars() as show_progress:
        backend = kind(package, progress=show_progress, **options)
    print(f"{package.name}: {backend.device}, ready in {time.monotonic() - began:.1f} s")
    return 0


def _backend(args: argparse.Namespace) -> str:
    """Return the backend to build for; raise ConfigError for one that cannot build ahead of time."""
    default = TENSORRT if args.capabilities is None else RTX
    if args.capabilities is not None and args.backend not in (None, RTX.backend):
        raise ConfigError(
            f"--for is of TensorRT for RTX: leave out --backend {args.backend}, which builds on its own GPU"
        )
    return str(args.backend or default.backend)


def _build_ahead(args: argparse.Namespace, source: Any, settings: Any) -> None:
    """Build the engines of a network for compute capabilities, and print their files."""
    backend = importlib.import_module("actrec.inference.tensorrt.backend")
    names = checked_capabilities(RTX.open(), args.capabilities)
    with _progress_bars() as show_progress:
        for name, path, seconds in backend.build_ahead(source, settings, names, show_progress):
            size = path.stat().st_size / 1e6
            built = f"built in {seconds:.1f} s" if seconds else "built already"
            print(f"{source.name} for {name}: {path}, {size:.1f} MB, {built}", flush=True)


def _build_perception(args: argparse.Namespace) -> int:
    """Build engines of networks of perception, with the settings that its nodes have."""
    networks = importlib.import_module("actrec.perception.networks")
    module = importlib.import_module("actrec.perception.tensorrt_networks")
    kind, files = networks.BACKENDS.get(_backend(args)), networks.files()
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
        if args.capabilities is not None:
            _build_ahead(args, module.NetworkSource(files[name]), module.engine_settings(files[name], settings))
            continue
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
