"""The simulated actor in front of an Azure Kinect's depth and color cameras."""

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from actrec.simulation.scene import CameraPose, SceneFrame, performed_scene
from actrec.skeleton.layouts import AZURE_KINECT_32, KINECT_V2_25
from actrec.types import Intrinsics
from tests.core.cameras.k4a.simulated_sdk import Shot, SimulatedCameraFile

DEPTH = Intrinsics(640, 576, 504.2, 504.3, 321.4, 333.1)
COLOR = Intrinsics(1280, 720, 607.4, 607.1, 637.9, 364.6)
LENS = (0.52, -2.71, 0.0006, -0.0001, 1.57, 0.40, -2.53, 1.49)  # as the color cameras' are
_PIXELS_FROM_EDGES = 3
_EDGE = 0.05  # m between the two neighbors of a pixel


@dataclass(frozen=True)
class Place(CameraPose):
    """Pose of a camera that is not above the room's origin."""

    aside: float = 0.0
    ahead: float = 0.0

    @property
    def position(self) -> np.ndarray:
        return np.array([self.aside, -self.height, self.ahead])


COLOR_PLACE = Place(1.0, 0.0)
DEPTH_PLACE = Place(1.002, float(np.radians(6.0)), aside=0.032, ahead=-0.004)


def pose(place: Place) -> np.ndarray:
    """Return the [4, 4] transform from camera to room."""
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = place.rotation, place.position
    return out


TO_COLOR = np.linalg.inv(pose(COLOR_PLACE)) @ pose(DEPTH_PLACE)


@cache
def rendered_views(seconds: float = 2.0, color: Intrinsics = COLOR) -> tuple[SceneFrame, SceneFrame]:
    """Return the scene at a time for the color and the depth camera."""
    views = ((color, COLOR_PLACE), (DEPTH, DEPTH_PLACE))
    scenes = [performed_scene(camera, ["wave"], camera=place) for camera, place in views]
    frames = [scene.at(seconds) for scene in scenes]
    return frames[0], frames[1]


@cache
def shot(seconds: float = 2.0, color: Intrinsics = COLOR) -> Shot:
    by_color, by_depth = rendered_views(seconds, color)
    return Shot(by_color.rendering.color, by_depth.rendering.depth)


def simulated_camera(*shots: Shot, lens: tuple[float, ...] = (), **options: object) -> SimulatedCameraFile:
    """Return an Azure Kinect in front of the actor."""
    c = COLOR
    color = Intrinsics(c.width, c.height, c.fx, c.fy, c.cx, c.cy, lens)
    return SimulatedCameraFile(color, DEPTH, TO_COLOR, list(shots) or [shot()], **options)  # type: ignore[arg-type]


def azure_joints(joints: np.ndarray) -> np.ndarray:
    """Convert joints [25, 3] of `kinect_v2_25` to the [32, 3] joints of a body tracker."""
    source, target = KINECT_V2_25.index, AZURE_KINECT_32.index
    out = np.full((32, 3), np.nan)
    for name in target:
        if name in source:
            out[target[name]] = joints[source[name]]
    out[target["pelvis"]] = joints[source["spine_base"]]
    out[target["spine_chest"]] = 4 * joints[source["spine_shoulder"]] - 3 * joints[source["neck"]]
    # Joints that the canonical layout lacks.
    return np.where(np.isnan(out), joints[source["head"]], out)


def agreement(depth: np.ndarray, exact: np.ndarray, pixels: int = 1) -> np.ndarray:
    """Return, per known pixel of `depth`, its distance in m from the range of `exact` within `pixels` of it."""
    around = np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8)
    low, high = cv2.erode(exact, around), cv2.dilate(exact, around)
    known = np.isfinite(depth)
    return np.maximum(np.maximum(low - depth, depth - high), 0)[known]


def inside(exact: np.ndarray) -> np.ndarray:
    """Return [H, W] bool: pixels away from edges."""
    around = np.ones((3, 3), np.uint8)
    edges = (cv2.dilate(exact, around) - cv2.erode(exact, around) > _EDGE).astype(np.uint8)
    return cv2.dilate(edges, around, iterations=_PIXELS_FROM_EDGES) == 0
