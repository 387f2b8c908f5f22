"""One simulated scene, rendered for the color camera and the depth camera of an RGB-D camera."""

from functools import cached_property

import cv2
import numpy as np

from actrec.simulation.scene import CameraPose, Scene, performed_scene
from actrec.types import Intrinsics
from actrec.utils.geometry import rotation
from benchmarks.scene_flow import PlacedCamera

COLOR = Intrinsics(640, 480, 610.0, 608.0, 322.4, 237.1)
DEPTH = Intrinsics(424, 240, 213.0, 213.5, 211.2, 121.7)


class TwoViews:
    """Exact images of an actor from both cameras; `to_color` [4, 4] transforms points from depth to color camera."""

    def __init__(
        self,
        color: Intrinsics = COLOR,
        depth: Intrinsics = DEPTH,
        baseline: float = 0.03,
        actions: tuple[str, ...] = ("wave",),
        distance: float = 2.4,
    ):
        self.color, self.depth = color, depth
        self._actions, self._distance = actions, distance
        self.to_color = np.eye(4)
        self.to_color[:3, :3] = rotation(0, 0.012).astype(np.float64) @ rotation(1, -0.008).astype(np.float64)
        self.to_color[:3, 3] = [baseline, 0.002, -0.001]

    @cached_property
    def _scenes(self) -> tuple[Scene, Scene]:
        """The scenes of the color and the depth camera; the color camera's axes are the room's."""
        center = CameraPose().position
        color_view = PlacedCamera(axes=np.eye(3), center=center)
        depth_view = PlacedCamera(axes=self.to_color[:3, :3], center=center + self.to_color[:3, 3])
        return (
            performed_scene(self.color, self._actions, camera=color_view, distance=self._distance),
            performed_scene(self.depth, self._actions, camera=depth_view, distance=self._distance),
        )

    def at(self, seconds: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return color [H, W, 3] with its exact depth [H, W] m, and the depth camera's image [h, w] m."""
        color_view = self._scenes[0].at(seconds).rendering
        return color_view.color, color_view.depth, self._scenes[1].at(seconds).rendering.depth


def share_within(registered: np.ndarray, exact: np.ndarray, pixels: int = 1, meters: float = 0.002) -> float:
    """Return the share of registered pixels whose depth is within `meters` of the true depth at most `pixels` away."""
    window = np.ones((2 * pixels + 1, 2 * pixels + 1))
    near, far = cv2.erode(exact, window), cv2.dilate(exact, window)
    known = np.isfinite(registered)
    return float(((registered >= near - meters) & (registered <= far + meters))[known].mean())
