"""Faces by MediaPipe's face mesh (Kartynnik et al., 2019), its 468 points reduced to layout `face_68`.

With known bodies, the face detector works on a square around each head: a face at two meters covers 35 of 640 pixels,
too few for detection in the whole image. Afterwards the mesh tracks the face by its own points. Without bodies, the
detector searches the whole image.
"""

from typing import Any

import numpy as np

from actrec.perception import mediapipe_graph as mp
from actrec.perception.base import (
    Detection,
    FaceEstimatorConfig,
    Region,
    StampGuard,
    angle_towards,
    head_region_from_body,
    region_around,
    require_color,
)
from actrec.types import Body, RgbdFrame
from actrec.utils.config import build

FACE_68 = (
    127, 234, 93, 58, 172, 136, 150, 176, 152, 400, 379, 365, 397, 288, 323, 454, 356,  # jaw, from the person's right
    70, 63, 105, 66, 107, 336, 296, 334, 293, 300,  # brows
    168, 197, 5, 4, 98, 97, 2, 326, 327,  # nose
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,  # eyes
    61, 40, 37, 0, 267, 270, 291, 321, 405, 17, 181, 91,  # outer lips
    78, 81, 13, 311, 308, 402, 14, 178,  # inner lips
)  # fmt: skip
"""[68] mesh indices, in the order of Sagonas et al., "300 Faces in-the-Wild", 2013 (dlib), of the mesh in MediaPipe's
`face_geometry/data/canonical_face_model_uv_visualization.png`. Jaw, brows, eyes and nose follow the table of P. Yan
(github.com/PeizhiYan/Mediapipe_2_Dlib_Landmarks, 2024), with one mesh point each and made symmetric; the lip points are
spaced as evenly as possible along the mesh's lip lines."""

EYE_CORNERS = (33, 263)
"""The outer corners of the right and left eye in the mesh."""

EYE_CORNERS_M = 0.0889
"""Distance between them in MediaPipe's canonical face model (±4.446 cm in canonical_face_model.obj)."""

SCALE = 1.5
"""Ratio of the mesh's region to the face (face_landmark_landmarks_to_roi.pbtxt)."""

UNASSIGNED_FACE = "face_"
"""Prefix of the `body_id` of a face without a known body: face_1, face_2, …"""

EYES = [0, 1]
"""Right and left eye of the face detector's six keypoints."""


class MediaPipeFace:
    """Detector and tracker of the faces of bodies, or of any faces without bodies.

    Args:
        options: Fields of `FaceEstimatorConfig`.

    Raises:
        ConfigError: An option is unknown or out of range.
        MissingLibraryError: MediaPipe lacks its models.
    """

    config_class = FaceEstimatorConfig

    def __init__(self, **options: Any):
        self.config = build(FaceEstimatorConfig, options)
        model = "face_landmark_with_attention" if self.config.face_attention else "face_landmark"
        self._mesh = mp.Graph(
            "FaceLandmarkCpu",
            {"IMAGE": "image", "ROI": "region"},
            {"LANDMARKS": "landmarks"},
            (f"face_landmark/{model}.tflite",),
            flags={"WITH_ATTENTION": self.config.face_attention},
        )
        self._near = _detector("short_range", "FaceDetectionShortRangeCpu")
        self._far: mp.Graph | None = None
        self._guard = StampGuard(self.config.face_max_gap_s)
        self._regions: dict[str, Region] = {}
        self._wait: dict[str, int] = {}
        self._unassigned: dict[str, Region] = {}
        self._count = 0

    def estimate(self, frame: RgbdFrame, bodies: list[Body]) -> list[Detection]:
        """Return the faces in `frame`.

        Args:
            frame: Frame with color.
            bodies: `kinect_v2_25` bodies of this or a recent frame; empty to search the whole image.

        Returns:
            At most one face per body, with its id; without bodies up to `num_faces` faces with ids "face_1", "face_2",
            … while they are tracked.

        Raises:
            InputError: The frame has no color image or contradicts its intrinsics.
        """
        color = require_color(frame)
        if self._guard.is_discontinuous(frame.stamp_ns):
            self.reset()
        image = mp.image_packet(color)
        if not bodies:
            self._regions, self._wait = {}, {}
            return self._search_image(color, image)
        self._unassigned = {}
        present = {body.body_id for body in bodies}
        self._regions = {key: region for key, region in self._regions.items() if key in present}
        self._wait = {key: wait for key, wait in self._wait.items() if key in present}
        found = [self._estimate_at_body(color, image, frame, body) for body in bodies]
        return [detection for detection in found if detection is not None]

    def reset(self) -> None:
        """Forget the tracked faces."""
        self._regions, self._wait, self._unassigned = {}, {}, {}

    def close(self) -> None:
        """Free the models."""
        self._mesh.close()
        self._near.close()
        if self._far is not None:
            self._far.close()

    def _estimate_at_body(self, color: np.ndarray, image: Any, frame: RgbdFrame, body: Body) -> Detection | None:
        size = (color.shape[1], color.shape[0])
        head = head_region_from_body(body, frame.intrinsics, self.config.head_window_m)
        tracked = self._regions.pop(body.body_id, None)
        if head is None or not head.is_visible(*size):
            return None
        if tracked is not None:
            mesh = self._face(image, tracked, size)
            if mesh is not None and _fits(mesh, head):
                return self._track(body.body_id, mesh, size)
        self._wait[body.body_id] = self._wait.get(body.body_id, 0) - 1
        if self._wait[body.body_id] > 0:
            return None
        self._wait[body.body_id] = self.config.face_retry_every
        regions = _search(self._near, color, head)
        mesh = self._face(image, regions[0], size) if regions else None
        return self._track(body.body_id, mesh, size) if mesh is not None and _fits(mesh, head) else None

    def _track(self, body_id: str, mesh: np.ndarray, size: tuple[int, int]) -> Detection:
        self._regions[body_id] = _next_region(mesh)
        self._wait.pop(body_id, None)
        return _detection(mesh, size, body_id)

    def _search_image(self, color: np.ndarray, image: Any) -> list[Detection]:
        height, width = color.shape[:2]
        size = (width, height)
        meshes: dict[str, np.ndarray] = {}
        for name, region in self._unassigned.items():
            mesh = self._face(image, region, size)
            # Two regions may drift onto one face; a duplicate would block the search for others.
            if mesh is not None and not any(_next_region(mesh).covers(other[:, :2]) for other in meshes.values()):
                meshes[name] = mesh
        if len(meshes) < self.config.num_faces:
            whole = Region((width - 1) / 2, (height - 1) / 2, max(width, height))
            self._far = self._far or _detector("full_range_sparse", "FaceDetectionFullRangeCpu")
            for region in _search(self._far, color, whole):
                if len(meshes) < self.config.num_faces and not any(
                    region.covers(mesh[:, :2]) for mesh in meshes.values()
                ):
                    mesh = self._face(image, region, size)
                    if mesh is not None:
                        self._count += 1
                        meshes[f"{UNASSIGNED_FACE}{self._count}"] = mesh
        self._unassigned = {name: _next_region(mesh) for name, mesh in meshes.items()}
        return [_detection(mesh, size, name) for name, mesh in meshes.items()]

    def _face(self, image: Any, region: Region, size: tuple[int, int]) -> np.ndarray | None:
        """Return the [468, 3] mesh in pixels in a region, or None without a face."""
        if not region.is_visible(*size):
            return None
        result = self._mesh.run(image=image, region=mp.region_packet(region, *size))
        return mp.read_landmarks(result["landmarks"], *size)[:, :3] if "landmarks" in result else None


def _detector(model: str, calculator: str) -> mp.Graph:
    return mp.Graph(
        calculator, {"IMAGE": "image"}, {"DETECTIONS": "found"}, (f"face_detection/face_detection_{model}.tflite",)
    )


def _search(detector: mp.Graph, color: np.ndarray, region: Region) -> list[Region]:
    """Return the regions of the faces detected in an upright square, best first."""
    height, width = color.shape[:2]
    left, top = max(int(region.u - region.size / 2), 0), max(int(region.v - region.size / 2), 0)
    right, bottom = (
        min(int(region.u + region.size / 2) + 1, width),
        min(int(region.v + region.size / 2) + 1, height),
    )
    crop = np.ascontiguousarray(color[top:bottom, left:right])
    found = detector.run(image=mp.image_packet(crop)).get("found")
    regions = []
    for _, box, points in mp.read_detections(found, right - left, bottom - top) if found is not None else []:
        eyes = points[EYES]
        center = box[:2] + box[2:] / 2
        angle = angle_towards(eyes[0], eyes[1]) - np.pi / 2
        regions.append(Region(float(center[0] + left), float(center[1] + top), SCALE * float(box[2:].max()), angle))
    return regions


def _next_region(mesh: np.ndarray) -> Region:
    right, left = mesh[list(EYE_CORNERS), :2]
    return region_around(mesh[:, :2], angle_towards(right, left) - np.pi / 2, SCALE)


def _fits(mesh: np.ndarray, head: Region) -> bool:
    """Return whether a mesh fits the body's head in place and size; with a bowed head it may slide to the chest."""
    low, high = mesh[:, :2].min(axis=0), mesh[:, :2].max(axis=0)
    distance = np.linalg.norm((low + high) / 2 - np.array([head.u, head.v]))
    return bool(distance < 0.25 * head.size and 0.15 * head.size < (high - low).max() < 0.75 * head.size)


def _detection(mesh: np.ndarray, size: tuple[int, int], body_id: str) -> Detection:
    """Return the 68 points, in meters if the eyes are as far apart as in the canonical face."""
    points = mesh[list(FACE_68)]
    right, left = mesh[list(EYE_CORNERS)]
    world = (points - mesh.mean(axis=0)) * (EYE_CORNERS_M / max(float(np.linalg.norm(left - right)), 1e-6))
    inside = ((points[:, :2] >= -0.5) & (points[:, :2] < np.array(size) - 0.5)).all(axis=1)
    return Detection("face_68", points[:, :2], world.astype(np.float32), inside.astype(np.float32), body_id=body_id)
