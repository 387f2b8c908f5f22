"""Scene flow of a stream of frames: each is paired with the one before it, at the size that flow is estimated at."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from actrec.scene_flow import base, camera_motion
from actrec.scene_flow.base import SceneFlow, resize
from actrec.scene_flow.camera_motion import CameraMotion
from actrec.types import NANOSECONDS, Intrinsics, RgbdFrame
from actrec.utils.config import setting
from actrec.utils.errors import InputError


@dataclass(frozen=True)
class SceneFlowConfig:
    """Which method, at which size. The method's own settings are `<method>.<setting>`."""

    method: str = setting("dis", "Scene flow method: a name in actrec.scene_flow.")
    width: int = setting(320, "Width of the flow image.", unit="px", range=(16, 4096))
    height: int = setting(240, "Height of the flow image.", unit="px", range=(16, 4096))
    max_gap_s: float = setting(0.5, "Frames farther apart than this are no pair.", unit="s", range=(0.001, 10.0))
    camera_motion: str = setting(
        "none",
        "What of the camera's own motion is taken away: nothing; what is estimated from the still part of the scene; "
        "or what TF says (tf).",
        choices=("none", "estimate", "tf"),
    )
    fixed_frame: str = setting("odom", "Frame in which TF tells where the camera is.")


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


Moved = Callable[[RgbdFrame, RgbdFrame], CameraMotion | None]
"""How the camera moved from one frame to another; None where nobody knows."""


class FlowPairs:
    """Makes the flow of each frame with the one before it.

    Args:
        method: Estimates it.
        config: Size, gap, and whether the camera's own motion is taken away.
        moved: Tells how the camera moved, where `camera_motion` is "tf".
        warn: Takes a line where `camera_motion` is "estimate" and nothing is found.
    """

    def __init__(
        self,
        method: SceneFlow,
        config: SceneFlowConfig,
        moved: Moved | None = None,
        warn: Callable[[str], None] = lambda line: None,
    ):
        self._method, self._config, self._moved, self._warn = method, config, moved, warn
        self._last: RgbdFrame | None = None

    def reset(self) -> None:
        """The next frame is the first of a pair."""
        self._last = None

    def add(self, frame: RgbdFrame) -> Flow | None:
        """The flow from the frame added before to this one; None where they are no pair.

        Raises:
            InputError: The frame has no color or no depth, or they are of another size than its intrinsics.
        """
        last, self._last = self._last, None
        newest = self._last = self._resized(frame)
        if last is None or last.intrinsics != newest.intrinsics:
            return None
        dt = (newest.stamp_ns - last.stamp_ns) / NANOSECONDS
        # Time that jumps back, or a gap: this frame starts anew.
        if not 0 < dt <= self._config.max_gap_s:
            return None
        known = self._moved(last, newest) if self._moved is not None else None
        found = base.flow(self._method, last, newest, dt, self._turn(last, newest, known))
        assert last.depth is not None
        motion = known if self._config.camera_motion != "estimate" else self._estimated(found, last, dt)
        if motion is not None:
            found = camera_motion.own_motion(found, last.depth, last.intrinsics, dt, motion)
        return Flow(last.stamp_ns, last.frame_id, found, last.intrinsics)

    def _turn(self, last: RgbdFrame, newest: RgbdFrame, known: CameraMotion | None) -> np.ndarray | None:
        if self._config.camera_motion == "estimate":
            return base.estimate(last, newest)
        return None if known is None else known.rotation

    def _estimated(self, flow: np.ndarray, last: RgbdFrame, dt: float) -> CameraMotion | None:
        assert last.depth is not None
        estimated = camera_motion.estimate(flow, last.depth, last.intrinsics, dt)
        if estimated is None:
            self._warn("the camera's motion stays in the flow: no third of what is seen moves as one")
        return estimated

    def _resized(self, frame: RgbdFrame) -> RgbdFrame:
        if frame.color is None or frame.depth is None:
            raise InputError("scene flow needs depth, and this frame has none")
        frame.check()  # resized, images of two sizes would look alike
        size = self._config.width, self._config.height
        color, depth, intrinsics = resize(frame.color, frame.depth, frame.intrinsics, *size)
        return RgbdFrame(frame.stamp_ns, color, depth, intrinsics, frame.frame_id)
