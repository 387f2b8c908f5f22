"""Primal-dual scene flow on a GPU: launches the CUDA kernels level by level, through CuPy."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actrec.scene_flow.primal_dual import sweeps
from actrec.scene_flow.primal_dual.cpu import DEPTH_STEP, KEPT, Camera, PdFlowConfig, coarse_start
from actrec.utils.errors import DeviceError, MissingLibraryError, first_line

KERNELS = Path(__file__).with_name("kernels.cu")

BLOCK = (32, 8)
"""Threads of a block along and across the rows: 32 neighbors are read in one transaction."""

STATE, TERMS = len(sweeps.STATE), len(sweeps.TERMS)
"""Planes of a state and of a level's terms, as in `kernels.cu`."""

_RX = sweeps.TERMS.index("rx")


def available() -> bool:
    """Return whether CuPy is installed and finds a GPU."""
    try:
        return int(importlib.import_module("cupy").cuda.runtime.getDeviceCount()) > 0
    except Exception:  # CuPy's own errors, or a missing driver library: no GPU in either case
        return False


class CupyDevice:
    """The first CUDA GPU, through CuPy; runs the kernels on float32 arrays that are sliced like numpy arrays.

    Raises:
        MissingLibraryError: CuPy is not installed.
        DeviceError: CuPy finds no GPU, or cannot compile the kernels for it.
    """

    def __init__(self) -> None:
        try:
            self._cupy: Any = importlib.import_module("cupy")
        except ImportError as error:
            raise MissingLibraryError(
                "pd_flow on a GPU needs CuPy: pip install 'cupy-cuda12x<14' (CUDA 13: cupy-cuda13x), or device=cpu"
            ) from error
        if not available():
            raise DeviceError(
                "CuPy finds no GPU: check nvidia-smi (on a Jetson: that CUDA is installed), or device=cpu"
            )
        cupy = self._cupy
        self._stream = cupy.cuda.Stream(non_blocking=True)
        try:
            module = cupy.RawModule(code=KERNELS.read_text(), options=("--std=c++17",))
            module.compile()
        except cupy.cuda.compiler.CompileException as error:
            raise DeviceError(f"CuPy cannot compile {KERNELS.name} for this GPU: {first_line(error)}") from error
        self._module, self._kernels = module, dict[str, Any]()

    def empty(self, shape: tuple[int, ...]) -> Any:
        """Return an uninitialized array."""
        with self._stream:
            return self._cupy.empty(shape, self._cupy.float32)

    def upload(self, values: np.ndarray, out: Any) -> None:
        """Copy values to a device array of the same shape."""
        out.set(np.ascontiguousarray(values, dtype=np.float32), stream=self._stream)

    def download(self, values: Any) -> np.ndarray:
        """Wait for all launched kernels and return a copy of an array."""
        with self._stream:
            host: np.ndarray = self._cupy.asnumpy(values, stream=self._stream)
        self._stream.synchronize()
        return host

    def launch(self, name: str, arguments: tuple[Any, ...], shape: tuple[int, int]) -> None:
        """Launch a kernel over an image [H, W] with arrays, int and float, then rows and columns."""
        if name not in self._kernels:
            self._kernels[name] = self._module.get_function(name)
        rows, columns = shape
        grid = -(-columns // BLOCK[0]), -(-rows // BLOCK[1])
        with self._stream:
            self._kernels[name](grid, BLOCK, tuple(map(_typed, (*arguments, rows, columns))))

    def recorded(self, work: Callable[[], None]) -> Callable[[], None]:
        """Run `work` once; return a call that launches the same kernels at less cost, as a CUDA graph."""
        work()  # loads the kernels, which must not happen during a capture
        self._stream.synchronize()
        with self._stream:
            self._stream.begin_capture()
            try:
                work()
            finally:
                graph = self._stream.end_capture()
        return lambda: graph.launch(stream=self._stream)


def _typed(argument: Any) -> Any:
    """Convert Python numbers to the kernels' int and float; CuPy would pass 64 bits."""
    if isinstance(argument, int):
        return np.int32(argument)
    return np.float32(argument) if isinstance(argument, float) else argument


@dataclass(frozen=True)
class DeviceLevel:
    """An image at one size: gray and depth [2, H, W] on the device, and its intrinsics."""

    planes: Any
    camera: Camera

    @property
    def shape(self) -> tuple[int, int]:
        """Return rows and columns."""
        return self.planes.shape[-2], self.planes.shape[-1]


@dataclass
class _Workspace:
    """Arrays of a level, reused for each pair; `iterate` launches all its iterations, None before the first run."""

    start: Any  # [10, H, W], as `KEPT`
    done: Any
    state: Any  # [13, H, W], alternates with `other`
    other: Any
    terms: Any  # [18, H, W]
    limited: Any
    change: Any
    closeness: Any
    slopes: Any
    iterate: Callable[[], None] | None = None


class GpuSolver:
    """Solver on a device with the interface of `CpuSolver`; pyramids stay on the device."""

    def __init__(self, config: PdFlowConfig, device: CupyDevice):
        self.config, self._device = config, device
        self._spaces: dict[tuple[tuple[int, int], int], _Workspace] = {}

    def pyramid(self, gray: np.ndarray, depth: np.ndarray, camera: Camera) -> list[DeviceLevel]:
        """Return the levels of an image, finest first."""
        finest = self._device.empty((2, *gray.shape))
        self._device.upload(np.stack([gray, depth]), finest)
        out = [DeviceLevel(finest, camera)]
        for _ in self.config.plan(gray.shape)[1:]:
            fine, (rows, columns) = out[-1], out[-1].shape
            half = self._device.empty((2, (rows + 1) // 2, (columns + 1) // 2))
            images = fine.planes[0], fine.planes[1], rows, columns, DEPTH_STEP, half[0], half[1]
            self._device.launch("half_size", images, half.shape[1:])
            out.append(DeviceLevel(half, tuple(value / 2 for value in fine.camera)))
        return out

    def solve(self, first: list[DeviceLevel], second: list[DeviceLevel], start: np.ndarray | None = None) -> np.ndarray:
        """Return the flow as `CpuSolver.solve`."""
        plan = self.config.plan(first[0].shape)
        spaces = [self._space(level.shape, count) for level, count in zip(first, plan, strict=True)]
        self._device.upload(coarse_start(start, len(plan), first[-1].shape), spaces[-1].start)
        for level in range(len(plan) - 1, -1, -1):
            self._level(spaces[level], first[level], second[level], plan[level])
            if level:
                arguments = spaces[level].done, *first[level].shape, spaces[level - 1].start
                self._device.launch("double_size", arguments, first[level - 1].shape)
        return self._device.download(spaces[0].done[:3])

    def _level(self, space: _Workspace, first: DeviceLevel, second: DeviceLevel, iterations: int) -> None:
        shape, launch, c = first.shape, self._device.launch, self.config
        self._terms(space, first, second)
        launch("begin", (space.start, space.state), shape)
        if space.iterate is None:
            space.iterate = self._device.recorded(lambda: self._iterate(space, shape, iterations))
        else:
            space.iterate()
        last = space.state if iterations % 2 == 0 else space.other
        launch("limit", (last, space.start, first.planes[1], space.limited), shape)
        weights = c.median_depth, c.median_change
        launch("median", (space.limited, first.planes[1], space.change, last, *weights, space.done), shape)

    def _iterate(self, space: _Workspace, shape: tuple[int, int], iterations: int) -> None:
        state, other = space.state, space.other
        for _ in range(iterations):
            self._device.launch("iterate", (state, space.terms, other), shape)
            state, other = other, state

    def _terms(self, space: _Workspace, first: DeviceLevel, second: DeviceLevel) -> None:
        launch, shape, c = self._device.launch, first.shape, self.config
        closeness, terms = space.closeness, space.terms
        launch("surface", (second.planes[1], *second.camera, closeness[0], closeness[1]), shape)
        launch("gradients", (second.planes[0], second.planes[1], closeness, space.slopes), shape)
        launch("surface", (first.planes[1], *first.camera, terms[_RX], terms[_RX + 1]), shape)
        images = first.planes[0], first.planes[1], second.planes[0], second.planes[1], space.slopes, space.start
        weights = c.smooth_image, c.smooth_depth, c.depth_weight, c.depth_edges
        launch("make_terms", (*images, *weights, terms, space.change), shape)

    def _space(self, shape: tuple[int, int], iterations: int) -> _Workspace:
        if (shape, iterations) not in self._spaces:
            planes = ((len(KEPT),), (len(KEPT),), (STATE,), (STATE,), (TERMS,), (3,), (), (2,), (4,))
            self._spaces[shape, iterations] = _Workspace(*(self._device.empty((*count, *shape)) for count in planes))
        return self._spaces[shape, iterations]
