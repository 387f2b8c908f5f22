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
  actrec build-engine ~/my_actions_int8 --precision int8
Use it with:  actrec run --ros-args -p backend:=tensorrt
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EPILOG
    add = parser.add_argument
    add("package", help="name of a zoo package, or its folder")
    add("--precision", choices=("fp32", "fp16", "int8"), help="numeric type of the engine (default: fp16)")
    add("--keep", metavar="GROUP,…", help="layer groups that stay in float32")
    add("--most", type=int, metavar="N", help="number of people at once (default: 4)")
    add("--workspace-mb", type=int, metavar="MIB", help="memory for kernels (default: 1024)")
    add("--optimization-level", type=int, metavar="0-5", help="builder effort (default: 3)")
    add("--cache", help="folder for engines (default: $ACTREC_ENGINES, or ~/.cache/actrec/engines)")
    add("--memory", choices=("auto", "pycuda", "cuda-python"), help="library that allocates GPU memory")


def run(args: argparse.Namespace) -> int:
    """Build the engine, or load it from the cache, and print the duration."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("actrec").setLevel(logging.INFO)
    package = zoo.find(args.package)
    module = importlib.import_module("actrec.inference.tensorrt.backend")
    known = {field.name for field in fields(module.TensorRtConfig)}
    options = {name: value for name, value in vars(args).items() if name in known and value is not None}
    began = time.monotonic()
    bars: dict[str, tqdm] = {}  # of the builder's outer phases; the hundreds of inner ones are not shown

    def show_progress(phase: str, step: int, steps: int) -> None:
        if not bars:
            bars[phase] = tqdm(total=steps, desc=phase, unit="step", disable=None)
        if phase in bars:
            bars[phase].update(step - bars[phase].n)
            if step >= steps:
                bars.pop(phase).close()

    try:
        backend = module.TensorRtBackend(package, progress=show_progress, **options)
    finally:
        for bar in bars.values():
            bar.close()
    print(f"{package.name}: {backend.device}, ready in {time.monotonic() - began:.1f} s")
    return 0
