"""Hands and faces by MediaPipe's networks, at the wrists and heads of known bodies, or in the whole image.

- Hands: Zhang et al., "MediaPipe Hands", 2020, layout `hand_21`.
- Faces: Kartynnik et al., 2019, the 468 points of the face mesh reduced to layout `face_68`.

At two meters a hand or face covers some 40 of 640 pixels, too few for detection in the whole image. With known bodies,
hand landmarks and the face detector therefore work on a square around each wrist and head. Afterwards the landmarks
track the hand or face.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from actrec.perception.networks import (
    PRESENCE,
    Detector,
    Estimator,
    PerceptionNetwork,
    Region,
    SourceImage,
    angle_towards,
    region_around,
    sigmoid,
)
from actrec.perception.pipeline import Detection, FacePerceptionConfig, HandPerceptionConfig
from actrec.skeleton import layouts
from actrec.types import NANOSECONDS, UNASSIGNED_HAND, Body, Intrinsics, RgbdFrame
from actrec.utils.config import build

MIN_JOINT_SCORE = 0.3
"""Minimum score of the wrist or head at which a hand or face is searched."""

SIDES = ("left", "right")

WRIST, MIDDLE = 0, 2
"""Indices in the palm detector's seven keypoints."""

REACQUIRE_DISTANCE = 1.0
"""Largest distance at which a lost hand without a body is found again, in edges of its region."""

PALM_CELLS = ((8, 2), (16, 6))
"""Strides and counts of the palm detector's anchors (palm_detection_cpu.pbtxt)."""

MAX_WRIST_DISTANCE, MIN_SPAN, MAX_SPAN = 0.9, 0.12, 1.4
"""Largest distance of the hand's wrist from the body's (which may be a frame old), and its extent, in windows."""


@dataclass
class _UnassignedHand:
    """Tracked hand without a known body; its side is a vote over frames, because the network's side flickers."""

    body_id: str
    region: Region
    stamp_ns: int
    right_votes: float = 0.0


class BlazeHand(Estimator):
    """Detector and tracker of hands; `options` are fields of `HandPerceptionConfig`."""

    config_class = HandPerceptionConfig

    def __init__(self, **options: Any):
        self.config = build(HandPerceptionConfig, options)
        super().__init__(self.config.hand_max_gap_s)
        self._landmarker = self._keep(PerceptionNetwork(f"hand_landmarks_{self.config.hand_model}", self.config))
        self._detector: Detector | None = None
        self._regions: dict[tuple[str, str], Region] = {}
        self._unassigned: list[_UnassignedHand] = []
        self._count = 0

    def estimate(self, frame: RgbdFrame, bodies: list[Body]) -> list[Detection]:
        """Return the hands in `frame` of `kinect_v2_25` bodies of this or a recent frame, or without bodies any hands.

        At most a left and a right hand per body, with its id; without bodies up to `num_hands` hands with ids "hand_1",
        "hand_2", … while they are tracked, and the side of most frames so far.
        """
        image = self._image(frame)
        if not bodies:
            self._regions = {}
            return self._search_image(image, frame.stamp_ns)
        present = {(body.body_id, side) for body in bodies for side in SIDES}
        self._regions = {key: region for key, region in self._regions.items() if key in present}
        found = self._at_arms(image, frame.intrinsics, bodies)
        kept: list[Detection] = []
        for _, detection in sorted(found, key=lambda entry: entry[0]):
            if not any(_coincide(detection, other) for other in kept):
                kept.append(detection)
        self._regions = {(hand.body_id, hand.side): hand_region_from_landmarks(hand.pixels) for hand in kept}
        return [detection for _, detection in found if any(detection is hand for hand in kept)]

    def reset(self) -> None:
        """Forget the tracked hands."""
        self._regions, self._unassigned = {}, []

    def _at_arms(self, image: SourceImage, intrinsics: Intrinsics, bodies: list[Body]) -> list[tuple[float, Detection]]:
        """Return the hands on the arms and their distances from the bodies' wrists, in windows.

        Regions of the last frame come first, then regions expected from the bodies.
        """
        window_m = self.config.hand_window_m
        expected = (
            (body, side, hand_region_from_body(body, side, intrinsics, window_m)) for body in bodies for side in SIDES
        )
        arms = [(body, side, region) for body, side, region in expected if region and image.shows(region)]
        found: dict[int, tuple[float, Detection]] = {}
        for tracked in (True, False):
            tried = [
                (index, region)
                for index, (body, side, window) in enumerate(arms)
                if index not in found
                and (region := self._regions.get((body.body_id, side)) if tracked else window) is not None
            ]
            hands = self._hands(image, [region for _, region in tried])
            for (index, _), hand in zip(tried, hands, strict=True):
                body, side, window = arms[index]
                if hand is not None and (distance := _distance_from_wrist(hand, body, side, window)) is not None:
                    hand.side, hand.body_id = side, body.body_id
                    found[index] = distance, hand
        return [found[index] for index in sorted(found)]

    def _hands(self, image: SourceImage, regions: Sequence[Region]) -> list[Detection | None]:
        """Return the hand in each region, or None."""
        if not regions:
            return []
        found = self._landmarker.run(image, regions)
        hands: list[Detection | None] = []
        for index, region in enumerate(regions):
            if found["presence"][index] < PRESENCE:
                hands.append(None)
                continue
            pixels = region.to_image(found["landmarks"][index, :, :2] / np.float32(self._landmarker.file.edge))
            handedness = float(found["handedness"][index])  # probability of a left hand in a mirrored image
            scores = np.where(image.contains(pixels), max(handedness, 1.0 - handedness), 0.0).astype(np.float32)
            world = region.turned(found["world"][index])
            hands.append(Detection("hand_21", pixels, world, scores, "right" if handedness >= 0.5 else "left"))
        return hands

    def _search_image(self, image: SourceImage, stamp_ns: int) -> list[Detection]:
        lost_ns = stamp_ns - int(self.config.hand_max_gap_s * NANOSECONDS)
        recent = [track for track in self._unassigned if track.stamp_ns >= lost_ns]
        self._unassigned = sorted(recent, key=lambda track: -track.stamp_ns)
        hands: list[Detection] = []
        tracked = self._hands(image, [track.region for track in self._unassigned])
        for track, hand in zip(self._unassigned, tracked, strict=True):
            if (
                len(hands) < self.config.num_hands
                and hand is not None
                and not any(_coincide(hand, other) for other in hands)
            ):
                hands.append(self._update(track, hand, stamp_ns))
        if len(hands) < self.config.num_hands:
            for region in self._search(image):
                if len(hands) < self.config.num_hands and not any(region.covers(hand.pixels) for hand in hands):
                    hand = self._hands(image, [region])[0]
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
        region = hand_region_from_landmarks(hand.pixels)
        self._unassigned.append(_UnassignedHand(f"{UNASSIGNED_HAND}{self._count}", region, stamp_ns))
        return self._unassigned[-1]

    def _update(self, track: _UnassignedHand, hand: Detection, stamp_ns: int) -> Detection:
        """Update a track, and give its id and side to the detection."""
        track.region, track.stamp_ns = hand_region_from_landmarks(hand.pixels), stamp_ns
        track.right_votes += float(hand.scores.max()) * (1 if hand.side == "right" else -1)
        hand.body_id, hand.side = track.body_id, "right" if track.right_votes >= 0 else "left"
        return hand

    def _search(self, image: SourceImage) -> list[Region]:
        """Return the regions of hands around the palms detected in the whole image."""
        if self._detector is None:
            name = f"palm_detection_{self.config.hand_model}"
            self._detector = self._keep(Detector(name, PALM_CELLS, PRESENCE, self.config))
        regions = []
        for _, center, edge, points in self._detector.detect(image):
            palm = Region(float(center[0]), float(center[1]), edge, angle_towards(points[WRIST], points[MIDDLE]))
            # palm_detection_detection_to_roi.pbtxt: half a palm towards the fingers, 2.6 times as large.
            moved = palm.shifted(0.0, -0.5)
            regions.append(Region(moved.u, moved.v, 2.6 * edge, moved.angle))
        return regions


def hand_region_from_landmarks(pixels: np.ndarray) -> Region:
    """Return the region of a hand in the next frame, from its 21 landmarks in pixels."""
    knuckles = 0.25 * (pixels[5] + pixels[13]) + 0.5 * pixels[9]
    palm = pixels[[0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18]]
    return region_around(palm, angle_towards(pixels[0], knuckles), scale=2.0, shift_down=-0.1)


def hand_region_from_body(body: Body, side: str, intrinsics: Intrinsics, hand_m: float) -> Region | None:
    """Return a square of `hand_m` around the hand of a `kinect_v2_25` body, pointing from elbow to fingers.

    Its size follows from the wrist's distance, or from the forearm in pixels; None if the forearm is unknown.
    """
    index = layouts.get(body.layout).index
    elbow, wrist, hand = (index[f"{joint}_{side}"] for joint in ("elbow", "wrist", "hand"))
    pixels = body.pixels
    if body.scores[wrist] < MIN_JOINT_SCORE or not np.isfinite(pixels[[elbow, wrist]]).all():
        return None
    forearm = pixels[wrist] - pixels[elbow]
    z = body.positions[wrist, 2]
    size = hand_m * intrinsics.fx / float(z) if np.isfinite(z) and z > 0.1 else 1.2 * float(np.linalg.norm(forearm))
    center = pixels[hand] if np.isfinite(pixels[hand]).all() else pixels[wrist] + 0.25 * forearm
    # The direction of a foreshortened forearm is unreliable; the hand is then assumed upright.
    is_long = np.linalg.norm(center - pixels[elbow]) > 0.3 * size
    angle = angle_towards(pixels[elbow], center) if is_long else 0.0
    return Region(float(center[0]), float(center[1]), size, angle)


def _distance_from_wrist(hand: Detection, body: Body, side: str, expected: Region) -> float | None:
    """Return a hand's distance from the body's wrist in windows, or None if place or size do not fit."""
    wrist = body.pixels[layouts.get(body.layout).index[f"wrist_{side}"]]
    distance = float(np.linalg.norm(hand.pixels[0] - wrist)) / expected.size
    span = float(np.ptp(hand.pixels, axis=0).max()) / expected.size
    return distance if distance < MAX_WRIST_DISTANCE and MIN_SPAN < span < MAX_SPAN else None


def _coincide(a: Detection, b: Detection) -> bool:
    distance = float(np.linalg.norm(a.pixels - b.pixels, axis=1).mean())
    return distance < 0.25 * float(np.ptp(a.pixels, axis=0).max())


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

NEAR_CELLS, FAR_CELLS = ((8, 2), (16, 6)), ((4, 1),)
"""Strides and counts of the face detectors' anchors (face_detection_short_range.pbtxt and …_full_range.pbtxt)."""

FACE_SCALE = 1.5
"""Ratio of the mesh's region to the face (face_landmark_landmarks_to_roi.pbtxt)."""

UNASSIGNED_FACE = "face_"
"""Prefix of the `body_id` of a face without a known body: face_1, face_2, …"""


class BlazeFace(Estimator):
    """Detector and tracker of faces; `options` are fields of `FacePerceptionConfig`."""

    config_class = FacePerceptionConfig

    def __init__(self, **options: Any):
        self.config = build(FacePerceptionConfig, options)
        super().__init__(self.config.face_max_gap_s)
        self._mesher = self._keep(PerceptionNetwork("face_landmarks", self.config))
        self._near = self._keep(Detector("face_detection_near", NEAR_CELLS, 0.5, self.config))
        self._far: Detector | None = None
        self._regions: dict[str, Region] = {}
        self._wait: dict[str, int] = {}
        self._unassigned: dict[str, Region] = {}
        self._count = 0

    def estimate(self, frame: RgbdFrame, bodies: list[Body]) -> list[Detection]:
        """Return the faces in `frame` of `kinect_v2_25` bodies of this or a recent frame, or without bodies any faces.

        At most one face per body, with its id; without bodies up to `num_faces` faces with ids "face_1", "face_2", …
        while they are tracked.
        """
        image = self._image(frame)
        if not bodies:
            self._regions, self._wait = {}, {}
            return self._search_image(image)
        self._unassigned = {}
        present = {body.body_id for body in bodies}
        self._regions = {key: region for key, region in self._regions.items() if key in present}
        self._wait = {key: wait for key, wait in self._wait.items() if key in present}
        found = [(body.body_id, self._mesh_at_body(image, frame.intrinsics, body)) for body in bodies]
        return [_detection(mesh, image, body_id) for body_id, mesh in found if mesh is not None]

    def reset(self) -> None:
        """Forget the tracked faces."""
        self._regions, self._wait, self._unassigned = {}, {}, {}

    def _mesh_at_body(self, image: SourceImage, intrinsics: Intrinsics, body: Body) -> np.ndarray | None:
        head = head_region_from_body(body, intrinsics, self.config.head_window_m)
        tracked = self._regions.pop(body.body_id, None)
        if head is None or not image.shows(head):
            return None
        mesh = self._mesh(image, tracked) if tracked is not None else None
        if mesh is None or not _fits(mesh, head):
            self._wait[body.body_id] = self._wait.get(body.body_id, 0) - 1
            if self._wait[body.body_id] > 0:
                return None
            self._wait[body.body_id] = self.config.face_retry_every
            # The nearest one, as a neighbor's face may be the surest.
            regions = _search(self._near, image, head)
            nearest = min(regions, key=lambda each: np.hypot(each.u - head.u, each.v - head.v), default=None)
            mesh = self._mesh(image, nearest) if nearest is not None else None
            if mesh is None or not _fits(mesh, head):
                return None
        self._regions[body.body_id] = _next_region(mesh)
        self._wait.pop(body.body_id, None)
        return mesh

    def _search_image(self, image: SourceImage) -> list[Detection]:
        meshes: dict[str, np.ndarray] = {}
        for name, region in self._unassigned.items():
            mesh = self._mesh(image, region)
            # Two regions may drift onto one face; a duplicate would block the search for others.
            if mesh is not None and not any(_next_region(mesh).covers(other[:, :2]) for other in meshes.values()):
                meshes[name] = mesh
        if len(meshes) < self.config.num_faces:
            if self._far is None:
                self._far = self._keep(Detector("face_detection_far", FAR_CELLS, 0.6, self.config))
            for region in _search(self._far, image):
                is_known = any(region.covers(mesh[:, :2]) for mesh in meshes.values())
                mesh = self._mesh(image, region) if len(meshes) < self.config.num_faces and not is_known else None
                if mesh is not None:
                    self._count += 1
                    meshes[f"{UNASSIGNED_FACE}{self._count}"] = mesh
        self._unassigned = {name: _next_region(mesh) for name, mesh in meshes.items()}
        return [_detection(mesh, image, name) for name, mesh in meshes.items()]

    def _meshes(self, image: SourceImage, regions: Sequence[Region]) -> list[np.ndarray | None]:
        """Return the [468, 3] mesh in pixels in each region, or None without a face."""
        shown = [region for region in regions if image.shows(region)]
        if not shown:
            return [None] * len(regions)
        found = self._mesher.run(image, shown)
        present = sigmoid(found["presence"]) >= PRESENCE
        shares = found["landmarks"] / np.float32(self._mesher.file.edge)
        meshes = (
            region.to_image(mesh) if known else None for region, mesh, known in zip(shown, shares, present, strict=True)
        )
        return [next(meshes) if image.shows(region) else None for region in regions]

    def _mesh(self, image: SourceImage, region: Region) -> np.ndarray | None:
        return self._meshes(image, [region])[0]


def head_region_from_body(body: Body, intrinsics: Intrinsics, head_m: float) -> Region | None:
    """Return an upright square of `head_m` around the head of a `kinect_v2_25` body; None if the head is unknown."""
    index = layouts.get(body.layout).index
    head, neck = body.pixels[index["head"]], body.pixels[index["neck"]]
    if body.scores[index["head"]] < MIN_JOINT_SCORE or not np.isfinite(head).all():
        return None
    z = body.positions[index["head"], 2]
    size = head_m * intrinsics.fx / float(z) if np.isfinite(z) and z > 0.1 else 3.0 * float(np.linalg.norm(head - neck))
    return Region(float(head[0]), float(head[1]), size) if np.isfinite(size) else None


def _search(detector: Any, image: SourceImage, square: Region | None = None) -> list[Region]:
    """Return the regions of the faces detected in the image, or in an upright square of it, best first."""
    area = None
    if square is not None:
        left, top = (max(int(center - square.size / 2), 0) for center in (square.u, square.v))
        right, bottom = (int(center + square.size / 2) + 1 for center in (square.u, square.v))
        area = left, top, min(right, image.width), min(bottom, image.height)
    return [
        Region(float(center[0]), float(center[1]), FACE_SCALE * edge, angle_towards(eyes[0], eyes[1]) - np.pi / 2)
        for _, center, edge, eyes in detector.detect(image, area)
    ]


def _next_region(mesh: np.ndarray) -> Region:
    right, left = mesh[list(EYE_CORNERS), :2]
    return region_around(mesh[:, :2], angle_towards(right, left) - np.pi / 2, FACE_SCALE)


def _fits(mesh: np.ndarray, head: Region) -> bool:
    """Return whether a mesh fits the body's head in place and size; with a bowed head it may slide to the chest."""
    low, high = mesh[:, :2].min(axis=0), mesh[:, :2].max(axis=0)
    distance = np.linalg.norm((low + high) / 2 - np.array([head.u, head.v]))
    return bool(distance < 0.25 * head.size and 0.15 * head.size < (high - low).max() < 0.75 * head.size)


def _detection(mesh: np.ndarray, image: SourceImage, body_id: str) -> Detection:
    """Return the 68 points, in meters if the eyes are as far apart as in the canonical face."""
    points = mesh[list(FACE_68)]
    right, left = mesh[list(EYE_CORNERS)]
    world = (points - mesh.mean(axis=0)) * (EYE_CORNERS_M / max(float(np.linalg.norm(left - right)), 1e-6))
    scores = image.contains(points[:, :2]).astype(np.float32)
    return Detection("face_68", points[:, :2], world.astype(np.float32), scores, body_id=body_id)
