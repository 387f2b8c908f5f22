"""`actrec build-engine`: build the TensorRT engine of a model package, on the machine that will run it."""

import argparse
import importlib
import logging
import time
from dataclasses import fields

from tqdm import tqdm

from actrec.inference import zoo

EPILOG = """\
Example:
  actrec build-engine deepacts_graph_nucla
  actrec build-engine ~/my_actions --precision fp32 --most 8
  actrec build-engine ~/my_actions_int8 --precision int8 --recordings clips/wave.mcap,clips/point.mcap
Use it with:  actrec run --ros-args -p backend:=tensorrt
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EPILOG
    parser.add_argument("package", help="name of a zoo package, or its folder")
    parser.add_argument(
        "--precision", choices=("fp32", "fp16", "int8"), help="numeric type of the engine (default: fp16)"
    )
    parser.add_argument("--keep", metavar="GROUP,…", help="layer groups that stay in float32")
    parser.add_argument(
        "--recordings",
        metavar="PATH,…",
        help="bags or skeleton files of people, to compare the engine on (default: simulated people)",
    )
    parser.add_argument("--most", type=int, metavar="N", help="number of people at once (default: 4)")
    parser.add_argument("--workspace-mb", type=int, metavar="MIB", help="memory for kernels (default: 1024)")
    parser.add_argument("--optimization-level", type=int, metavar="0-5", help="builder effort (default: 3)")
    parser.add_argument("--cache", help="folder for engines (default: $ACTREC_ENGINES, or ~/.cache/actrec/engines)")
    parser.add_argument("--memory", choices=("auto", "pycuda", "cuda-python"), help="library that allocates GPU memory")


def run(args: argparse.Namespace) -> int:
    """Build the engine, or load it from the cache, and print the duration."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("actrec").setLevel(logging.INFO)
    package = zoo.find(args.package)
    module = importlib.import_module("actrec.inference.tensorrt.backend")
    known = {field.name for field in fields(module.TensorRtConfig)}
    options = {name: value for name, value in vars(args).items() if name in known and value is not None}
    began = time.monotonic()
    with Phases() as phases:
        backend = module.TensorRtBackend(package, progress=phases, **options)
    print(f"{package.name}: {backend.device}, ready in {time.monotonic() - began:.1f} s")
    return 0


class Phases:
    """Progress bars of the builder's outer phases; the hundreds of inner ones are not shown."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._name = ""

    def __enter__(self) -> "Phases":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, name: str, step: int, steps: int) -> None:
        """Update the progress of a phase."""
        if self._bar is None:
            self._bar, self._name = tqdm(total=steps, desc=name, unit="step", disable=None), name
        if name != self._name:
            return
        self._bar.update(step - self._bar.n)
        if step >= steps:
            self._bar.close()
            self._bar = None
