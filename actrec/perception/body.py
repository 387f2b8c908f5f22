"""Poses of several people by BlazePose (Bazarevsky et al., 2020), layout `mediapipe_33`.

The person detector costs 6 ms, each pose 5 ms. Each pose's own region tracks the person from frame to frame, and the
detector searches for new people every few frames. It works on 224×224 pixels and merges people close to each other, so
it is applied to the whole image and to square tiles in turn.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from actrec.perception.networks import (
    PRESENCE,
    Area,
    Detector,
    Estimator,
    PerceptionNetwork,
    Region,
    SourceImage,
    angle_towards,
    sigmoid,
)
from actrec.perception.pipeline import BodyEstimatorConfig, Detection
from actrec.types import RgbdFrame
from actrec.utils.config import build

SCALE = 1.25
"""Ratio of the region to the person's circle (pose_landmarks_to_roi.pbtxt)."""

NOSE, HIPS = 0, [23, 24]

CIRCLE = (33, 34)
"""Landmarks after the 33 of the layout: the center of the person's circle and a point of its rim above the head."""

CELLS = ((8, 2), (16, 2), (32, 6))
"""Strides and counts of the person detector's anchors (pose_detection_cpu.pbtxt)."""

HEATMAP_RADIUS = 3
"""Pixels of a heatmap around a landmark that refine it (tensors_to_pose_landmarks_and_segmentation.pbtxt)."""

LOST_FRAMES = 10
"""Frames in which a lost person is searched around the last place."""

Pose = tuple[Detection, Region]
"""A pose and its region in the next frame."""


class BlazePose(Estimator):
    """Detector and tracker of people in color images; `options` are fields of `BodyEstimatorConfig`."""

    config_class = BodyEstimatorConfig

    def __init__(self, **options: Any):
        self.config = build(BodyEstimatorConfig, options)
        super().__init__(self.config.max_gap_s)
        self._detector = self._keep(Detector("person_detection", CELLS, self.config.min_detection_score, self.config))
        self._landmarker = self._keep(PerceptionNetwork(f"body_landmarks_{self.config.body_model}", self.config))
        self._regions: list[Region] = []
        self._lost: list[tuple[int, Region]] = []  # frames left to search, and where
        self._until_search = self._view = 0

    def estimate(self, frame: RgbdFrame) -> list[Detection]:
        """Return the people in `frame`, at most `num_poses`, the longest tracked first."""
        image = self._image(frame)
        poses = _distinct(self._poses(image, self._regions))
        self._note_lost(image, poses)
        self._until_search -= 1
        if len(poses) < self.config.num_poses:
            for _, region in self._lost[:1]:
                poses = self._search(image, poses, _square_around(image, region))
            if not poses or (self._until_search <= 0 and len(poses) < self.config.num_poses):
                views = _views(image.width, image.height)
                poses = self._search(image, poses, views[self._view % len(views)])
                self._view += 1
                self._until_search = self.config.detect_every
        self._regions = [region for _, region in poses]
        return [detection for detection, _ in poses]

    def reset(self) -> None:
        """Forget the tracked people."""
        self._regions, self._lost, self._until_search, self._view = [], [], 0, 0

    def _note_lost(self, image: SourceImage, poses: list[Pose]) -> None:
        """Keep the regions whose person was lost, for some frames and until a person is there again."""
        people = [detection.pixels[HIPS].mean(axis=0) for detection, _ in poses]

        def is_taken(region: Region) -> bool:
            return any(np.hypot(u - region.u, v - region.v) < 0.25 * region.size for u, v in people)

        new = [(LOST_FRAMES, region) for region in self._regions if image.shows(region)]
        older = [(left - 1, region) for left, region in self._lost[1:] + self._lost[:1] if left > 1]
        self._lost = [(left, region) for left, region in [*new, *older] if not is_taken(region)]

    def _search(self, image: SourceImage, poses: list[Pose], view: Area) -> list[Pose]:
        """Add the people that the detector finds in an area."""
        new = [
            _region_from_circle(points[0], points[1])
            for _, head, _, points in self._detector.detect(image, view)
            if not any(_is_same_person(detection, head, points) for detection, _ in poses)
        ]
        return _distinct([*poses, *self._poses(image, new[: self.config.num_poses - len(poses)])])

    def _poses(self, image: SourceImage, regions: Sequence[Region]) -> list[Pose]:
        """Return the poses in those regions that show a person, with their next regions."""
        if not regions:
            return []
        found = self._landmarker.run(image, regions)
        poses = []
        for index in np.flatnonzero(found["presence"] >= PRESENCE).tolist():
            region, landmarks = regions[index], found["landmarks"][index]
            shares = refine(landmarks[:, :2] / np.float32(self._landmarker.file.edge), found["heatmaps"][index])
            points = region.to_image(shares)
            # Visibility, and presence within the image.
            scores = sigmoid(landmarks[:33, 3:]).min(axis=1).astype(np.float32)
            world = region.turned(found["world"][index, :33])
            detection = Detection("mediapipe_33", points[:33], world, scores)
            poses.append((detection, _region_from_circle(*points[list(CIRCLE)])))
        return poses


def refine(points: np.ndarray, heatmaps: np.ndarray) -> np.ndarray:
    """Return landmarks moved to the center of mass of their heatmaps around them, where these are confident.

    Args:
        points: [V, 2] shares of the region.
        heatmaps: [V, H, W] logits.
    """
    count, height, width = heatmaps.shape
    at = np.trunc(points * np.array([width, height], np.float32)).astype(int)
    inside = ((at >= 0) & (at < (width, height))).all(axis=1)
    steps = np.arange(-HEATMAP_RADIUS, HEATMAP_RADIUS + 1)
    columns, rows = at[:, :1] + steps, at[:, 1:] + steps
    known = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    rows_in, columns_in = np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)
    logits = heatmaps[np.arange(count)[:, None, None], rows_in[:, :, None], columns_in[:, None, :]]
    weight = np.where(known, sigmoid(logits), 0.0)
    total = np.maximum(weight.sum(axis=(1, 2)), 1e-12)
    x = (weight.sum(axis=1) * columns).sum(axis=1) / total / width
    y = (weight.sum(axis=2) * rows).sum(axis=1) / total / height
    sure = inside & (weight.max(axis=(1, 2)) >= 0.5)
    return np.where(sure[:, None], np.stack([x, y], axis=1), points).astype(np.float32)


def _region_from_circle(center: np.ndarray, rim: np.ndarray) -> Region:
    """Return BlazePose's region of a person: the enlarged circle about `center` through `rim` (above the head)."""
    size = 2.0 * float(np.linalg.norm(rim - center)) * SCALE
    return Region(float(center[0]), float(center[1]), size, angle_towards(center, rim))


def _square_around(image: SourceImage, region: Region) -> Area:
    """Return a square of twice a region's size, at most the image's shorter edge, within the image."""
    edge = min(max(int(2 * region.size), 64), image.width, image.height)
    left, top = (
        int(np.clip(at - edge / 2, 0, room - edge))
        for at, room in zip((region.u, region.v), (image.width, image.height), strict=True)
    )
    return left, top, left + edge, top + edge


def _views(width: int, height: int) -> list[Area]:
    """Return the areas of the whole image and of square tiles that overlap by a third or more."""
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
