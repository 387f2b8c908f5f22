"""Example people, given to a recognizer message by message; and an input of every kind that a network may take."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from actrec.features.clips import CAMERA, example_clip
from actrec.features.specs import InputSpec, WindowSpec
from actrec.recognition import ActionPrediction, ActionRecognizer
from actrec.types import NANOSECONDS, STREAMS, Body, Face, Hand
from actrec.utils.geometry import motion_at_joints
from tests.tiny_model import RAW

RATE_HZ = 15
FRAMES = 16
WINDOW = WindowSpec(FRAMES / RATE_HZ, FRAMES)
START_NS = 1_700_000_000_000_000_000
PIXELS = {"center": "image", "scale": "image"}

BODY = InputSpec("joints", "body", "kinect_v2_25", (1, 3, FRAMES, 25), "m", RAW)
HANDS = InputSpec("hands", "hands", "hand_21", (1, 3, FRAMES, 42), "px")
FACE = InputSpec("mien", "face", "face_68", (1, 3, FRAMES, 68), "px", PIXELS)
MOTION = InputSpec("motion", "motion", "kinect_v2_25", (1, 3, FRAMES, 25), "px/s")
FLOW = InputSpec("flow_rgb", "flow_rgb", "CTHW", (3, FRAMES, 32, 32), "m/s")
PLACES = InputSpec("joint_pixels", "joint_pixels", "kinect_v2_25", (FRAMES, 25, 2), "px", {"size": 32})
CROP = InputSpec("body_crop", "body_crop", "kinect_v2_25", (3, FRAMES, 24, 24))
HAND_CROP = InputSpec("right", "right_hand_crop", "kinect_v2_25", (3, FRAMES, 24, 24))
ALL = [BODY, HANDS, FACE, MOTION, FLOW, PLACES, CROP, HAND_CROP]


def stamp(frame: float) -> int:
    return START_NS + round(frame * NANOSECONDS / RATE_HZ)


def update(
    recognizer: ActionRecognizer, stamp_ns: int, bodies: Sequence[Body], predict: bool = True
) -> list[ActionPrediction]:
    """Add one frame's bodies, or hands, and return all predictions."""
    hands = recognizer.tracked_stream == "hands"
    ended = recognizer.add_hands(stamp_ns, bodies) if hands else recognizer.add_skeletons(stamp_ns, bodies)  # type: ignore[arg-type]
    return ended + recognizer.predict() if predict else ended


@dataclass
class Scene:
    """Example people."""

    clip: Mapping[str, np.ndarray] = field(default_factory=lambda: example_clip(ALL, 3 * FRAMES, bodies=2, seed=3))

    def bodies(self, t: int, count: int = 1) -> list[Body]:
        ones = np.ones(25, np.float32)
        joints, pixels = self.clip["bodies"], self.clip["pixels"]
        return [Body(f"body_{m + 1}", "kinect_v2_25", joints[m, t], pixels[m, t], ones) for m in range(count)]

    def hands(self, t: int) -> list[Hand]:
        points, pixels, ones = self.clip["hands"][0, t], self.clip["hand_pixels"][0, t], np.ones(21, np.float32)
        return [Hand("body_1", "hand_21", points[s], pixels[s], ones, side) for s, side in enumerate(("left", "right"))]

    def faces(self, t: int) -> list[Face]:
        points, pixels = self.clip["face"][0, t], self.clip["face_pixels"][0, t]
        return [Face("body_1", "face_68", points, pixels, np.ones(68, np.float32))]

    def add_frame(
        self, recognizer: ActionRecognizer, t: int, without: tuple[str, ...] = (), at: float | None = None
    ) -> None:
        """Add all messages of one frame, images first, as the nodes do."""
        ns = stamp(t if at is None else at)
        streams = [stream for stream in recognizer.streams if stream not in without]
        if recognizer.needs_image_size:
            recognizer.set_image_size(CAMERA.width, CAMERA.height)
        if "color" in streams:
            recognizer.add_color(ns, self.clip["color"][t])
        if recognizer.tracked_stream == "bodies":
            recognizer.add_skeletons(ns, self.bodies(t))
        if "hands" in streams and recognizer.tracked_stream == "bodies":
            recognizer.add_hands(ns, self.hands(t))
        if "face" in streams:
            recognizer.add_faces(ns, self.faces(t))
        if "flow" in streams:
            recognizer.add_scene_flow(ns, self.clip["flow"][t], CAMERA.resized(160, 120))

    def offline(self, frames: range, without: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
        """The same as a clip of the first body, cut from a recording."""
        left_out = {key for stream in without for key in STREAMS[stream]}
        part = slice(frames.start, frames.stop)
        clip = {}
        for key, value in self.clip.items():
            if key not in left_out:
                clip[key] = value if key == "size" else value[part] if key in ("color", "flow") else value[:1, part]
        if "motion" in clip:
            clip["motion"] = np.stack(
                [
                    motion_at_joints(
                        self.clip["flow"][t],
                        self.clip["bodies"][0, t],
                        self.clip["pixels"][0, t],
                        (CAMERA.width, CAMERA.height),
                        CAMERA.resized(160, 120),
                    )
                    for t in frames
                ]
            )[None]
        return clip
