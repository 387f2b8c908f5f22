"""Scene flow of a stream of frames: each is paired with the one before it, at the size that flow is estimated at."""

from dataclasses import dataclass

import numpy as np

from actrec.config import setting
from actrec.errors import InputError
from actrec.frames import NANOSECONDS, Intrinsics, RgbdFrame
from actrec.sceneflow.base import SceneFlow, resize


@dataclass(frozen=True)
class SceneFlowConfig:
    """Which method, at which size. The method's own settings are `<method>.<setting>`."""

    method: str = setting("dis", "Scene flow method: a name in actrec.sceneflow.")
    width: int = setting(320, "Width of the flow image.", unit="px", range=(16, 4096))
    height: int = setting(240, "Height of the flow image.", unit="px", range=(16, 4096))
    max_gap_s: float = setting(0.5, "Frames farther apart than this are no pair.", unit="s", range=(0.001, 10.0))


@dataclass(frozen=True)
class Flow:
    """The motion in space of what a frame shows.

    Attributes:
        stamp_ns, frame_id: Of the first frame of the pair: its pixels are those that move.
        velocity: [h, w, 3] float32 m/s, NaN where unknown.
        intrinsics: Of the flow image.
    """

    stamp_ns: int
    frame_id: str
    velocity: np.ndarray
    intrinsics: Intrinsics


class FlowPairs:
    """Makes the flow of each frame with the one before it.

    Args:
        method: Estimates it.
        config: Size and gap.
    """

    def __init__(self, method: SceneFlow, config: SceneFlowConfig):
        self._method, self._config = method, config
        self._last: RgbdFrame | None = None

    def reset(self) -> None:
        """The next frame is the first of a pair."""
        self._last = None

    def add(self, frame: RgbdFrame) -> Flow | None:
        """The flow from the frame added before to this one; None where they are no pair.

        Raises:
            InputError: The frame has no colour or no depth.
        """
        last, self._last = self._last, None
        newest = self._last = self._resized(frame)
        if last is None or last.intrinsics != newest.intrinsics:
            return None
        dt = (newest.stamp_ns - last.stamp_ns) / NANOSECONDS
        # Time that jumps back, or a gap: this frame starts anew.
        if not 0 < dt <= self._config.max_gap_s:
            return None
        assert last.colour is not None and last.depth is not None
        assert newest.colour is not None and newest.depth is not None
        found = self._method.estimate(last.colour, last.depth, newest.colour, newest.depth, last.intrinsics, dt)
        return Flow(last.stamp_ns, last.frame_id, found, last.intrinsics)

    def _resized(self, frame: RgbdFrame) -> RgbdFrame:
        if frame.colour is None or frame.depth is None:
            raise InputError("scene flow needs depth, and this frame has none")
        size = self._config.width, self._config.height
        colour, depth, intrinsics = resize(frame.colour, frame.depth, frame.intrinsics, *size)
        return RgbdFrame(frame.stamp_ns, colour, depth, intrinsics, frame.frame_id)
