"""Settings of `actrec prepare`, and estimation of streams from the camera frames of a clip, as in the live nodes."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from actrec import scene_flow
from actrec.datasets.base import Clip
from actrec.datasets.store_codecs import ImageEncoder
from actrec.perception.pipeline import (
    BodyPerception,
    BodyPerceptionConfig,
    FacePerception,
    FacePerceptionConfig,
    HandPerception,
    HandPerceptionConfig,
)
from actrec.scene_flow.stream import Flow, FlowPairs, SceneFlowConfig
from actrec.skeleton.layouts import CANONICAL
from actrec.skeleton.windows import nearest
from actrec.types import NANOSECONDS, Body, Face, Hand, RgbdFrame
from actrec.utils import config, gravity
from actrec.utils.camera_model import project
from actrec.utils.config import setting
from actrec.utils.errors import ConfigError, InputError
from actrec.utils.geometry import motion_at_joints, motion_between_images

STREAM_KEYS = {
    "bodies": ("pixels", "size"),
    "hands": ("hands", "hand_pixels", "size"),
    "face": ("face", "face_pixels", "size"),
    "motion": ("motion", "size"),
    "flow": ("flow", "size"),
    "color": ("color",),
}
"""Keys of a clip that belong to each stream, besides bodies and stamps."""

POINTS = ("bodies", "hands", "face")
"""Streams kept by default, which need no images."""

ESTIMATES = ("bodies", "hands", "face", "motion", "flow")


@dataclass(frozen=True)
class PrepareConfig:
    """Streams of a store, and how missing ones are estimated."""

    streams: list = setting(
        [], "required streams to keep: bodies, hands, face, motion, flow, color; "
        "empty: bodies, and hands and face if available",
    )  # fmt: skip
    estimate: list = setting([], "streams to estimate from the camera frames: bodies, hands, face, motion, flow")
    image_height: int = setting(
        0, "height to reduce color to, with all pixel coordinates; 0 keeps it", unit="px",
        range=(0, 4320),
    )  # fmt: skip
    image_quality: int = setting(95, "JPEG quality of color", range=(1, 100))
    flow_limit_m_s: float = setting(
        4.0, "speed along an axis at which scene flow is clipped; resolution is 1/127 of it", unit="m/s",
        range=(0.1, 100.0),
    )  # fmt: skip
    motion_from: str = setting(
        "depth", "optical flow at the joints from scene flow, as live, or from color images alone",
        choices=("depth", "color"),
    )  # fmt: skip
    max_bodies: int = setting(2, "largest number of estimated bodies, the longest observed first", range=(1, 16))
    min_seen: float = setting(0.5, "share of the frames in which each body must be found", range=(0.0, 1.0))
    flow: dict = setting({}, "settings of actrec.scene_flow.stream.SceneFlowConfig")
    body: dict = setting({}, "settings of actrec.perception.pipeline.BodyPerceptionConfig")
    hand: dict = setting({}, "settings of actrec.perception.pipeline.HandPerceptionConfig")
    face: dict = setting({}, "settings of actrec.perception.pipeline.FacePerceptionConfig")

    def check(self) -> None:
        """Raise ConfigError if a name or value is unknown, also in the settings of the estimators."""
        config.validate(self)
        for kind, values in (
            (SceneFlowConfig, self.flow),
            (BodyPerceptionConfig, self.body),
            (HandPerceptionConfig, self.hand),
            (FacePerceptionConfig, self.face),
        ):
            config.build(kind, values)
        for option, known in (("streams", tuple(STREAM_KEYS)), ("estimate", ESTIMATES)):
            unknown = [name for name in getattr(self, option) if name not in known]
            if unknown:
                raise ConfigError(f"--{option} has '{unknown[0]}'; known: {', '.join(known)}")

    @property
    def kept(self) -> tuple[str, ...]:
        """Return the streams to keep if a clip has them."""
        return tuple(dict.fromkeys([*(self.streams or POINTS), *self.estimate]))

    @property
    def required(self) -> tuple[str, ...]:
        """Return the streams that every clip must have."""
        return tuple(dict.fromkeys([*self.streams, *self.estimate]))

    @property
    def scene_flow(self) -> SceneFlowConfig | None:
        """Return the settings of the estimated scene flow; None if none is estimated."""
        from_depth = "motion" in self.estimate and self.motion_from == "depth"
        return config.build(SceneFlowConfig, self.flow) if "flow" in self.estimate or from_depth else None

    @property
    def heavy(self) -> bool:
        """Return whether a clip takes seconds, not milliseconds."""
        return bool(self.estimate) or self.uses_images

    @property
    def uses_images(self) -> bool:
        """Return whether a kept stream is made from images."""
        return bool({"motion", "flow", "color"} & set(self.kept))

    @property
    def unread(self) -> frozenset[str]:
        """Return the kinds of files (`Entry.files`) that are not read."""
        if self.estimate:
            return frozenset()
        return frozenset({"depth"} if self.uses_images else {"depth", "color"})


_SAME_TIME_S, _SAME_PLACE_M = 0.1, 0.6
"""An estimated body is a labeled one if the medians of their joints are this near in time and place."""

SIDES = ("left", "right")
SHAPES = {"hands": (2, 21, 3), "hand_pixels": (2, 21, 2), "face": (68, 3), "face_pixels": (68, 2), "motion": (25, 2)}
"""Shape of each stream for one body in one frame."""


@dataclass
class Seen:
    """Estimates of one frame; motion [V, 2] px/s by body; `up` [3] of the camera, None if unknown."""

    stamp_ns: int
    size: tuple[int, int]
    bodies: list[Body]
    hands: list[Hand] = field(default_factory=list)
    faces: list[Face] = field(default_factory=list)
    motion: dict[str, np.ndarray] = field(default_factory=dict)
    up: np.ndarray | None = None


@dataclass(frozen=True)
class Found:
    """A clip of the dataset or of estimated bodies, estimated points that replace the clip's, and encoded images."""

    clip: Clip
    points: dict[str, np.ndarray]
    images: dict[str, ImageEncoder]


class Estimation:
    """The estimators of a worker thread; raises ConfigError for a wrong setting."""

    def __init__(self, settings: PrepareConfig):
        self.settings, wanted = settings, set(settings.estimate)
        self._body = BodyPerception("--set body.mount=", **settings.body) if "bodies" in wanted else None
        self._hand = HandPerception(**settings.hand) if "hands" in wanted else None
        self._face = FacePerception(**settings.face) if "face" in wanted else None
        self._pairs: FlowPairs | None = None
        self.flow_device = ""  # of `scene_flow.device_line`
        self._since = 0  # the first frame that shows the image before
        if (options := settings.scene_flow) is not None:
            method = scene_flow.create(options.method)
            self.flow_device = scene_flow.device_line(options.method, method)
            self._pairs = FlowPairs(method, options)

    def close(self) -> None:
        """Free the models."""
        for perception in (self._body, self._hand, self._face):
            if perception is not None:
                perception.close()

    def run(
        self,
        name: str,
        label: int,
        frames: Iterable[RgbdFrame],
        known: Clip | None,
        offset: np.ndarray | None = None,
        *,
        first: Iterable[RgbdFrame] = (),
        person: Clip | None = None,
    ) -> Found:
        """Estimate the streams of the clip `name` from its camera frames.

        Args:
            name, label: Of the clip.
            frames: Its camera frames.
            known: The clip with bodies, None to estimate them.
            offset: [3] m, `Source.camera_offset`; None for zero.
            first: The same frames again, to find gravity before bodies are estimated.
            person: The clip whose first body is to be the first estimated one; None for the one longest in view.

        Raises:
            InputError: No body is found, or the frames have no color or depth or do not belong to the clip.
        """
        for part in (self._body, self._hand, self._face, self._pairs):
            if part is not None:
                part.reset()
        for perception in (self._body, self._hand, self._face):
            if perception is not None:
                perception.forget_camera()  # each clip may be of another camera
        if self._body is not None:
            self._body.find_gravity(first)
        self._since = 0
        quality, limit = self.settings.image_quality, self.settings.flow_limit_m_s
        images = {key: ImageEncoder(key, quality, limit) for key in ("flow", "color")}
        with_color = "color" in self.settings.kept and (known is None or "color" not in known.streams)
        seen: list[Seen] = []
        last: RgbdFrame | None = None
        for frame in frames:
            if frame.color is None:
                raise InputError(f"clip '{name}' has a frame without color, from which nothing can be estimated")
            bodies = self._body.process(frame) if self._body is not None else _bodies_at(known, frame)
            if bodies is None:
                continue  # a frame that the clip does not have
            now = Seen(frame.stamp_ns, (frame.intrinsics.width, frame.intrinsics.height), bodies, up=frame.up)
            turned = replace(frame, up=_up_of(known) if self._body is None else self._body.up)
            if self._body is not None and self._body.config.mount != "auto":
                now.up = self._body.up
            if self._hand is not None and bodies:  # without bodies it would search the whole image
                now.hands = self._hand.process(turned, bodies)
            if self._face is not None and bodies:
                now.faces = self._face.process(turned, bodies)
            self._move(name, last, frame, seen, images["flow"])
            if with_color:
                images["color"].add(frame.stamp_ns, shrunk(frame.color, self.settings.image_height))
            seen.append(now)
            last = frame
        if not seen:
            raise InputError(f"clip '{name}' has no camera frames, or none at the time of its joints")
        if "flow" in self.settings.estimate and not images["flow"]:
            raise InputError(f"clip '{name}' has no two frames near enough in time for scene flow")
        made = {key: value for key, value in images.items() if len(value)}
        chosen = "" if person is None else _nearest_body(person, seen, self.settings.min_seen)
        up = _steady(known, seen)
        if up is None and self._body is not None:
            up = self._body.gravity.conclude()
        if known is None:
            ids, seen = self._main(name, seen, chosen)
            known = _clip_of(name, label, ids, seen)
            return Found(known, self._points(known, ids, seen, up), made)
        points = self._points(known, [_id(m) for m in range(len(known.bodies))], seen, up)
        if offset is not None:  # beside the clip's own joints, not where the camera of the images sees them
            points |= {key: points[key] - np.asarray(offset, np.float32) for key in ("hands", "face") if key in points}
        return Found(known, points, made)

    def _move(self, name: str, last: RgbdFrame | None, frame: RgbdFrame, seen: list[Seen], flows: ImageEncoder) -> None:
        """Add flow and motion from the last frame to this one; they belong to the last one."""
        flow: Flow | None = None
        if self._pairs is not None:
            if frame.depth is None:
                remedy = "" if "flow" in self.settings.estimate else ", or take motion from images: motion_from=color"
                raise InputError(f"clip '{name}' has no depth, which scene flow needs: leave flow out{remedy}")
            flow = self._pairs.add(frame)
            if flow is not None and "flow" in self.settings.estimate:
                flows.add(flow.stamp_ns, flow.velocity)
        if last is None or not seen or "motion" not in self.settings.estimate:
            return
        if flow is not None:
            before = seen[-1]
            for body in before.bodies:
                moved = motion_at_joints(flow.velocity, body.positions, body.pixels, before.size, flow.intrinsics)
                before.motion[body.body_id] = moved
        elif self._pairs is None and frame.color is not last.color:
            self._move_in_images(last, frame, seen)

    def _move_in_images(self, last: RgbdFrame, frame: RgbdFrame, seen: list[Seen]) -> None:
        """Add the motion to a new image to all frames that show the image before: a video may be slower."""
        shown, self._since = seen[self._since :], len(seen)
        seconds = (frame.stamp_ns - shown[0].stamp_ns) / NANOSECONDS
        if seconds <= 0:
            return
        assert last.color is not None and frame.color is not None
        for body in shown[0].bodies:
            moved = motion_between_images(last.color, frame.color, body.pixels, seconds)
            for now in shown:
                now.motion[body.body_id] = moved

    def _main(self, name: str, seen: list[Seen], first: str = "") -> tuple[list[str], list[Seen]]:
        """Return the main bodies, `first` before the others, and the frames from the first to the last with one."""
        counts = Counter(body.body_id for now in seen for body in now.bodies)
        order = sorted(counts.most_common(), key=lambda each: each[0] != first)
        longest = order[: self.settings.max_bodies]
        ids = [b for b, count in longest if b == first or count >= self.settings.min_seen * len(seen)]
        if not ids:
            most = longest[0][1] if longest else 0
            raise InputError(f"clip '{name}' shows a body in {most} of {len(seen)} frames: too few")
        shown = [k for k, now in enumerate(seen) if any(body.body_id in ids for body in now.bodies)]
        return ids, seen[shown[0] : shown[-1] + 1]

    def _points(self, clip: Clip, ids: list[str], seen: list[Seen], up: np.ndarray | None) -> dict[str, np.ndarray]:
        """Return hands, face, motion and pixels as arrays, NaN for missing, and `up` if known."""
        keys = [key for name in self.settings.estimate for key in STREAM_KEYS[name] if key in SHAPES]
        if "pixels" not in clip.streams:
            keys.append("pixels")
        joints, frames = clip.bodies.shape[2], len(clip.stamps_ns)
        shapes = {**SHAPES, "motion": (joints, 2), "pixels": (joints, 2)}
        made = {key: np.full((len(ids), frames, *shapes[key]), np.nan, np.float32) for key in keys}
        size = np.array(seen[0].size, np.float32)
        for now in seen:
            t = int(nearest(clip.stamps_ns, np.array([now.stamp_ns]))[0])
            for key, body_id, place, value in _parts(now):
                if key in made and body_id in ids:
                    at: tuple[int, ...] = (ids.index(body_id), t, *place)
                    made[key][at] = value
        if "size" in clip.streams and not np.array_equal(clip.streams["size"], size):
            other = np.asarray(clip.streams["size"]).tolist()
            raise InputError(f"clip '{clip.name}' counts pixels in {other} px, but its frames are {size.tolist()} px")
        return {**made, "size": size, **({} if up is None else {"up": up})}


def _nearest_body(person: Clip, seen: list[Seen], share: float) -> str:
    """Return the id of the estimated body that is nearest to the first body of a clip; raise InputError without one.

    Bodies in less than this share of the frames that show the person are ignored.
    """
    apart: dict[str, list[float]] = {}
    shown = 0
    for now in seen:
        t = int(nearest(person.stamps_ns, np.array([now.stamp_ns]))[0])
        joints = person.bodies[0, t]
        if abs(int(person.stamps_ns[t]) - now.stamp_ns) < _SAME_TIME_S * NANOSECONDS and np.isfinite(joints).any():
            place = np.nanmedian(joints, axis=0)
            shown += 1
            for body in now.bodies:
                distance = np.linalg.norm(np.nanmedian(body.positions, axis=0) - place)
                apart.setdefault(body.body_id, []).append(float(distance))
    found = {name: float(np.median(distances)) for name, distances in apart.items() if len(distances) >= share * shown}
    best = min(found, key=lambda body_id: found[body_id], default="")
    if not best or found[best] > _SAME_PLACE_M:
        raise InputError(f"clip '{person.name}': no estimated body is where the labeled one is: leave out its body")
    return best


def _up_of(clip: Clip | None) -> np.ndarray | None:
    return clip.streams.get("up") if clip is not None else None


def _steady(known: Clip | None, seen: list[Seen]) -> np.ndarray | None:
    """Rotate all estimated points to the camera's direction in the clip, or in its last frame; return `up` there."""
    ups = [now.up for now in seen if now.up is not None]
    own = _up_of(known)
    up = own if own is not None else ups[-1] if ups else None
    for now in seen:
        if up is None or now.up is None or now.up @ up > 1 - 1e-7:
            continue
        turn = gravity.rotation_between(now.up, up)
        for each in (*(now.bodies if known is None else ()), *now.hands, *now.faces):
            each.positions = each.positions @ turn.T
    return up


def _clip_of(name: str, label: int, ids: list[str], seen: list[Seen]) -> Clip:
    """Return the clip of the bodies `ids`, NaN for missing."""
    bodies = np.full((len(ids), len(seen), 25, 3), np.nan, np.float32)
    for t, now in enumerate(seen):
        for body in now.bodies:
            if body.body_id in ids:
                bodies[ids.index(body.body_id), t] = body.positions
    return Clip(name, label, np.array([now.stamp_ns for now in seen], np.int64), bodies)


def _parts(now: Seen) -> Iterator[tuple[str, str, tuple[int, ...], np.ndarray]]:
    """Yield key, body id, place in that body's frame and value of all estimates of a frame."""
    for body in now.bodies:
        yield "pixels", body.body_id, (), body.pixels
    for hand in now.hands:
        side = SIDES.index(hand.side)
        yield "hands", hand.body_id, (side,), hand.positions
        yield "hand_pixels", hand.body_id, (side,), hand.pixels
    for face in now.faces:
        yield "face", face.body_id, (), face.positions
        yield "face_pixels", face.body_id, (), face.pixels
    for body_id, moved in now.motion.items():
        yield "motion", body_id, (), moved


def _id(body: int) -> str:
    return f"body_{body + 1}"


def _bodies_at(clip: Clip | None, frame: RgbdFrame) -> list[Body] | None:
    """Return the clip's bodies at a frame's stamp; None if the clip has no frame then."""
    assert clip is not None
    stamps = clip.stamps_ns
    t = int(nearest(stamps, np.array([frame.stamp_ns]))[0])
    spacing = float(np.median(np.diff(stamps))) if len(stamps) > 1 else NANOSECONDS / 30
    if abs(int(stamps[t]) - frame.stamp_ns) > spacing / 2:
        return None
    bodies = []
    for m, joints in enumerate(clip.bodies[:, t]):
        pixels = clip.streams["pixels"][m, t] if "pixels" in clip.streams else project(joints, frame.intrinsics)
        known = np.isfinite(joints).all(axis=-1)
        if known.any():
            bodies.append(Body(_id(m), CANONICAL, joints, pixels, known.astype(np.float32)))
    return bodies


def shrunk(image: np.ndarray, height: int) -> np.ndarray:
    """Reduce an image [H, W, 3] to a height; smaller images, and all if the height is 0, stay unchanged."""
    if not 0 < height < image.shape[0]:
        return image
    width = max(round(image.shape[1] * height / image.shape[0]), 1)
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
