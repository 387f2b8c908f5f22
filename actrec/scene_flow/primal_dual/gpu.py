"""The primal-dual scene flow on a GPU: which kernel runs on what, level by level."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from actrec.scene_flow.primal_dual import sweeps
from actrec.scene_flow.primal_dual.reference import DEPTH_STEP
from actrec.scene_flow.primal_dual.settings import KEPT, PdFlowConfig, coarse_start

STATE, TERMS = len(sweeps.STATE), len(sweeps.TERMS)
"""Planes of a state and of a level's terms, as in `kernels.cu`."""

_RX = sweeps.TERMS.index("rx")

Camera = tuple[float, float, float, float]


class Device(Protocol):
    """What runs the kernels; arrays are its own, float32, and sliced as numpy's are."""

    def empty(self, shape: tuple[int, ...]) -> Any:
        """An array that holds anything."""

    def upload(self, values: np.ndarray, out: Any) -> None:
        """Copies values to an array of that shape."""

    def download(self, values: Any) -> np.ndarray:
        """A copy of an array, when all that was launched is done."""

    def launch(self, name: str, arguments: tuple[Any, ...], shape: tuple[int, int]) -> None:
        """Starts a kernel over an image [H, W]: arrays, int, float, then the image's rows and columns."""

    def recorded(self, work: Callable[[], None]) -> Callable[[], None]:
        """What launches all that `work` launches, at less cost each time; has run it once."""


@dataclass(frozen=True)
class DeviceLevel:
    """An image at one size: gray and depth [2, H, W] on the device, and fx, fy, cx, cy."""

    planes: Any
    camera: Camera

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.planes.shape[-2], self.planes.shape[-1]


@dataclass
class _Workspace:
    """Arrays of a level, used for one pair after the other.

    Attributes:
        start, done: What the level starts from and ends with, [10, H, W].
        state, other: The iterations go from one to the other and back, [13, H, W].
        terms: [18, H, W].
        limited, change, closeness, slopes: Planes in between.
        iterate: Launches all of the level's iterations; None before the first time.
    """

    start: Any
    done: Any
    state: Any
    other: Any
    terms: Any
    limited: Any
    change: Any
    closeness: Any
    slopes: Any
    iterate: Callable[[], None] | None = None


class GpuSolver:
    """Solves on a device; the same calls as `CpuSolver`, its pyramids stay on the device.

    Args:
        config: Settings.
        device: What runs the kernels.
    """

    def __init__(self, config: PdFlowConfig, device: Device):
        self.config, self._device = config, device
        self._spaces: dict[tuple[tuple[int, int], int], _Workspace] = {}

    def pyramid(self, gray: np.ndarray, depth: np.ndarray, camera: Camera) -> list[DeviceLevel]:
        """The levels of an image, finest first."""
        finest = self._device.empty((2, *gray.shape))
        self._device.upload(np.stack([gray, depth]), finest)
        out = [DeviceLevel(finest, camera)]
        for _ in self.config.plan(gray.shape)[1:]:
            fine, (rows, columns) = out[-1], out[-1].shape
            half = self._device.empty((2, (rows + 1) // 2, (columns + 1) // 2))
            images = fine.planes[0], fine.planes[1], rows, columns, DEPTH_STEP, half[0], half[1]
            self._device.launch("half_size", images, half.shape[1:])
            fx, fy, cx, cy = fine.camera
            out.append(DeviceLevel(half, (fx / 2, fy / 2, cx / 2, cy / 2)))
        return out

    def solve(self, first: list[DeviceLevel], second: list[DeviceLevel], start: np.ndarray | None = None) -> np.ndarray:
        """The flow u, v (pixels) and w (metres) as [3, H, W], from the coarsest level to the finest.

        Args:
            first, second: Pyramids.
            start: A flow of full size to start from; None for rest.
        """
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
