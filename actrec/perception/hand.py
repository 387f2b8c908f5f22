"""Hands by MediaPipe (Zhang et al., "MediaPipe Hands", 2020), layout `hand_21`.

A hand at two metres covers some 40 of 640 pixels and MediaPipe's palm detector, which sees the whole image at 192×192,
finds none. Where bodies are known the landmark network therefore looks at a square around each wrist, and from then on
where its own landmarks were. With no bodies the palm detector searches the whole image.
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
    color_of,
    hand_from_body,
    hand_from_landmarks,
    towards,
)
from actrec.skeleton import layouts
from actrec.types import LOOSE, NANOSECONDS, Body, RgbdFrame
from actrec.utils.config import build

SIDES = ("left", "right")

WRIST, MIDDLE = 0, 2
"""Of the palm detector's seven keypoints."""

REACH = 1.0
"""How far from where it was lost a hand of no known body may be found again, in the edge of its region."""

MAX_APART, MIN_SPAN, MAX_SPAN = 0.9, 0.12, 1.4
"""How far from the body's wrist a hand's wrist may be (bodies may be a frame old), and its extent, in windows."""


@dataclass
class _Loose:
    """A hand of no known body: MediaPipe's left and right flicker, so they are summed up over the frames."""

    body_id: str
    region: Region
    seen_ns: int
    to_the_right: float = 0.0


class MediaPipeHand:
    """Finds and follows the hands of bodies, or any hands where there are no bodies.

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
        self._loose: list[_Loose] = []
        self._met = 0

    def estimate(self, frame: RgbdFrame, bodies: list[Body]) -> list[Detection]:
        """The hands in `frame`.

        Args:
            frame: With color.
            bodies: `kinect_v2_25` bodies of this or a recent frame; empty to search the whole image.

        Returns:
            At most a left and a right hand of each body, with its id; or up to `num_hands` of no known body, called
            "hand_1", "hand_2", … for as long as they are followed, their side as the network judges it so far.

        Raises:
            InputError: The frame has no color image or contradicts its intrinsics.
        """
        color = color_of(frame)
        if self._guard.broken(frame.stamp_ns):
            self.reset()
        image, size = mp.image_packet(color), (color.shape[1], color.shape[0])
        if not bodies:
            self._regions = {}
            return self._anywhere(image, size, frame.stamp_ns)
        present = {(body.body_id, side) for body in bodies for side in SIDES}
        self._regions = {key: region for key, region in self._regions.items() if key in present}
        found = [self._of_body(image, size, frame, body, side) for body in bodies for side in SIDES]
        return self._single([entry for entry in found if entry is not None])

    def reset(self) -> None:
        """Forgets the hands followed."""
        self._regions, self._loose = {}, []

    def close(self) -> None:
        """Frees the models."""
        self._landmarker.close()
        if self._palms is not None:
            self._palms.close()

    def _of_body(
        self, image: Any, size: tuple[int, int], frame: RgbdFrame, body: Body, side: str
    ) -> tuple[float, Detection] | None:
        """The hand on one arm and how far from the body's wrist it was found, in windows."""
        expected = hand_from_body(body, side, frame.intrinsics, self.config.hand_window_m)
        followed = self._regions.pop((body.body_id, side), None)
        if expected is None or not expected.meets(*size):
            return None
        wrist = body.pixels[layouts.get(body.layout).index[f"wrist_{side}"]]
        for region in (followed, expected):
            detection = self._hand(image, region, size) if region is not None else None
            if detection is None:
                continue
            apart = float(np.linalg.norm(detection.pixels[0] - wrist)) / expected.size
            span = float(np.ptp(detection.pixels, axis=0).max()) / expected.size
            if apart < MAX_APART and MIN_SPAN < span < MAX_SPAN:
                detection.side, detection.body_id = side, body.body_id
                return apart, detection
        return None

    def _single(self, found: list[tuple[float, Detection]]) -> list[Detection]:
        """Leaves of two hands found in one place the one nearer to its wrist, and follows what is left."""
        kept: list[Detection] = []
        for _, detection in sorted(found, key=lambda entry: entry[0]):
            if not any(_coincide(detection, other) for other in kept):
                kept.append(detection)
        self._regions = {(hand.body_id, hand.side): hand_from_landmarks(hand.pixels) for hand in kept}
        return [detection for _, detection in found if any(detection is hand for hand in kept)]

    def _hand(self, image: Any, region: Region, size: tuple[int, int]) -> Detection | None:
        result = self._landmarker.run(image=image, region=mp.region_packet(region, *size))
        if not {"landmarks", "world", "handedness"} <= set(result):
            return None
        points = mp.landmarks(result["landmarks"], *size)
        judged = packet_getter.get_proto(result["handedness"]).classification[0]
        inside = ((points[:, :2] >= -0.5) & (points[:, :2] < np.array(size) - 0.5)).all(axis=1)
        scores = np.where(inside, judged.score, 0.0).astype(np.float32)
        # MediaPipe takes the image for a mirror's; a camera's is none.
        side = "right" if judged.label.lower().startswith("left") else "left"
        return Detection("hand_21", points[:, :2], mp.world_landmarks(result["world"]), scores, side)

    def _anywhere(self, image: Any, size: tuple[int, int], stamp_ns: int) -> list[Detection]:
        lost_ns = stamp_ns - int(self.config.hand_max_gap_s * NANOSECONDS)
        followed = [loose for loose in self._loose if loose.seen_ns >= lost_ns]
        self._loose = sorted(followed, key=lambda loose: -loose.seen_ns)
        hands: list[Detection] = []
        for loose in self._loose:
            hand = self._hand(image, loose.region, size) if len(hands) < self.config.num_hands else None
            if hand is not None and not any(_coincide(hand, other) for other in hands):
                hands.append(self._known(loose, hand, stamp_ns))
        if len(hands) < self.config.num_hands:
            for region in self._search(image, size):
                if len(hands) < self.config.num_hands and not any(_covers(region, hand) for hand in hands):
                    hand = self._hand(image, region, size)
                    if hand is not None:
                        hands.append(self._known(self._found(hand, stamp_ns), hand, stamp_ns))
        return hands

    def _found(self, hand: Detection, stamp_ns: int) -> _Loose:
        """The hand lost near where one is found now, or a new one."""
        center = hand.pixels.mean(axis=0)
        lost = [loose for loose in self._loose if loose.seen_ns < stamp_ns]
        apart = {id(loose): np.hypot(loose.region.u - center[0], loose.region.v - center[1]) for loose in lost}
        near = [loose for loose in lost if apart[id(loose)] < REACH * loose.region.size]
        if near:
            return min(near, key=lambda loose: apart[id(loose)])
        self._met += 1
        self._loose.append(_Loose(f"{LOOSE}{self._met}", hand_from_landmarks(hand.pixels), stamp_ns))
        return self._loose[-1]

    def _known(self, loose: _Loose, hand: Detection, stamp_ns: int) -> Detection:
        """The detection with the identity and the side of the hand that it is of."""
        loose.region, loose.seen_ns = hand_from_landmarks(hand.pixels), stamp_ns
        loose.to_the_right += float(hand.scores.max()) * (1 if hand.side == "right" else -1)
        hand.body_id, hand.side = loose.body_id, "right" if loose.to_the_right >= 0 else "left"
        return hand

    def _search(self, image: Any, size: tuple[int, int]) -> list[Region]:
        """Regions of hands around the palms that the detector sees in the whole image."""
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
        for _, box, points in mp.detections(found, *size) if found is not None else []:
            center, edge = box[:2] + box[2:] / 2, float(box[2:].max())
            palm = Region(float(center[0]), float(center[1]), edge, towards(points[WRIST], points[MIDDLE]))
            # palm_detection_detection_to_roi.pbtxt: half a palm towards the fingers, 2.6 times as large.
            moved = palm.shifted(0.0, -0.5)
            regions.append(Region(moved.u, moved.v, 2.6 * edge, moved.angle))
        return regions


def _coincide(a: Detection, b: Detection) -> bool:
    apart = float(np.linalg.norm(a.pixels - b.pixels, axis=1).mean())
    return apart < 0.25 * float(np.ptp(a.pixels, axis=0).max())


def _covers(region: Region, hand: Detection) -> bool:
    center = hand.pixels.mean(axis=0)
    return bool(np.hypot(center[0] - region.u, center[1] - region.v) < 0.35 * region.size)
