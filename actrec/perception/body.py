"""Poses of several people by MediaPipe BlazePose (Bazarevsky et al., 2020), layout `mediapipe_33`.

The person detector costs 11 ms, each pose 18 ms. MediaPipe's multi-person task runs its detector on every frame with
fewer people than the maximum, so on nearly every frame. Here the pose's own region tracks each person from frame to
frame, and the detector searches for new people every few frames. It works on 224×224 pixels and merges people close to
each other, so it is applied to the whole image and to square tiles in turn.
"""

from typing import Any

import numpy as np
from mediapipe.python import packet_getter

from actrec.perception import mediapipe_graph as mp
from actrec.perception.base import BodyEstimatorConfig, Detection, Region, StampGuard, region_from_circle, require_color
from actrec.types import RgbdFrame
from actrec.utils.config import build

SCALE = 1.25
"""Ratio of the region to the person's circle (pose_landmarks_to_roi.pbtxt)."""

NOSE, HIPS = 0, [23, 24]

Pose = tuple[Detection, Region]
"""A pose and its region in the next frame."""


class MediaPipeBody:
    """Detector and tracker of people in color images.

    Args:
        options: Fields of `BodyEstimatorConfig`.

    Raises:
        ConfigError: An option is unknown or out of range.
        MissingLibraryError: MediaPipe lacks its models.
    """

    config_class = BodyEstimatorConfig

    def __init__(self, **options: Any):
        self.config = build(BodyEstimatorConfig, options)
        self._detector = mp.Graph(
            "PoseDetectionCpu", {"IMAGE": "image"}, {"DETECTIONS": "found"}, ("pose_detection/pose_detection.tflite",)
        )
        self._landmarker = mp.Graph(
            "PoseLandmarkByRoiCpu",
            {"IMAGE": "image", "ROI": "region"},
            {"LANDMARKS": "landmarks", "AUXILIARY_LANDMARKS": "circle", "WORLD_LANDMARKS": "world"},
            ("pose_landmark/pose_landmark_full.tflite",),
            complexity=1,
        )
        self._guard = StampGuard(self.config.max_gap_s)
        self._regions: list[Region] = []
        self._until_search = self._view = 0

    def estimate(self, frame: RgbdFrame) -> list[Detection]:
        """Return the people in `frame`, at most `num_poses`, the longest tracked first.

        Raises:
            InputError: The frame has no color image or contradicts its intrinsics.
        """
        color = require_color(frame)
        if self._guard.is_discontinuous(frame.stamp_ns):
            self.reset()
        size = (color.shape[1], color.shape[0])
        image = mp.image_packet(color)
        poses = _distinct([p for p in (self._pose(image, region, size) for region in self._regions) if p])
        self._until_search -= 1
        lost = len(poses) < len(self._regions) or not poses
        if len(poses) < self.config.num_poses and (lost or self._until_search <= 0):
            poses = self._search(color, image, poses)
            self._until_search = self.config.detect_every
        self._regions = [region for _, region in poses]
        return [detection for detection, _ in poses]

    def reset(self) -> None:
        """Forget the tracked people."""
        self._regions, self._until_search, self._view = [], 0, 0

    def close(self) -> None:
        """Free the models."""
        self._detector.close()
        self._landmarker.close()

    def _search(self, color: np.ndarray, image: Any, poses: list[Pose]) -> list[Pose]:
        """Add the people that the detector finds in the next view."""
        size = (color.shape[1], color.shape[0])
        views = _views(*size)
        left, top, right, bottom = views[self._view % len(views)]
        self._view += 1
        crop = np.ascontiguousarray(color[top:bottom, left:right])
        found = self._detector.run(image=mp.image_packet(crop)).get("found")
        for score, box, points in mp.read_detections(found, right - left, bottom - top) if found is not None else []:
            if len(poses) >= self.config.num_poses or score < self.config.min_detection_score:
                break
            points = points + np.array([left, top])
            head = box[:2] + box[2:] / 2 + np.array([left, top])
            if not any(_is_same_person(detection, head, points) for detection, _ in poses):
                pose = self._pose(image, region_from_circle(points[0], points[1], SCALE), size)
                poses = _distinct([*poses, pose]) if pose else poses
        return poses

    def _pose(self, image: Any, region: Region, size: tuple[int, int]) -> Pose | None:
        """Return the pose in a region and its next region, or None without a person."""
        result = self._landmarker.run(image=image, region=mp.region_packet(region, *size))
        if not {"landmarks", "circle", "world"} <= set(result):
            return None
        points = mp.read_landmarks(result["landmarks"], *size)
        presence = [p.presence for p in packet_getter.get_proto(result["landmarks"]).landmark]
        circle = mp.read_landmarks(result["circle"], *size)[:, :2]
        scores = np.minimum(points[:, 3], np.array(presence, dtype=np.float32))
        detection = Detection("mediapipe_33", points[:, :2], mp.read_world_landmarks(result["world"]), scores)
        return detection, region_from_circle(circle[0], circle[1], SCALE)


def _views(width: int, height: int) -> list[tuple[int, int, int, int]]:
    """Return (left, top, right, bottom) of the whole image and of square tiles that overlap by a third or more."""
    short, long = min(width, height), max(width, height)
    count = 1 + int(np.ceil((long - short) / (0.6 * short)))
    starts = np.linspace(0, long - short, count).astype(int).tolist() if count > 1 else []
    tiles = [(s, 0, s + short, short) if width >= height else (0, s, short, s + short) for s in starts]
    return [(0, 0, width, height), *tiles]


def _is_same_person(detection: Detection, head: np.ndarray, points: np.ndarray) -> bool:
    """Return whether a detection (face; hip center and rim of the body's circle) is an already tracked person."""
    radius = np.linalg.norm(points[1] - points[0])
    hips = detection.pixels[HIPS].mean(axis=0)
    face = detection.pixels[NOSE]
    return bool(min(np.linalg.norm(face - head), np.linalg.norm(hips - points[0])) < 0.25 * radius)


def _distinct(poses: list[Pose]) -> list[Pose]:
    """Drop poses that coincide with an earlier one, after two regions drifted onto one person."""
    kept: list[Pose] = []
    for pose in poses:
        if not any(_coincide(pose[0], other[0]) for other in kept):
            kept.append(pose)
    return kept


def _coincide(a: Detection, b: Detection) -> bool:
    distance = np.linalg.norm(a.pixels - b.pixels, axis=1).mean()
    extent = np.linalg.norm(np.ptp(a.pixels, axis=0))
    return bool(distance < 0.12 * extent)
