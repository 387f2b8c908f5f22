"""Poses of several people by MediaPipe BlazePose (Bazarevsky et al., 2020), layout `mediapipe_33`.

The person detector costs 11 ms, each pose 18 ms. MediaPipe's own multi-person task runs its detector on every frame in
which it sees fewer people than it may, so on nearly every frame; here each person is followed from frame to frame by
the pose's own region, and the detector looks for newcomers every few frames only. It sees 224×224 pixels and merges
people who are close to each other there, so it looks at the whole image and at square tiles of it in turn.
"""

from typing import Any

import numpy as np
from mediapipe.python import packet_getter

from actrec.perception import mediapipe_graph as mp
from actrec.perception.base import BodyEstimatorConfig, Detection, Region, StampGuard, circled, color_of
from actrec.types import RgbdFrame
from actrec.utils.config import build

SCALE = 1.25
"""How much larger than the person's circle the region is (pose_landmarks_to_roi.pbtxt)."""

NOSE, HIPS = 0, [23, 24]

Pose = tuple[Detection, Region]
"""A pose and the region in which to look for it next."""


class MediaPipeBody:
    """Finds and follows people in color images.

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
        """The people in `frame`, at most `num_poses`, those followed longest first.

        Raises:
            InputError: The frame has no color image or contradicts its intrinsics.
        """
        color = color_of(frame)
        if self._guard.broken(frame.stamp_ns):
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
        """Forgets the people followed."""
        self._regions, self._until_search, self._view = [], 0, 0

    def close(self) -> None:
        """Frees the models."""
        self._detector.close()
        self._landmarker.close()

    def _search(self, color: np.ndarray, image: Any, poses: list[Pose]) -> list[Pose]:
        """Adds the people whom the detector finds in the view whose turn it is."""
        size = (color.shape[1], color.shape[0])
        views = _views(*size)
        left, top, right, bottom = views[self._view % len(views)]
        self._view += 1
        crop = np.ascontiguousarray(color[top:bottom, left:right])
        found = self._detector.run(image=mp.image_packet(crop)).get("found")
        for score, box, points in mp.detections(found, right - left, bottom - top) if found is not None else []:
            if len(poses) >= self.config.num_poses or score < self.config.min_detection_score:
                break
            points = points + np.array([left, top])
            head = box[:2] + box[2:] / 2 + np.array([left, top])
            if not any(_is_of(detection, head, points) for detection, _ in poses):
                pose = self._pose(image, circled(points[0], points[1], SCALE), size)
                poses = _distinct([*poses, pose]) if pose else poses
        return poses

    def _pose(self, image: Any, region: Region, size: tuple[int, int]) -> Pose | None:
        """The pose in a region and where to look for it next; None where the network sees nobody."""
        result = self._landmarker.run(image=image, region=mp.region_packet(region, *size))
        if not {"landmarks", "circle", "world"} <= set(result):
            return None
        points = mp.landmarks(result["landmarks"], *size)
        presence = [p.presence for p in packet_getter.get_proto(result["landmarks"]).landmark]
        circle = mp.landmarks(result["circle"], *size)[:, :2]
        scores = np.minimum(points[:, 3], np.array(presence, dtype=np.float32))
        detection = Detection("mediapipe_33", points[:, :2], mp.world_landmarks(result["world"]), scores)
        return detection, circled(circle[0], circle[1], SCALE)


def _views(width: int, height: int) -> list[tuple[int, int, int, int]]:
    """(left, top, right, bottom) of the whole image, then of square tiles that overlap by a third or more."""
    short, long = min(width, height), max(width, height)
    count = 1 + int(np.ceil((long - short) / (0.6 * short)))
    starts = np.linspace(0, long - short, count).astype(int).tolist() if count > 1 else []
    tiles = [(s, 0, s + short, short) if width >= height else (0, s, short, s + short) for s in starts]
    return [(0, 0, width, height), *tiles]


def _is_of(detection: Detection, head: np.ndarray, points: np.ndarray) -> bool:
    """Whether the detector's find (face; hip center and rim of the body's circle) is a person already followed."""
    radius = np.linalg.norm(points[1] - points[0])
    hips = detection.pixels[HIPS].mean(axis=0)
    face = detection.pixels[NOSE]
    return bool(min(np.linalg.norm(face - head), np.linalg.norm(hips - points[0])) < 0.25 * radius)


def _distinct(poses: list[Pose]) -> list[Pose]:
    """Drops poses that lie on an earlier one: two regions that drifted onto one person."""
    kept: list[Pose] = []
    for pose in poses:
        if not any(_same(pose[0], other[0]) for other in kept):
            kept.append(pose)
    return kept


def _same(a: Detection, b: Detection) -> bool:
    apart = np.linalg.norm(a.pixels - b.pixels, axis=1).mean()
    extent = np.linalg.norm(np.ptp(a.pixels, axis=0))
    return bool(apart < 0.12 * extent)
