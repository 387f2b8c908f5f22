"""Primal-dual scene flow on a GPU, from color and depth to velocities, as one CUDA graph a pair, through CuPy."""

import ctypes
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actrec.scene_flow.primal_dual import sweeps
from actrec.scene_flow.primal_dual.cpu import BRIDGED_PX, DEPTH_STEP, KEPT, Camera, PdFlowConfig, is_same
from actrec.utils.errors import DeviceError, MissingLibraryError, first_line

KERNELS = Path(__file__).with_name("kernels.cu")

OPTIONS = ("--std=c++17",)
"""Of the compiler."""

BLOCK = (32, 8)
"""Threads of a block along and across the rows: 32 neighbors are read in one transaction."""

STATE, TERMS = len(sweeps.STATE), len(sweeps.TERMS)
"""Planes of a state and of a level's terms, as in `kernels.cu`."""

TOGETHER, TILE = 5, 32
"""Iterations of a launch, and threads along each side of its blocks, as in `kernels.cu`."""

_INSTALL = "install the CuPy of your CUDA version alone (pip install 'cupy-cuda12x<14', CUDA 13: cupy-cuda13x)"


def available() -> bool:
    """Return whether CuPy is installed and finds a GPU.

    Raises:
        DeviceError: CuPy is installed but fails to import, or does not suit the NVIDIA driver.
    """
    cupy = _cupy()
    return cupy is not None and _finds_gpu(cupy)


def unused() -> str:
    """Return why an NVIDIA GPU is not used, with the remedy; empty without an NVIDIA driver or with CuPy."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ""
    return "" if _cupy() else f"this machine has an NVIDIA driver, but CuPy is not installed: {_INSTALL}, or device=cpu"


def _cupy() -> Any:
    """Import CuPy; return None if it is not installed."""
    try:
        return importlib.import_module("cupy")
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
            return None
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error  # CuPy's own has many lines
        raise DeviceError(f"CuPy fails to import: {first_line(cause)}: {_INSTALL}, or device=cpu") from error


def _finds_gpu(cupy: Any) -> bool:
    runtime = cupy.cuda.runtime
    try:
        return int(runtime.getDeviceCount()) > 0
    except runtime.CUDARuntimeError as error:
        absent = "cudaErrorNoDevice" in str(error) or "cudaErrorStubLibrary" in str(error)
        if absent or runtime.driverGetVersion() == 0:  # 0 without a driver
            return False
        remedy = f"update the driver or {_INSTALL}, or device=cpu"
        raise DeviceError(f"CuPy cannot use the NVIDIA driver: {first_line(error)}: {remedy}") from error


@dataclass(frozen=True)
class StagingBuffer:
    """Bytes on the host, page-locked, and the same number of them on the device.

    On a GPU that shares the host's memory, both are the same memory.
    """

    host: np.ndarray  # [N] uint8
    device: Any


class CupyDevice:
    """The first CUDA GPU, through CuPy; runs the kernels on arrays that are sliced like numpy arrays.

    All methods but `empty` and `buffer` add work to one stream; `wait` waits for it.

    Attributes:
        is_integrated: Whether the GPU shares the host's memory, so that nothing is copied.

    Raises:
        MissingLibraryError: CuPy is not installed.
        DeviceError: CuPy finds no GPU, does not suit the driver, or cannot compile the kernels.
    """

    def __init__(self) -> None:
        cupy = self._cupy = _cupy()
        if cupy is None:
            raise MissingLibraryError(
                "pd_flow on a GPU needs CuPy: pip install 'cupy-cuda12x<14' (CUDA 13: cupy-cuda13x), or device=cpu"
            )
        if not _finds_gpu(cupy):
            raise DeviceError(
                "CuPy finds no GPU: check nvidia-smi (on a Jetson: that CUDA is installed), or device=cpu"
            )
        with self.errors():
            runtime = cupy.cuda.runtime
            self._index = runtime.getDevice()
            self.is_integrated = bool(runtime.deviceGetAttribute(runtime.cudaDevAttrIntegrated, self._index))
            self.stream = cupy.cuda.Stream(non_blocking=True)
        try:
            module = cupy.RawModule(code=KERNELS.read_text(encoding="utf-8"), options=OPTIONS)
            module.compile()
        # RuntimeError: NVRTC is missing, or it is newer than the driver
        except (cupy.cuda.compiler.CompileException, RuntimeError, OSError) as error:
            raise DeviceError(
                f"CuPy cannot compile {KERNELS.name} for this GPU: {first_line(error)}: {_INSTALL}, or device=cpu"
            ) from error
        self._module, self._kernels = module, dict[str, Any]()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Raise DeviceError, with a remedy, for errors of CUDA inside of the context."""
        cuda = self._cupy.cuda
        try:
            yield
        except (cuda.memory.OutOfMemoryError, cuda.runtime.CUDARuntimeError, cuda.driver.CUDADriverError) as error:
            if "out of memory" in str(error).lower():
                remedy = "end other programs on it (nvidia-smi lists them), use smaller images, or device=cpu"
                raise DeviceError(f"the GPU's memory is full: {first_line(error)}: {remedy}") from error
            remedy = "check the GPU with nvidia-smi and restart, or device=cpu"
            raise DeviceError(f"CUDA fails in pd_flow: {first_line(error)}: {remedy}") from error

    def empty(self, shape: tuple[int, ...]) -> Any:
        """Return an uninitialized float32 array."""
        with self.stream:
            return self._cupy.empty(shape, self._cupy.float32)

    def buffer(self, size: int) -> StagingBuffer:
        """Return a buffer of `size` bytes."""
        cuda, cupy = self._cupy.cuda, self._cupy
        host = np.frombuffer(cuda.alloc_pinned_memory(size), np.uint8, size)
        if not self.is_integrated:
            with self.stream:
                return StagingBuffer(host, cupy.empty((size,), np.uint8))
        # Unified addressing: the device has page-locked memory at the host's address.
        memory = cuda.UnownedMemory(host.ctypes.data, size, host, self._index)
        return StagingBuffer(host, cupy.ndarray((size,), np.uint8, cuda.MemoryPointer(memory, 0)))

    def upload(self, buffer: StagingBuffer) -> None:
        """Copy a buffer to the device."""
        self._copy(buffer.device.data.ptr, buffer.host.ctypes.data, buffer, "memcpyHostToDevice")

    def download(self, buffer: StagingBuffer) -> None:
        """Copy a buffer to the host."""
        self._copy(buffer.host.ctypes.data, buffer.device.data.ptr, buffer, "memcpyDeviceToHost")

    def _copy(self, to: int, source: int, buffer: StagingBuffer, kind: str) -> None:
        if not self.is_integrated:
            runtime = self._cupy.cuda.runtime
            runtime.memcpyAsync(to, source, buffer.host.nbytes, getattr(runtime, kind), self.stream.ptr)

    def launch(
        self,
        name: str,
        arguments: tuple[Any, ...],
        shape: tuple[int, int],
        block: tuple[int, int] = BLOCK,
        covered: tuple[int, int] = BLOCK,
    ) -> None:
        """Launch a kernel over an image [H, W] with arrays, int and float, then rows and columns.

        A block has `block` threads along and across the rows, for `covered` pixels.
        """
        if name not in self._kernels:
            self._kernels[name] = self._module.get_function(name)
        with self.stream:
            self._kernels[name](grid_of(shape, covered), block, tuple(map(_typed, (*arguments, *shape))))

    def recorded(self, work: Callable[[], None]) -> Callable[[], None]:
        """Run `work` once; return a call that runs it again at less cost, as a CUDA graph."""
        work()  # loads the kernels, which must not happen during a capture
        self.wait()
        with self.stream:
            self.stream.begin_capture()
            try:
                work()
            finally:
                graph = self.stream.end_capture()
        return lambda: graph.launch(stream=self.stream)

    def wait(self) -> None:
        """Wait for all work."""
        self.stream.synchronize()


def grid_of(shape: tuple[int, int], covered: tuple[int, int]) -> tuple[int, int]:
    """Return the blocks along and across the rows of an image [H, W]."""
    rows, columns = shape
    return -(-columns // covered[0]), -(-rows // covered[1])


def _typed(argument: Any) -> Any:
    """Convert Python numbers to the kernels' int and float; CuPy would pass 64 bits."""
    if isinstance(argument, int):
        return np.int32(argument)
    return np.float32(argument) if isinstance(argument, float) else argument


_PAIR = 6
"""Values of a pair, as in `kernels.cu`: fx, fy, cx, cy (px), the time between the images (s), 1 for a warm start."""

_HEAD = 32
"""Bytes of an upload before depth, for the pair's values."""


class _Image:
    """Input of an image, and its pyramid: gray and depth [2, h, w] of each level, finest first."""

    def __init__(self, device: Any, shapes: list[tuple[int, int]]):
        (height, width), pixels = shapes[0], shapes[0][0] * shapes[0][1]
        self.input = device.buffer(_HEAD + 7 * pixels)
        self.pair, self.raw = self.input.device[:_HEAD], self.input.device[_HEAD : _HEAD + 4 * pixels]
        self.rgb = self.input.device[_HEAD + 4 * pixels :]
        host = self.input.host
        self.values = host[: 4 * _PAIR].view(np.float32)
        self.depth = host[_HEAD : _HEAD + 4 * pixels].view(np.float32).reshape(height, width)
        self.color = host[_HEAD + 4 * pixels :].reshape(height, width, 3)
        self.levels = [device.empty((2, *shape)) for shape in shapes]


class _Space:
    """Arrays for images of one size; all levels use the same memory."""

    def __init__(self, device: Any, shape: tuple[int, int], levels: int):
        self.shapes = [shape]
        for _ in range(levels - 1):
            height, width = self.shapes[-1]
            self.shapes.append(((height + 1) // 2, (width + 1) // 2))
        self.images = [_Image(device, self.shapes) for _ in range(2)]
        self.output = device.buffer(12 * shape[0] * shape[1])
        planes = {"start": len(KEPT), "done": len(KEPT), "state": STATE, "other": STATE, "terms": TERMS, "slopes": 4}
        planes["change"] = 1
        self._arrays = {name: device.empty((count * shape[0] * shape[1],)) for name, count in planes.items()}
        self._planes = planes
        self.graphs: list[Callable[[], None] | None] = [None, None]

    def level(self, name: str, level: int) -> Any:
        """Return an array's planes [N, h, w] at a level."""
        height, width = self.shapes[level]
        count = self._planes[name]
        return self._arrays[name][: count * height * width].reshape(count, height, width)


class GpuFlow:
    """Scene flow of pairs on a device; the second image's pyramid is kept as the next pair's first."""

    def __init__(self, config: PdFlowConfig, device: Any):
        self.config, self._device = config, device
        self._space: _Space | None = None
        self._last: tuple[tuple[int, int], Camera] | None = None

    def velocity(
        self, first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray], camera: Camera, dt: float
    ) -> np.ndarray:
        """Return the velocities [H, W, 3] m/s of two images, color and depth; NaN for unknown.

        Raises:
            DeviceError: The GPU's memory is full, or CUDA fails.
        """
        height, width = first[1].shape
        last, self._last = self._last, None
        try:
            with self._device.errors():
                out = self._velocity((height, width), first, second, camera, dt, last)
        except BaseException:
            self._space = None  # frees the memory
            raise
        self._last = (height, width), camera
        return out

    def _velocity(
        self,
        shape: tuple[int, int],
        first: tuple[np.ndarray, np.ndarray],
        second: tuple[np.ndarray, np.ndarray],
        camera: Camera,
        dt: float,
        last: tuple[tuple[int, int], Camera] | None,
    ) -> np.ndarray:
        if self._space is None or self._space.shapes[0] != shape:
            self._space = None  # frees the memory of the other size
            self._space = _Space(self._device, shape, len(self.config.plan(shape)))
        space, (old, new) = self._space, self._space.images
        follows = last == (shape, camera) and is_same(first, (old.color, old.depth))
        if not follows:
            np.copyto(old.color, first[0])
            np.copyto(old.depth, first[1])
            self._load(old, space.shapes)
        np.copyto(new.color, second[0])
        np.copyto(new.depth, second[1])
        new.values[:] = *camera, dt, follows and self.config.warm_start
        if space.graphs[0] is None:
            space.graphs[0] = self._device.recorded(lambda: self._pair(space, old, new))
        else:
            space.graphs[0]()
        self._device.wait()
        space.images.reverse()
        space.graphs.reverse()
        return space.output.host.view(np.float32).reshape(*shape, 3).copy()

    def _load(self, image: _Image, shapes: list[tuple[int, int]]) -> None:
        self._device.upload(image.input)
        self._pyramid(image, shapes)

    def _pyramid(self, image: _Image, shapes: list[tuple[int, int]]) -> None:
        """Launch the pyramid of an uploaded image."""
        launch, finest = self._device.launch, image.levels[0]
        launch("convert", (image.rgb, image.raw, finest[0], finest[1]), shapes[0])
        for level in range(1, len(shapes)):
            fine, half = image.levels[level - 1], image.levels[level]
            arguments = fine[0], fine[1], *shapes[level - 1], DEPTH_STEP, half[0], half[1]
            launch("half_size", arguments, shapes[level])

    def _pair(self, space: _Space, first: _Image, second: _Image) -> None:
        """Launch all work of a pair, whose first image is loaded."""
        self._device.upload(second.input)
        self._kernels(space, first, second)
        self._device.download(space.output)

    def _kernels(self, space: _Space, first: _Image, second: _Image) -> None:
        launch, c, shapes = self._device.launch, self.config, space.shapes
        plan, pair = c.plan(shapes[0]), second.pair
        self._pyramid(second, shapes)
        coarsest = len(plan) - 1
        flow = space.level("done", 0)[:3]
        launch("begin", (flow, pair, *shapes[0], 1 << coarsest, space.level("start", coarsest)), shapes[-1])
        for level in range(coarsest, -1, -1):
            self._level(space, level, first.levels[level], second.levels[level], pair, plan[level])
            if level:
                coarse, fine = space.level("done", level), space.level("start", level - 1)
                launch("double_size", (coarse, *shapes[level], fine), shapes[level - 1])
        depths = first.levels[0][1], second.levels[0][1]
        arguments = flow, *depths, pair, float(c.max_speed_m_s), BRIDGED_PX, space.output.device
        launch("velocity", arguments, shapes[0])

    def _level(self, space: _Space, level: int, first: Any, second: Any, pair: Any, iterations: int) -> None:
        launch, c, shape, scale = self._device.launch, self.config, space.shapes[level], 0.5**level
        names = "start", "done", "state", "other", "terms", "slopes", "change"
        start, done, state, other, terms, slopes, change = (space.level(name, level) for name in names)
        launch("gradients", (second[0], second[1], pair, scale, slopes), shape)
        images = first[0], first[1], second[0], second[1], slopes, start, pair, scale
        weights = map(float, (c.smooth_image, c.smooth_depth, c.depth_weight, c.depth_edges))
        launch("make_terms", (*images, *weights, terms, change), shape)
        source, inner = start, TILE - 2 * TOGETHER
        for ran in range(0, iterations, TOGETHER):
            count = min(TOGETHER, iterations - ran)
            arguments = source, int(ran == 0), terms, count, state
            launch("iterate", arguments, shape, (TILE, TILE), (inner, inner))
            source, state, other = state, other, state
        weights = map(float, (c.median_depth, c.median_change))
        launch("median", (source, start, first[1], change, *weights, done), shape)
