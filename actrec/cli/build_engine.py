"""`actrec build-engine`: builds the TensorRT engine of a model package, on the machine that it is to run on."""

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
  actrec build-engine ~/my_actions_int8 --precision int8 --recordings takes/wave.mcap,takes/point.mcap
The recognizer takes it with:  actrec run --ros-args -p backend:=tensorrt
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `actrec build-engine`."""
    parser.epilog = EPILOG
    parser.add_argument("package", help="name of one in the zoo, or its folder")
    parser.add_argument("--precision", choices=("fp32", "fp16", "int8"), help="to compute in (default: fp16)")
    parser.add_argument("--keep", metavar="GROUP,…", help="layer groups computed in float32 all the same")
    parser.add_argument(
        "--recordings",
        metavar="PATH,…",
        help="of people, to compare it on: bags, skeletons (default: simulated people)",
    )
    parser.add_argument("--most", type=int, metavar="N", help="people at once (default: 4)")
    parser.add_argument("--workspace-mb", type=int, metavar="MIB", help="memory that kernels may use (default: 1024)")
    parser.add_argument("--optimization-level", type=int, metavar="0-5", help="5 searches longest (default: 3)")
    parser.add_argument("--cache", help="folder of the engines (default: $ACTREC_ENGINES, or ~/.cache/actrec/engines)")
    parser.add_argument("--memory", choices=("auto", "pycuda", "cuda-python"), help="library of the GPU's memory")


def run(args: argparse.Namespace) -> int:
    """Build it, or finds it built, and tell how long it took."""
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
    """A bar a phase of the builder, the outermost one alone: inner ones come and go by the hundred."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._name = ""

    def __enter__(self) -> "Phases":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, name: str, step: int, steps: int) -> None:
        """Move the bar of a phase."""
        if self._bar is None:
            self._bar, self._name = tqdm(total=steps, desc=name, unit="step", disable=None), name
        if name != self._name:
            return
        self._bar.update(step - self._bar.n)
        if step >= steps:
            self._bar.close()
            self._bar = None
