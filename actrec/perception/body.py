"""Poses of several people by MediaPipe BlazePose (Bazarevsky et al., 2020), layout `mediapipe_33`.

The person detector costs 11 ms, each pose 18 ms. MediaPipe's multi-person task runs its detector on every frame with
fewer people than the maximum, so on nearly every frame. Here the pose's own region tracks each person from frame to
frame, and the detector searches for new people every few frames. It works on 224×224 pixels and merges people close to
each other, so it is applied to the whole image and to square tiles in turn.
"""

from typing import Any

import numpy as np
from mediapipe.python import packet_getter

from actrec.perception.mediapipe_graph import Estimator, ImagePacket, Region, angle_towards, read_world_landmarks
from actrec.perception.pipeline import BodyEstimatorConfig, Detection
from actrec.types import RgbdFrame
from actrec.utils.config import build

SCALE = 1.25
"""Ratio of the region to the person's circle (pose_landmarks_to_roi.pbtxt)."""

NOSE, HIPS = 0, [23, 24]

Pose = tuple[Detection, Region]
"""A pose and its region in the next frame."""


class MediaPipeBody(Estimator):
    """Detector and tracker of people in color images; `options` are fields of `BodyEstimatorConfig`."""

    config_class = BodyEstimatorConfig

    def __init__(self, **options: Any):
        self.config = build(BodyEstimatorConfig, options)
        super().__init__(self.config.max_gap_s)
        self._detector = self._graph("PoseDetectionCpu", "pose_detection/pose_detection.tflite")
        self._landmarker = self._graph(
            "PoseLandmarkByRoiCpu",
            "pose_landmark/pose_landmark_full.tflite",
            ("LANDMARKS", "AUXILIARY_LANDMARKS", "WORLD_LANDMARKS"),
            region=True,
            side={"MODEL_COMPLEXITY": 1},
        )
        self._regions: list[Region] = []
        self._until_search = self._view = 0

    def estimate(self, frame: RgbdFrame) -> list[Detection]:
        """Return the people in `frame`, at most `num_poses`, the longest tracked first."""
        image = self._image(frame)
        poses = _distinct([pose for region in self._regions if (pose := self._pose(image, region))])
        self._until_search -= 1
        lost = len(poses) < len(self._regions) or not poses
        if len(poses) < self.config.num_poses and (lost or self._until_search <= 0):
            poses = self._search(image, poses)
            self._until_search = self.config.detect_every
        self._regions = [region for _, region in poses]
        return [detection for detection, _ in poses]

    def reset(self) -> None:
        """Forget the tracked people."""
        self._regions, self._until_search, self._view = [], 0, 0

    def _search(self, image: ImagePacket, poses: list[Pose]) -> list[Pose]:
        """Add the people that the detector finds in the next view."""
        views = _views(image.width, image.height)
        view = views[self._view % len(views)]
        self._view += 1
        for score, head, _, points in self._detector.detect(image, view):
            if len(poses) >= self.config.num_poses or score < self.config.min_detection_score:
                break
            if not any(_is_same_person(detection, head, points) for detection, _ in poses):
                pose = self._pose(image, _region_from_circle(points[0], points[1]))
                poses = _distinct([*poses, pose]) if pose else poses
        return poses

    def _pose(self, image: ImagePacket, region: Region) -> Pose | None:
        """Return the pose in a region and its next region, or None without a person."""
        result = self._landmarker.run(image, region)
        if not {"landmarks", "auxiliary_landmarks", "world_landmarks"} <= set(result):
            return None
        points, circle = image.landmarks(result["landmarks"]), image.landmarks(result["auxiliary_landmarks"])
        presence = [p.presence for p in packet_getter.get_proto(result["landmarks"]).landmark]
        scores = np.minimum(points[:, 3], np.array(presence, dtype=np.float32))
        world = read_world_landmarks(result["world_landmarks"])
        return Detection("mediapipe_33", points[:, :2], world, scores), _region_from_circle(*circle[:2, :2])


def _region_from_circle(center: np.ndarray, rim: np.ndarray) -> Region:
    """Return BlazePose's region of a person: the enlarged circle about `center` through `rim` (above the head)."""
    size = 2.0 * float(np.linalg.norm(rim - center)) * SCALE
    return Region(float(center[0]), float(center[1]), size, angle_towards(center, rim))


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
        pixels = pose[0].pixels
        apart = [np.linalg.norm(pixels - other.pixels, axis=1).mean() for other, _ in kept]
        if not apart or min(apart) >= 0.12 * np.linalg.norm(np.ptp(pixels, axis=0)):
            kept.append(pose)
    return kept
