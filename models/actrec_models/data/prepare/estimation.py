"""Estimation of bodies, hands, face, motion and scene flow from the camera frames of a clip, as in the live nodes."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import cv2
import numpy as np

from actrec import scene_flow
from actrec.datasets.base import Clip
from actrec.datasets.store.codecs import ImageEncoder
from actrec.perception.pipeline import BodyPerception, FacePerception, HandPerception
from actrec.scene_flow.stream import Flow, FlowPairs, SceneFlowConfig
from actrec.skeleton.conversions import CANONICAL
from actrec.skeleton.windows import nearest
from actrec.types import NANOSECONDS, Body, Face, Hand, RgbdFrame
from actrec.utils import config
from actrec.utils.errors import InputError
from actrec.utils.geometry import project
from actrec.utils.optical_flow import motion_at_joints, motion_between_images
from actrec_models.data.prepare.settings import STREAM_KEYS, PrepareConfig

SIDES = ("left", "right")

SHAPES = {"hands": (2, 21, 3), "hand_pixels": (2, 21, 2), "face": (68, 3), "face_pixels": (68, 2), "motion": (25, 2)}
"""Shape of each stream for one body in one frame."""


@dataclass
class Seen:
    """Estimates of one frame."""

    stamp_ns: int
    size: tuple[int, int]
    bodies: list[Body]
    hands: list[Hand] = field(default_factory=list)
    faces: list[Face] = field(default_factory=list)
    motion: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """Estimates of a clip.

    Attributes:
        clip: The clip of the dataset, or of the estimated bodies.
        points: Estimated keys of the data contract, which replace the clip's.
        images: Encoded "flow" and "color", if made.
    """

    clip: Clip
    points: dict[str, np.ndarray]
    images: dict[str, ImageEncoder]


class Estimation:
    """The estimators of a worker thread.

    Args:
        settings: Settings of the preparation.

    Raises:
        ConfigError: A setting of an estimator is unknown or out of range.
        MissingLibraryError: The estimators' library is absent.
    """

    def __init__(self, settings: PrepareConfig):
        self.settings, wanted = settings, set(settings.estimate)
        self._body = BodyPerception(**settings.body) if "bodies" in wanted else None
        self._hand = HandPerception(**settings.hand) if "hands" in wanted else None
        self._face = FacePerception(**settings.face) if "face" in wanted else None
        self._pairs: FlowPairs | None = None
        self._since = 0  # the first frame that shows the image before
        if "flow" in wanted or ("motion" in wanted and settings.motion_from == "depth"):
            options = config.build(SceneFlowConfig, settings.flow)
            self._pairs = FlowPairs(scene_flow.create(options.method), options)

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
    ) -> Found:
        """Estimate the streams of a clip.

        Args:
            name: Name of the clip.
            label: Label of the clip.
            frames: The camera frames.
            known: The clip with bodies; None to estimate them.
            offset: [3] m, see `Source.camera_offset`; None for zero.

        Raises:
            InputError: No body is found, or the frames have no color or depth or do not belong to the clip.
        """
        for part in (self._body, self._hand, self._face, self._pairs):
            if part is not None:
                part.reset()
        self._since = 0
        images = {key: ImageEncoder(key, self.settings.image_quality, self.settings.flow_limit_m_s)
                    for key in ("flow", "color")}  # fmt: skip
        filmed = "color" in self.settings.kept and (known is None or "color" not in known.streams)
        seen: list[Seen] = []
        last: RgbdFrame | None = None
        for frame in frames:
            if frame.color is None:
                raise InputError(f"clip '{name}' has a frame without color, in which nothing can be found")
            bodies = self._body.process(frame) if self._body is not None else _bodies_at(known, frame)
            if bodies is None:
                continue  # a frame that the clip does not have
            now = Seen(frame.stamp_ns, (frame.intrinsics.width, frame.intrinsics.height), bodies)
            self._look(frame, now)
            self._move(name, last, frame, seen, images["flow"])
            if filmed:
                images["color"].add(frame.stamp_ns, shrunk(frame.color, self.settings.image_height))
            seen.append(now)
            last = frame
        if not seen:
            raise InputError(f"clip '{name}' has no camera frames, or none at the time of its joints")
        if "flow" in self.settings.estimate and not images["flow"]:
            raise InputError(f"clip '{name}' has no two frames near enough in time for scene flow")
        made = {key: value for key, value in images.items() if len(value)}
        if known is None:
            ids, seen = self._main(name, seen)
            known = _clip_of(name, label, ids, seen)
            return Found(known, self._points(known, ids, seen), made)
        points = self._points(known, [_id(m) for m in range(len(known.bodies))], seen)
        if offset is not None:  # beside the clip's own joints, not where the camera of the images sees them
            points |= {key: points[key] - np.asarray(offset, np.float32) for key in ("hands", "face") if key in points}
        return Found(known, points, made)

    # -- a frame -------------------------------------------------------------------------------------------------------

    def _look(self, frame: RgbdFrame, now: Seen) -> None:
        # Without bodies the estimators would search the whole image.
        if self._hand is not None and now.bodies:
            now.hands = self._hand.process(frame, now.bodies)
        if self._face is not None and now.bodies:
            now.faces = self._face.process(frame, now.bodies)

    def _move(self, name: str, last: RgbdFrame | None, frame: RgbdFrame, seen: list[Seen], flows: ImageEncoder) -> None:
        """Motion from the frame before to this one, which belongs to the one before."""
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
        """Motion to a new image, the same for all frames that show the one before: a video may be slower."""
        shown, self._since = seen[self._since :], len(seen)
        seconds = (frame.stamp_ns - shown[0].stamp_ns) / NANOSECONDS
        if seconds <= 0:
            return
        assert last.color is not None and frame.color is not None
        for body in shown[0].bodies:
            moved = motion_between_images(last.color, frame.color, body.pixels, seconds)
            for now in shown:
                now.motion[body.body_id] = moved

    # -- a clip --------------------------------------------------------------------------------------------------------

    def _main(self, name: str, seen: list[Seen]) -> tuple[list[str], list[Seen]]:
        """Return the main bodies, and the frames from the first to the last detection of one."""
        counts = Counter(body.body_id for now in seen for body in now.bodies)
        ids = [body_id for body_id, _ in counts.most_common(self.settings.max_bodies)]
        most = counts[ids[0]] if ids else 0
        if not most or most < self.settings.min_seen * len(seen):
            raise InputError(f"clip '{name}' shows a body in {most} of {len(seen)} frames: too few")
        shown = [k for k, now in enumerate(seen) if any(body.body_id in ids for body in now.bodies)]
        return ids, seen[shown[0] : shown[-1] + 1]

    def _points(self, clip: Clip, ids: list[str], seen: list[Seen]) -> dict[str, np.ndarray]:
        """Return hands, face, motion and pixels as arrays, NaN for missing."""
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
            told = np.asarray(clip.streams["size"]).tolist()
            raise InputError(f"clip '{clip.name}' counts pixels in {told} px, but its frames are {size.tolist()} px")
        return {**made, "size": size}


def _clip_of(name: str, label: int, ids: list[str], seen: list[Seen]) -> Clip:
    """Return the clip of the bodies `ids`, NaN for missing."""
    bodies = np.full((len(ids), len(seen), 25, 3), np.nan, np.float32)
    for t, now in enumerate(seen):
        for body in now.bodies:
            if body.body_id in ids:
                bodies[ids.index(body.body_id), t] = body.positions
    return Clip(name, label, np.array([now.stamp_ns for now in seen], np.int64), bodies)


def _parts(now: Seen) -> Iterator[tuple[str, str, tuple[int, ...], np.ndarray]]:
    """Key, body, place in that body's frame, and value, of all that was found in a frame."""
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
    """Reduce an image [H, W, 3] to a height; return smaller images unchanged, and all if the height is 0."""
    if not 0 < height < image.shape[0]:
        return image
    width = max(round(image.shape[1] * height / image.shape[0]), 1)
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
