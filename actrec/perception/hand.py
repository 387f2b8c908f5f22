"""Hands by MediaPipe (Zhang et al., "MediaPipe Hands", 2020), layout `hand_21`.

A hand at two meters covers some 40 of 640 pixels, too few for MediaPipe's palm detector, which sees the whole image at
192×192. With known bodies, the landmark network therefore works on a square around each wrist, and afterwards tracks
the hand by its own landmarks. Without bodies, the palm detector searches the whole image.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from mediapipe.python import packet_getter

from actrec.perception import mediapipe_graph as mp
from actrec.perception.base import (
    Detection,
    HandEstimatorConfig,
    Region,
    StampGuard,
    angle_towards,
    hand_region_from_body,
    hand_region_from_landmarks,
    require_color,
)
from actrec.skeleton import layouts
from actrec.types import NANOSECONDS, UNASSIGNED_HAND, Body, RgbdFrame
from actrec.utils.config import build

SIDES = ("left", "right")

WRIST, MIDDLE = 0, 2
"""Indices in the palm detector's seven keypoints."""

REACQUIRE_DISTANCE = 1.0
"""Largest distance at which a lost hand without a body is found again, in edges of its region."""

MAX_WRIST_DISTANCE, MIN_SPAN, MAX_SPAN = 0.9, 0.12, 1.4
"""Largest distance of the hand's wrist from the body's (which may be a frame old), and its extent, in windows."""


@dataclass
class _UnassignedHand:
    """Tracked hand without a known body; its side is a vote over frames, because MediaPipe's side flickers."""

    body_id: str
    region: Region
    stamp_ns: int
    right_votes: float = 0.0


class MediaPipeHand:
    """Detector and tracker of the hands of bodies, or of any hands without bodies.

    Args:
        options: Fields of `HandEstimatorConfig`.

    Raises:
        ConfigError: An option is unknown or out of range.
        MissingLibraryError: MediaPipe lacks its models.
    """

    config_class = HandEstimatorConfig

    def __init__(self, **options: Any):
        self.config = build(HandEstimatorConfig, options)
        complexity = 1 if self.config.hand_model == "full" else 0
        self._landmarker = mp.Graph(
            "HandLandmarkCpu",
            {"IMAGE": "image", "ROI": "region"},
            {"LANDMARKS": "landmarks", "WORLD_LANDMARKS": "world", "HANDEDNESS": "handedness"},
            (f"hand_landmark/hand_landmark_{self.config.hand_model}.tflite",),
            complexity=complexity,
        )
        self._palms: mp.Graph | None = None
        self._complexity = complexity
        self._guard = StampGuard(self.config.hand_max_gap_s)
        self._regions: dict[tuple[str, str], Region] = {}
        self._unassigned: list[_UnassignedHand] = []
        self._count = 0

    def estimate(self, frame: RgbdFrame, bodies: list[Body]) -> list[Detection]:
        """Return the hands in `frame`.

        Args:
            frame: Frame with color.
            bodies: `kinect_v2_25` bodies of this or a recent frame; empty to search the whole image.

        Returns:
            At most a left and a right hand per body, with its id; without bodies up to `num_hands` hands with ids
            "hand_1", "hand_2", … while they are tracked, and the side of most frames so far.

        Raises:
            InputError: The frame has no color image or contradicts its intrinsics.
        """
        color = require_color(frame)
        if self._guard.is_discontinuous(frame.stamp_ns):
            self.reset()
        image, size = mp.image_packet(color), (color.shape[1], color.shape[0])
        if not bodies:
            self._regions = {}
            return self._search_image(image, size, frame.stamp_ns)
        present = {(body.body_id, side) for body in bodies for side in SIDES}
        self._regions = {key: region for key, region in self._regions.items() if key in present}
        found = [self._estimate_at_arm(image, size, frame, body, side) for body in bodies for side in SIDES]
        return self._drop_duplicates([entry for entry in found if entry is not None])

    def reset(self) -> None:
        """Forget the tracked hands."""
        self._regions, self._unassigned = {}, []

    def close(self) -> None:
        """Free the models."""
        self._landmarker.close()
        if self._palms is not None:
            self._palms.close()

    def _estimate_at_arm(
        self, image: Any, size: tuple[int, int], frame: RgbdFrame, body: Body, side: str
    ) -> tuple[float, Detection] | None:
        """Return the hand on one arm and its distance from the body's wrist, in windows."""
        expected = hand_region_from_body(body, side, frame.intrinsics, self.config.hand_window_m)
        tracked = self._regions.pop((body.body_id, side), None)
        if expected is None or not expected.is_visible(*size):
            return None
        wrist = body.pixels[layouts.get(body.layout).index[f"wrist_{side}"]]
        for region in (tracked, expected):
            detection = self._hand(image, region, size) if region is not None else None
            if detection is None:
                continue
            distance = float(np.linalg.norm(detection.pixels[0] - wrist)) / expected.size
            span = float(np.ptp(detection.pixels, axis=0).max()) / expected.size
            if distance < MAX_WRIST_DISTANCE and MIN_SPAN < span < MAX_SPAN:
                detection.side, detection.body_id = side, body.body_id
                return distance, detection
        return None

    def _drop_duplicates(self, found: list[tuple[float, Detection]]) -> list[Detection]:
        """Drop of two coinciding hands the one farther from its wrist, and track the others."""
        kept: list[Detection] = []
        for _, detection in sorted(found, key=lambda entry: entry[0]):
            if not any(_coincide(detection, other) for other in kept):
                kept.append(detection)
        self._regions = {(hand.body_id, hand.side): hand_region_from_landmarks(hand.pixels) for hand in kept}
        return [detection for _, detection in found if any(detection is hand for hand in kept)]

    def _hand(self, image: Any, region: Region, size: tuple[int, int]) -> Detection | None:
        result = self._landmarker.run(image=image, region=mp.region_packet(region, *size))
        if not {"landmarks", "world", "handedness"} <= set(result):
            return None
        points = mp.read_landmarks(result["landmarks"], *size)
        handedness = packet_getter.get_proto(result["handedness"]).classification[0]
        inside = ((points[:, :2] >= -0.5) & (points[:, :2] < np.array(size) - 0.5)).all(axis=1)
        scores = np.where(inside, handedness.score, 0.0).astype(np.float32)
        # MediaPipe assumes a mirrored image.
        side = "right" if handedness.label.lower().startswith("left") else "left"
        return Detection("hand_21", points[:, :2], mp.read_world_landmarks(result["world"]), scores, side)

    def _search_image(self, image: Any, size: tuple[int, int], stamp_ns: int) -> list[Detection]:
        lost_ns = stamp_ns - int(self.config.hand_max_gap_s * NANOSECONDS)
        recent = [track for track in self._unassigned if track.stamp_ns >= lost_ns]
        self._unassigned = sorted(recent, key=lambda track: -track.stamp_ns)
        hands: list[Detection] = []
        for track in self._unassigned:
            hand = self._hand(image, track.region, size) if len(hands) < self.config.num_hands else None
            if hand is not None and not any(_coincide(hand, other) for other in hands):
                hands.append(self._update(track, hand, stamp_ns))
        if len(hands) < self.config.num_hands:
            for region in self._search(image, size):
                if len(hands) < self.config.num_hands and not any(region.covers(hand.pixels) for hand in hands):
                    hand = self._hand(image, region, size)
                    if hand is not None:
                        hands.append(self._update(self._match_track(hand, stamp_ns), hand, stamp_ns))
        return hands

    def _match_track(self, hand: Detection, stamp_ns: int) -> _UnassignedHand:
        """Return the lost track nearest to a detected hand, or a new one."""
        center = hand.pixels.mean(axis=0)
        lost = [track for track in self._unassigned if track.stamp_ns < stamp_ns]
        distance = {id(track): np.hypot(track.region.u - center[0], track.region.v - center[1]) for track in lost}
        near = [track for track in lost if distance[id(track)] < REACQUIRE_DISTANCE * track.region.size]
        if near:
            return min(near, key=lambda track: distance[id(track)])
        self._count += 1
        self._unassigned.append(
            _UnassignedHand(f"{UNASSIGNED_HAND}{self._count}", hand_region_from_landmarks(hand.pixels), stamp_ns)
        )
        return self._unassigned[-1]

    def _update(self, track: _UnassignedHand, hand: Detection, stamp_ns: int) -> Detection:
        """Update a track, and give its id and side to the detection."""
        track.region, track.stamp_ns = hand_region_from_landmarks(hand.pixels), stamp_ns
        track.right_votes += float(hand.scores.max()) * (1 if hand.side == "right" else -1)
        hand.body_id, hand.side = track.body_id, "right" if track.right_votes >= 0 else "left"
        return hand

    def _search(self, image: Any, size: tuple[int, int]) -> list[Region]:
        """Return the regions of hands around the palms detected in the whole image."""
        if self._palms is None:
            self._palms = mp.Graph(
                "PalmDetectionCpu",
                {"IMAGE": "image"},
                {"DETECTIONS": "found"},
                (f"palm_detection/palm_detection_{self.config.hand_model}.tflite",),
                complexity=self._complexity,
            )
        found = self._palms.run(image=image).get("found")
        regions = []
        for _, box, points in mp.read_detections(found, *size) if found is not None else []:
            center, edge = box[:2] + box[2:] / 2, float(box[2:].max())
            palm = Region(float(center[0]), float(center[1]), edge, angle_towards(points[WRIST], points[MIDDLE]))
            # palm_detection_detection_to_roi.pbtxt: half a palm towards the fingers, 2.6 times as large.
            moved = palm.shifted(0.0, -0.5)
            regions.append(Region(moved.u, moved.v, 2.6 * edge, moved.angle))
        return regions


def _coincide(a: Detection, b: Detection) -> bool:
    distance = float(np.linalg.norm(a.pixels - b.pixels, axis=1).mean())
    return distance < 0.25 * float(np.ptp(a.pixels, axis=0).max())
