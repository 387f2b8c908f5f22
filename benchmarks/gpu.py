"""`actrec bench gpu`: speed on an NVIDIA GPU, and its results against the CPU's, in one process of about six minutes.

Needs no network and no installation: `PYTHONPATH=.:models python -m benchmarks.gpu` in a checkout or in the unpacked
archive of `--pack`, with CuPy, Numba, OpenCV, SciPy and PyYAML (and PyTorch and Lightning for training).
"""

import contextlib
import csv
import importlib
import itertools
import json
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from actrec import scene_flow
from actrec.cameras.simulated import SimulatedCamera
from actrec.cli import Parser, amount
from actrec.scene_flow.primal_dual import gpu
from actrec.scene_flow.primal_dual.cpu import PdFlowConfig
from actrec.scene_flow.stream import resize
from actrec.types import Intrinsics
from actrec.utils.errors import ActrecError, ConfigError, DeviceError
from benchmarks import markdown

PARTS = {"scene_flow": "benchmarks.gpu:measure_scene_flow", "training": "benchmarks.training:measure_on_gpu"}
"""`module:function` of each part, in order. It takes the seconds of a measurement and yields `Step`s."""

MINUTES = 6.0
"""Default budget: a step starts only within it."""

PACKED = ("actrec", "benchmarks", "models/actrec_models", "models/recipes")
"""Folders of the archive: sources and recipes."""

UNPACKED = ("__pycache__", "results", "*.egg-info")
"""Names of files and folders that are not in the archive."""

LARGEST_MB = 60.0
"""Of the archive, to be sent to a lent machine."""

SIZES = ((640, 480), (320, 240), (160, 120))

ODD_SIZE = (131, 97)

DT = 1 / 30

RUNS = 100
"""Of a graph that is timed on the device."""

COMMAND = "actrec bench gpu"

UNITS = {
    "frames_s": "frame/s", "pair_p50_ms": "ms", "pair_p95_ms": "ms", "graph_ms": "ms", "kernels_ms": "ms", "ms": "ms",
    "limit_ms": "ms", "of_limit": "share", "one_pass_limit_ms": "ms", "kernel_mb": "MB", "copy_gb_s": "GB/s",
    "clips_per_s": "clip/s", "clips_per_s_with_reading": "clip/s", "clips_per_s_with_reading_clip_by_clip": "clip/s",
    "gpu_used_percent": "%", "gpu_used_percent_with_reading": "%", "gpu_memory_gb": "GB",
    "read_by_a_core": "clip/s", "read_by_a_core_clip_by_clip": "clip/s",
    "gb_s": "GB/s", "median_mm_s": "mm/s", "p99_mm_s": "mm/s", "nan_differs": "share",
}  # fmt: skip
"""Unit of a column; a column without one is a plain number."""


def measure(arguments: list[str]) -> dict[str, Any]:
    """Return the tables of the selected parts; `--csv` writes them as rows of `benchmarks/results`."""
    parser = Parser(prog=COMMAND, description=__doc__, epilog="Example: actrec bench gpu --csv gpu.csv")
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated parts (default: %(default)s)")
    parser.add_argument("--seconds", type=amount, default=3.0, help="time per speed measurement (default: %(default)s)")
    parser.add_argument("--minutes", type=amount, default=MINUTES, help="budget: later steps are skipped and listed "
        "(default: %(default)s)")  # fmt: skip
    parser.add_argument("--csv", type=Path, metavar="FILE", help="file for the figures")
    parser.add_argument("--pack", type=Path, metavar="FILE", help="instead: write this .tar.gz of the files that a "
        "machine with a GPU needs")  # fmt: skip
    args = parser.parse_args(arguments)
    if args.pack is not None:
        return {"archive": [pack(args.pack)]}
    wanted = args.parts.split(",")
    if unknown := [part for part in wanted if part not in PARTS]:
        raise ConfigError(f"unknown part {', '.join(unknown)}; known: {', '.join(PARTS)}")
    if args.csv is not None and not args.csv.absolute().parent.is_dir():
        raise ConfigError(f"--csv {args.csv}: there is no such folder: make it, or name another")
    if not gpu.available():
        raise DeviceError("CuPy is not installed or finds no GPU: run it on a machine with one, and check nvidia-smi")
    ends = time.monotonic() + 60 * args.minutes
    try:
        tables: dict[str, Any] = {"machine": [machine()]}
    except (MemoryError, RuntimeError) as error:  # CuPy's
        raise DeviceError(f"the GPU cannot be used: {error}; free its memory (nvidia-smi)") from error
    for part in wanted:
        module, function = PARTS[part].split(":")
        try:
            for step in getattr(importlib.import_module(module), function)(args.seconds):
                if time.monotonic() < ends:
                    rows = step.run()
                    tables.setdefault(step.table, []).extend(rows if isinstance(rows, list) else [rows])
                else:
                    why = f"the budget of {args.minutes:g} minutes is used up: raise --minutes, or name --parts"
                    tables.setdefault("skipped", []).append({"step": f"{step.table}, {step.subject}", "why": why})
        except (ActrecError, ImportError, MemoryError, RuntimeError) as error:  # CUDA's, too; other figures are kept
            tables[f"{part}_error"] = (
                f"{error}; free memory of the GPU (nvidia-smi)" if _is_of_memory(error) else str(error)
            )
        print(f"{part} done", file=sys.stderr, flush=True)
        if args.csv is not None:
            write_csv(args.csv, tables)
    return tables


@dataclass(frozen=True)
class Step:
    """A measurement: `run` returns a row or rows of the table `table`, which are about `subject`."""

    table: str
    subject: str
    run: Callable[[], dict[str, Any] | list[dict[str, Any]]]


def pack(out: Path) -> dict[str, Any]:
    """Write the archive of sources and recipes; return its size and the command for the machine with the GPU.

    Raises:
        ConfigError: The folder of `out` is missing.
        DeviceError: The archive is too large.
    """
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"--pack {out}: there is no such folder: make it, or name another")
    root = Path(__file__).resolve().parents[1]
    files = sorted(
        path.relative_to(root)
        for folder in PACKED
        for path in (root / folder).rglob("*")
        if path.is_file() and not any(part.match(name) for part in path.relative_to(root).parents for name in UNPACKED)
    )
    with tarfile.open(out, "w:gz") as archive:
        for file in files:
            archive.add(root / file, file.as_posix())
    size = out.stat().st_size / 1e6
    if size > LARGEST_MB:
        raise DeviceError(
            f"{out} has {size:.0f} MB, more than {LARGEST_MB:g}: remove large files from {', '.join(PACKED)}"
        )
    command = f"tar xzf {out.name} && PYTHONPATH=.:models python -m benchmarks.gpu --csv gpu.csv"
    return {"file": str(out), "files": len(files), "mb": round(size, 1), "command": command}


def _is_of_memory(error: Exception) -> bool:
    """Return whether a GPU's memory is too small or in use, by PyTorch's or CuPy's error."""
    return isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__


def machine() -> dict[str, Any]:
    """Return the GPU's name and memory, versions, and the rate of a copy on the device, bytes read and written."""
    cupy = importlib.import_module("cupy")
    runtime = cupy.cuda.runtime
    properties = runtime.getDeviceProperties(0)
    return {
        "gpu": properties["name"].decode(), "memory_gb": round(properties["totalGlobalMem"] / 1e9, 1),
        "capability": f"{properties['major']}.{properties['minor']}", "driver_cuda": runtime.driverGetVersion(),
        "cupy": cupy.__version__, "cupy_cuda": runtime.runtimeGetVersion(), "copy_gb_s": round(copy_rate() / 1e9),
    }  # fmt: skip


def copy_rate() -> float:
    """Return the bytes a second, read and written, of a large copy on the device."""
    cupy = importlib.import_module("cupy")
    size = min(1 << 30, cupy.cuda.runtime.memGetInfo()[0] // 8)
    source, to = cupy.ones((size,), cupy.uint8), cupy.empty((size,), cupy.uint8)
    stream = cupy.cuda.get_current_stream()
    return 2 * size / timed(stream, lambda: cupy.copyto(to, source), 10) * 1000


def timed(stream: Any, work: Callable[[], Any], runs: int) -> float:
    """Return the median milliseconds on the device of what `work` adds to a stream, by events."""
    cuda = importlib.import_module("cupy").cuda
    times = []
    for _ in range(runs + 2):
        began, ended = cuda.Event(), cuda.Event()
        began.record(stream)
        work()
        ended.record(stream)
        ended.synchronize()
        times.append(cuda.get_elapsed_time(began, ended))
    return float(np.median(times[2:]))


# -- scene flow --------------------------------------------------------------------------------------------------------

Frame = tuple[np.ndarray, np.ndarray, Intrinsics]


def measure_scene_flow(seconds: float) -> Iterator[Step]:
    """Yield the differences to the CPU, the speed, and the time of each kernel, at each size."""
    frames = simulated_frames(8)
    for size in (*SIZES, ODD_SIZE):
        yield Step("scene_flow_against_cpu", _name(size), partial(check_size, frames, size))
    rate = copy_rate()
    for size in SIZES:
        yield Step("scene_flow", _name(size), partial(speed_of_size, frames, size, rate, seconds))
    for size in SIZES:
        yield Step("scene_flow_kernels", _name(size), partial(kernel_rows, frames, size))


def _name(size: tuple[int, int]) -> str:
    return "{}x{}".format(*size)


def simulated_frames(count: int) -> list[Frame]:
    """Return frames of the simulated camera, 640×480, with a sensor's noise and holes."""
    with SimulatedCamera(realtime=False, start_stamp_ns=0) as camera:
        read = [camera.read() for _ in range(count)]
    return [(f.color, f.depth, f.intrinsics) for f in read]  # type: ignore[misc]


def at_size(frames: list[Frame], size: tuple[int, int]) -> list[Frame]:
    """Return the frames at a width and height."""
    return [resize(*frame, *size) for frame in frames]


def check_size(frames: list[Frame], size: tuple[int, int]) -> dict[str, Any]:
    """Return the differences of the GPU's flow to the CPU's in a stream of three pairs.

    `repeated_equal`: whether a second stream, all of it by recorded graphs, gives the same bits.
    """
    small = at_size(frames[:4], size)
    on_gpu, on_cpu = (scene_flow.create("pd_flow", device=device) for device in ("cuda", "cpu"))
    ours, theirs, again = (flows(method, small) for method in (on_gpu, on_cpu, on_gpu))
    apart = np.abs(ours - theirs) * 1000
    return {
        "size": _name(size), "median_mm_s": round(float(np.nanmedian(apart)), 4),
        "p99_mm_s": round(float(np.nanquantile(apart, 0.99)), 3),
        "nan_differs": float((np.isnan(ours) != np.isnan(theirs)).mean()),
        "repeated_equal": bool(np.array_equal(ours, again, equal_nan=True)),
    }  # fmt: skip


def flows(method: scene_flow.SceneFlow, frames: list[Frame]) -> np.ndarray:
    """Return the flow of each pair of a stream, [T, H, W, 3]."""
    return np.stack([
        method.estimate(color0, depth0, color1, depth1, intrinsics, DT)
        for (color0, depth0, intrinsics), (color1, depth1, _) in itertools.pairwise(frames)
    ])  # fmt: skip


def speed_of_size(frames: list[Frame], size: tuple[int, int], rate: float, seconds: float) -> dict[str, Any]:
    """Return frames a second from numpy to numpy, and times on the device against the limit by memory.

    `graph_ms` is of a pair's graph with its copies, `kernels_ms` without. `limit_ms` is the time to move the arrays of
    all launches once at the rate of a copy, `one_pass_limit_ms` the same if each iteration were a launch.
    """
    small = at_size(frames, size)
    method: Any = scene_flow.create("pd_flow", device="cuda")
    flows(method, small)  # compiles and records
    times = pair_times(method, small, seconds)
    flow, device = method._gpu, method._gpu._device
    space = flow._space
    kernels = device.recorded(lambda: flow._kernels(space, *space.images))
    kernels_ms = timed(device.stream, kernels, RUNS)
    row = {
        "size": _name(size), "frames_s": round(len(times) / sum(times), 1),
        "pair_p50_ms": round(1000 * float(np.median(times)), 3),
        "pair_p95_ms": round(1000 * float(np.quantile(times, 0.95)), 3),
        "graph_ms": round(timed(device.stream, space.graphs[0], RUNS), 3), "kernels_ms": round(kernels_ms, 3),
    }  # fmt: skip
    traffic = count_traffic(size)
    limit_ms = 1e9 * traffic["kernel_mb"] / rate
    return row | {
        "limit_ms": round(limit_ms, 3), "of_limit": round(limit_ms / kernels_ms, 3),
        "one_pass_limit_ms": round(1e9 * traffic["one_pass_mb"] / rate, 3), "kernel_mb": traffic["kernel_mb"],
    }  # fmt: skip


def pair_times(method: scene_flow.SceneFlow, frames: list[Frame], seconds: float) -> list[float]:
    """Return the seconds of each pair of a stream, which goes through the frames forward and backward."""
    order = [*range(len(frames)), *range(len(frames) - 2, 0, -1)]
    times, began = [], time.perf_counter()
    for before, after in itertools.pairwise(itertools.cycle(order)):
        (color0, depth0, intrinsics), (color1, depth1, _) = frames[before], frames[after]
        start = time.perf_counter()
        method.estimate(color0, depth0, color1, depth1, intrinsics, DT)
        times.append(time.perf_counter() - start)
        if time.perf_counter() - began > seconds:
            return times
    raise AssertionError("the stream has no end")


class _TimedDevice(gpu.CupyDevice):
    """Records events before and after each launch, by the kernel's name."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[str, Any, Any, int]] | None = None

    def launch(self, name: str, arguments: tuple[Any, ...], *shapes: Any) -> None:
        if self.events is None:
            super().launch(name, arguments, *shapes)
            return
        cuda = self._cupy.cuda
        began, ended = cuda.Event(), cuda.Event()
        began.record(self.stream)
        super().launch(name, arguments, *shapes)
        ended.record(self.stream)
        self.events.append((name, began, ended, bytes_of(arguments)))


def kernel_rows(frames: list[Frame], size: tuple[int, int]) -> list[dict[str, Any]]:
    """Return launches, milliseconds and rate of bytes of each kernel in a pair; an event adds about 2 µs a launch."""
    cupy = importlib.import_module("cupy")
    device = _TimedDevice()
    flow = gpu.GpuFlow(PdFlowConfig(), device)
    (color0, depth0, camera), (color1, depth1, _) = at_size(frames[:2], size)
    flow.velocity((color0, depth0), (color1, depth1), (camera.fx, camera.fy, camera.cx, camera.cy), DT)
    space: Any = flow._space
    waiting = cupy.ones((1 << 28,), cupy.uint8)
    with device.stream:
        for _ in range(100):  # keeps the device busy until all launches are queued
            waiting += 1
    device.events = []
    flow._kernels(space, *space.images)
    device.wait()
    times, moved, counts = Counter[str](), Counter[str](), Counter[str]()
    for name, began, ended, size_bytes in device.events:
        times[name] += cupy.cuda.get_elapsed_time(began, ended)
        moved[name] += size_bytes
        counts[name] += 1
    return [
        {"kernel": f"{_name(size)} {name}", "launches": counts[name], "ms": round(milliseconds, 4),
         "gb_s": round(moved[name] / milliseconds / 1e6)}
        for name, milliseconds in times.most_common()
    ]  # fmt: skip


class CountingDevice:
    """A device for `GpuFlow` that computes nothing and counts launches and bytes.

    Attributes:
        launches: Number of launches by kernel.
        kernel_bytes: Bytes of the arrays that launches are given, each once a launch, by kernel.
        uploaded, downloaded: Bytes of copies.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Set all counts to 0."""
        self.launches, self.kernel_bytes, self.uploaded, self.downloaded = Counter[str](), Counter[str](), 0, 0

    def errors(self) -> Any:
        """Return a context without effect."""
        return contextlib.nullcontext()

    def empty(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return a float32 array."""
        return np.empty(shape, np.float32)

    def buffer(self, size: int) -> gpu.StagingBuffer:
        """Return a buffer of `size` bytes."""
        return gpu.StagingBuffer(np.zeros(size, np.uint8), np.zeros(size, np.uint8))

    def upload(self, buffer: gpu.StagingBuffer) -> None:
        """Count a copy."""
        self.uploaded += buffer.host.nbytes

    def download(self, buffer: gpu.StagingBuffer) -> None:
        """Count a copy."""
        self.downloaded += buffer.host.nbytes

    def launch(self, name: str, arguments: tuple[Any, ...], *shapes: Any) -> None:
        """Count a launch."""
        self.launches[name] += 1
        self.kernel_bytes[name] += bytes_of(arguments)

    def recorded(self, work: Callable[[], None]) -> Callable[[], None]:
        """Run `work`; return a call that does nothing, as a graph costs the host next to nothing."""
        work()
        return lambda: None

    def wait(self) -> None:
        """Return at once."""


def bytes_of(arguments: tuple[Any, ...]) -> int:
    """Return the bytes of the arrays among a kernel's arguments."""
    return sum(argument.nbytes for argument in arguments if hasattr(argument, "nbytes"))


def without_gpu() -> list[dict[str, Any]]:
    """Return a row for each size: launches and bytes of a pair, and `host_ms`, its time apart from the device's."""
    return [count_traffic(size) | {"host_ms": round(host_ms(size), 3)} for size in SIZES]


def count_traffic(size: tuple[int, int]) -> dict[str, Any]:
    """Return launches and 10^6 bytes of a pair in a stream.

    `one_pass_mb` is `kernel_mb` if each iteration read its state and terms and wrote its state.
    """
    device, (width, height) = CountingDevice(), size
    flow = gpu.GpuFlow(PdFlowConfig(), device)
    frames = _random_frames(size)
    for k in range(2):
        device.reset()
        flow.velocity(frames[k][:2], frames[k + 1][:2], (500.0, 500.0, width / 2, height / 2), DT)
    space: Any = flow._space
    iterations = zip(PdFlowConfig().plan((height, width)), space.shapes, strict=True)
    planes = 2 * gpu.STATE + gpu.TERMS
    one_pass = sum(4 * planes * count * rows * columns for count, (rows, columns) in iterations)
    total = sum(device.kernel_bytes.values())
    return {
        "size": _name(size), "launches": sum(device.launches.values()), "iterate": device.launches["iterate"],
        "up_mb": round(device.uploaded / 1e6, 3), "down_mb": round(device.downloaded / 1e6, 3),
        "kernel_mb": round(total / 1e6, 1),
        "one_pass_mb": round((total - device.kernel_bytes["iterate"] + one_pass) / 1e6, 1),
    }  # fmt: skip


def host_ms(size: tuple[int, int], pairs: int = 100) -> float:
    """Return the median milliseconds of a pair in a stream, from numpy to numpy, without the device's work."""
    method: Any = scene_flow.create("pd_flow", device="cpu", threads=1)
    method._gpu = gpu.GpuFlow(PdFlowConfig(), CountingDevice())
    frames, times = _random_frames(size), []
    for k in range(pairs + 2):
        (color0, depth0, intrinsics), (color1, depth1, _) = frames[k % 3], frames[(k + 1) % 3]
        began = time.perf_counter()
        method.estimate(color0, depth0, color1, depth1, intrinsics, DT)
        times.append(time.perf_counter() - began)
    return 1000 * float(np.median(times[2:]))


def _random_frames(size: tuple[int, int]) -> list[Frame]:
    (width, height), rng = size, np.random.default_rng(0)
    intrinsics = Intrinsics(width, height, 500.0, 500.0, width / 2, height / 2)
    colors = [rng.integers(0, 255, (height, width, 3), np.uint8) for _ in range(3)]
    return [(color, 1 + rng.random((height, width), np.float32), intrinsics) for color in colors]


def write_csv(path: Path, tables: dict[str, Any]) -> None:
    """Write the figures of all tables with the columns of `benchmarks/results`."""
    where = tables["machine"][0]["gpu"]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("figure", "value", "unit", "command", "commit", "machine", "note"))
        for table, rows in tables.items():
            for row in rows if isinstance(rows, list) and table != "skipped" else ():
                subject = next(iter(row.values()))
                for column, value in itertools.islice(row.items(), 1, None):
                    figure = f"gpu, {table.replace('_', ' ')}, {subject}: {column.replace('_', ' ')}"
                    writer.writerow((figure, value, UNITS.get(column, ""), COMMAND, "", where, ""))


if __name__ == "__main__":
    try:
        found = measure([argument for argument in sys.argv[1:] if argument != "--json"])
    except ActrecError as error:
        sys.exit(str(error))
    print(json.dumps(found, indent=2) if "--json" in sys.argv else markdown("gpu", found))
