"""Observations, tracks and stream buffers of a recognizer, and the clips cut from them.

Memory is bounded. An input that is a stack of images keeps at most `FRAMES_PER_SAMPLE` observed frames for each sample
of the window. Points (hands, face, pixels, motion) are kept for the window's length. Full images and scene flow are
kept for a second, at most `BUFFERED_IMAGES` of each (30 MB of 640×480 color).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from actrec import features
from actrec.features.specs import FrameFeature, InputSpec, WindowSpec
from actrec.inference import zoo
from actrec.inference.session import Session, body_layout, frame_inputs
from actrec.recognition.clip_scores import BodyWindow, ClipScores
from actrec.recognition.events import middle
from actrec.scene_flow import identity
from actrec.skeleton import layouts
from actrec.skeleton.layouts import CANONICAL, HANDS, convert
from actrec.skeleton.windows import Series, Window, sample_stamps
from actrec.types import KEYS, NANOSECONDS, STREAMS, UNASSIGNED_HAND, Body, Face, Hand, Intrinsics
from actrec.utils.errors import ConfigError, InputError, PackageError

FRAMES_PER_SAMPLE = 4
BUFFERED_IMAGES = 32
BUFFER_S = 1.0
"""How long an image is kept for the skeletons of its frame, and skeletons for their scene flow."""

FARTHEST_M = 1000.0
"""Largest coordinate of a joint; beyond it positions are wrong, or in mm."""

GAP, ANOTHER = "gap", "another"
"""Why a window restarts: the stamps have a gap or jump back, or the joints are of another person."""

FARTHEST_STEP_M, FASTEST_M_S = 1.5, 8.0
"""Farther apart from frame to frame, by errors of depth and by speed, joints are not of one person."""

MAX_LEAD_S = 60.0
"""Other streams may be ahead of the skeletons by the latency of perception; if by more, their stamps are wrong."""

STREAM_NAMES = {"bodies": "skeletons", "hands": "hands", "face": "faces", "flow": "scene flow", "color": "color images"}
"""Stream to its name in messages to the user."""


def check_without_color(model: str, streams: Mapping[str, bool]) -> None:
    """Raise ConfigError if a model requires images, or a stream made from them, of a recording of joints alone.

    Args:
        model: Its name, for the message.
        streams: Streams that it takes, and whether each is required.
    """
    if images := [STREAM_NAMES[stream] for stream, required in streams.items() if required and stream != "bodies"]:
        raise ConfigError(
            f"model {model} takes {' and '.join(images)}, and the recording has joints without color: use a recording "
            f"with color, or a model of joints such as {zoo.DEFAULT}"
        )


_POINT_SHAPES = {"hands": (2, 21, 3), "hand_pixels": (2, 21, 2), "face": (68, 3), "face_pixels": (68, 2)}


class BodyJoints(NamedTuple):
    """One body's joints in one frame, NaN for missing."""

    positions: np.ndarray  # [V, 3] m
    pixels: np.ndarray | None = None  # [V, 2] px in the color image; None if the model does not need them
    in_view: float = 1.0  # share of the layout's joints that are known, with a score above 0


def joints_by_id(bodies: Sequence[Body], layout: str, with_pixels: bool = False) -> dict[str, BodyJoints]:
    """Return the joints of a frame's bodies, converted to `layout`, by body id; bodies without any joint are dropped.

    Each hand counts as a body of its own: "body_1_left" if its body is known, else its own id, "hand_1".

    Raises:
        InputError: A body has no id, a duplicate id, an unknown layout, a wrong shape, or infinite coordinates.
    """
    found: dict[str, BodyJoints] = {}
    for body in bodies:
        body_id = body.body_id
        if isinstance(body, Hand) and not body_id.startswith(UNASSIGNED_HAND):
            body_id = f"{body_id or 'hand'}_{body.side}"
        if not body_id:
            raise InputError("a body has no id: track the skeletons first (skeleton_node does)")
        if body_id in found:
            raise InputError(f"two bodies of one frame have the id '{body_id}': give each body its own id")
        positions = _converted(body, body_id, "positions", layout)
        if not np.isnan(positions).any(axis=-1).all():
            pixels = _converted(body, body_id, "pixels", layout) if with_pixels else None
            found[body_id] = BodyJoints(positions, pixels, _in_view(body, positions, layout))
    return found


def _in_view(body: Body, positions: np.ndarray, layout: str) -> float:
    """Return the share of a body's joints that are in view; scores count unless its publisher sets none."""
    known = ~np.isnan(positions).any(axis=-1)
    if len(body.scores) == len(body.positions) and body.scores.any():
        known &= convert(body.positions, body.scores, body.layout, layout)[1] > 0
    of_layout = np.ones(len(known), bool) if body.layout == layout else layouts.known_joints(body.layout, layout)
    return float(known.sum() / of_layout.sum())


def _converted(body: Body, body_id: str, name: str, layout: str) -> np.ndarray:
    if body.layout not in layouts.LAYOUTS:
        known = ", ".join(sorted(layouts.LAYOUTS))
        raise InputError(f"body '{body_id}' has the unknown layout '{body.layout}'; known: {known}")
    # Checked before the conversion, which would turn an infinite joint into a large finite number.
    values = _checked(body, name, body.layout, f"body '{body_id}'")
    return convert(values, np.ones(len(values), dtype=np.float32), body.layout, layout)[0]


def _checked(found: Body, name: str, layout: str, owner: str) -> np.ndarray:
    values: np.ndarray = getattr(found, name)
    expected = (len(layouts.get(layout)), 3 if name == "positions" else 2)
    if values.shape != expected:
        raise InputError(f"{owner} has {name} {list(values.shape)}, expected {list(expected)} of {layout}")
    if np.isinf(values).any():
        raise InputError(f"{owner} has infinite coordinates; set a missing joint to NaN")
    if name == "positions" and (np.abs(values) > FARTHEST_M).any():
        raise InputError(f"{owner} has a joint more than {FARTHEST_M:g} m away: are positions in meters?")
    return values


def hands_by_id(hands: Sequence[Hand]) -> dict[str, dict[str, np.ndarray]]:
    """Return `hands` [2, 21, 3] and `hand_pixels` [2, 21, 2] (left, right; NaN for missing) by body id.

    Raises:
        InputError: A hand has a wrong shape or infinite coordinates.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    for hand in hands:
        empty = {key: np.full(_POINT_SHAPES[key], np.nan, np.float32) for key in ("hands", "hand_pixels")}
        pair, side = found.setdefault(hand.body_id, empty), ("left", "right").index(hand.side)
        for key, name in (("hands", "positions"), ("hand_pixels", "pixels")):
            pair[key][side] = _checked(hand, name, "hand_21", f"hand of '{hand.body_id}'")
    return found


def faces_by_id(faces: Sequence[Face]) -> dict[str, dict[str, np.ndarray]]:
    """Return `face` [68, 3] and `face_pixels` [68, 2] by body id; raises as `hands_by_id`."""
    keys = {"face": "positions", "face_pixels": "pixels"}
    return {
        face.body_id: {k: _checked(face, name, "face_68", f"face of '{face.body_id}'") for k, name in keys.items()}
        for face in faces
    }


@dataclass
class Counts:
    """Counters of a recognizer since its start."""

    frames: int = 0  # frames added
    labels: int = 0  # predictions made by the network
    skipped: int = 0  # predictions that were due in a frame for which `predict` was not called
    duplicates: int = 0  # frames ignored because their stamp equals the previous one
    restarts: int = 0  # frames in which windows restarted because of a gap or of stamps that jump back
    over_limit: int = 0  # bodies ignored because `max_bodies` are tracked already
    missing_input: int = 0  # predictions replaced by `unknown` because a required stream is missing

    def describe_restarts(self, stream: str, max_gap_s: float) -> str:
        """Return a message if windows restart so often that bodies get no label; empty otherwise."""
        if self.restarts < 2 or 3 * self.restarts <= self.frames:
            return ""
        return (
            f"windows restart too often to be labeled: {STREAM_NAMES[stream]} are more than max_gap_s "
            f"({max_gap_s:g} s) apart, or stamps jump back (two publishers?)"
        )


@dataclass(frozen=True)
class ModelInputs:
    """The data that a model takes, as its package states it."""

    layout: str  # layout of the tracked joints
    window: WindowSpec  # length and number of samples
    bodies: int  # M, number of bodies in a clip
    streams: Mapping[str, bool]  # stream to whether the model requires it; see `actrec.features.streams`
    keys: frozenset[str]  # keys of a clip beside "bodies" from which inputs are computed
    frame_inputs: Sequence[tuple[InputSpec, FrameFeature]]  # stacks of images, each computed from one frame
    max_gap_s: float  # a longer gap between observations of a point is not interpolated

    @classmethod
    def of(cls, session: Session, max_gap_s: float) -> "ModelInputs":
        """Return the inputs of a session's model; raise `PackageError` for other layouts or full images."""
        package, layout = session.package, body_layout(session.package)
        if layout not in (CANONICAL, *HANDS):
            raise PackageError(
                f"model {package.name} takes {layout} but live skeletons are {CANONICAL}: train it with {CANONICAL}"
            )
        keys = session.keys - {"bodies"}
        if full := sorted(keys & {"color", "flow"}):
            raise PackageError(
                f"model {package.name} takes full images ({full[0]}), which are not kept live: train it on crops"
            )
        stacks = frame_inputs(package)
        if any("hands" in feature.streams for _, feature in stacks):
            keys |= {"hand_pixels"}
        streams = features.streams(package.inputs)
        return cls(layout, package.window, package.bodies, streams, frozenset(keys), stacks, max_gap_s)

    @property
    def needs_pixels(self) -> bool:
        """Whether the pixels of the joints are used."""
        return bool(self.frame_inputs) or bool(self.keys & {"pixels", "motion"})

    def frame_series(self, per_body: bool) -> dict[str, Series[np.ndarray]]:
        """Return an empty buffer for each image stack that is computed per body, or for the whole scene."""
        count = FRAMES_PER_SAMPLE * self.window.frames
        return {
            spec.name: Series(self.window.seconds + self.max_gap_s, count + 2, self.window.seconds / count)
            for spec, feature in self.frame_inputs
            if is_per_body(feature) == per_body
        }

    def new_track(self) -> "BodyTrack":
        """Return an empty track."""
        window = Window(self.window.seconds, self.window.frames, self.max_gap_s)
        track = BodyTrack(window, {}, self.frame_series(per_body=True))
        track.points |= {key: Series(self.window.seconds + self.max_gap_s) for key in self.keys if KEYS[key][0] == 1}
        return track

    def restart(self, track: "BodyTrack") -> None:
        """Empty all buffers of a track whose window has restarted."""
        empty = self.new_track()
        track.points, track.frames, track.scores = empty.points, empty.frames, empty.scores


@dataclass(frozen=True)
class PendingFrame:
    """The newest frame, not yet labeled."""

    stamp_ns: int
    joints: Mapping[str, BodyJoints]  # by body id, as received
    is_empty: bool
    endings: int = 0  # how often all events had been ended before


@dataclass
class BodyTrack:
    """One tracked body."""

    window: Window  # its joints
    points: dict[str, Series[np.ndarray]]  # key of a clip to the points observed
    frames: dict[str, Series[np.ndarray]]  # name of an input to the frames observed
    scores: ClipScores = field(default_factory=ClipScores)  # of the clips that were run
    last_seen_ns: int = 0  # stamp of the last frame with this body
    predicted_ns: int | None = None  # stamp of the last frame in which it was labeled
    label: str = ""  # its last label
    since_ns: int = 0  # stamp of the first frame in a row with this label

    def add(self, stamp_ns: int, positions: np.ndarray, inputs: ModelInputs) -> str:
        """Add joints [V, 3]; return why the window restarted, `GAP` or `ANOTHER`, or an empty string."""
        why = ANOTHER if self._is_another(stamp_ns, positions) else ""
        if why:
            self.window = inputs.new_track().window
        if self.window.add(stamp_ns, positions):
            why = GAP
        if why:
            inputs.restart(self)
        self.last_seen_ns = stamp_ns
        return why

    def _is_another(self, stamp_ns: int, positions: np.ndarray) -> bool:
        """Return whether joints are too far from the last ones: a publisher has used the id for another person."""
        if not len(self.window) or stamp_ns < self.window.end_ns:
            return False
        places = [joints[np.isfinite(joints).all(axis=-1)] for joints in (positions, self.window.newest)]
        elapsed_s = (stamp_ns - self.window.end_ns) / NANOSECONDS
        return math.dist(*map(middle, places)) > FARTHEST_STEP_M + FASTEST_M_S * elapsed_s


@dataclass
class StreamBuffers:
    """The newest messages of each stream.

    Messages of the last second are kept. The joints of a hand model count as "bodies".
    """

    frames: dict[str, Series[np.ndarray]]  # observed frames of image stacks that show the whole scene, by input name
    timeout_s: float  # a stream without a message for this long is missing
    skeletons: Series[tuple[dict[str, BodyJoints], np.ndarray | None]] = field(
        default_factory=lambda: Series(BUFFER_S, 4 * BUFFERED_IMAGES)
    )  # by body id, and the `up` of their frame
    color: Series[np.ndarray] = field(default_factory=lambda: Series(BUFFER_S, BUFFERED_IMAGES))
    flow: Series[tuple[np.ndarray, Intrinsics]] = field(default_factory=lambda: Series(BUFFER_S, BUFFERED_IMAGES))
    newest_ns: dict[str, int] = field(default_factory=dict)  # stream to the stamp of its newest message
    flow_settings: Mapping[str, Any] = field(default_factory=dict)  # method, height of scene flow as its node states
    image_size: tuple[int, int] | None = None  # width and height of the color image in px
    up: np.ndarray | None = None  # [3] unit vector against gravity in the axes of the windows
    newest_up: np.ndarray | None = None  # the same in the newest frame

    @property
    def scene_flow(self) -> dict[str, Any]:
        """The identity of the scene flow (`actrec.scene_flow.identity`) as far as it is known."""
        known, stamps = dict(self.flow_settings), self.flow.stamps_ns
        if stamps and (newest := self.flow.at(stamps[-1], 0.0)):
            known["height"] = min(newest[0].shape[:2])
            known |= {"rate": found} if (found := identity.rate(stamps)) else {}
        return known

    @property
    def present_keys(self) -> set[str]:
        """The keys of `actrec.types.KEYS` whose stream is present."""
        return {k for s, keys in STREAMS.items() if s == "bodies" or not self.missing(s) for k in keys}

    def missing(self, stream: str) -> str:
        """Return why a stream counts as missing; empty if it is present."""
        newest, received = (self.newest_ns.get(name) for name in ("bodies", stream))
        if received is None:
            return f"no {STREAM_NAMES[stream]} so far"
        if newest is not None and newest - received > int(self.timeout_s * NANOSECONDS):
            return f"no recent {STREAM_NAMES[stream]}"
        if newest is not None and received - newest > MAX_LEAD_S * NANOSECONDS:
            return f"{STREAM_NAMES[stream]} have stamps of another clock"
        return ""

    def missing_inputs(self, track: BodyTrack, inputs: ModelInputs) -> str:
        """Return why a body cannot be labeled; empty if all inputs are present."""
        reasons = [why for stream, required in inputs.streams.items() if required and (why := self.missing(stream))]
        needs_size = "size" in inputs.keys or ("motion" in inputs.keys and not self.missing("flow"))
        if needs_size and self.image_size is None:
            reasons.append("no camera_info so far, so the size of the color image is unknown")
        for spec, feature in inputs.frame_inputs:
            frames = track.frames[spec.name] if is_per_body(feature) else self.frames[spec.name]
            newest, oldest_ns = frames.stamps_ns[-1:], self.newest_ns["bodies"] - round(self.timeout_s * NANOSECONDS)
            if not reasons and not (newest and newest[0] >= oldest_ns):
                images = [stream for stream in ("color", "flow") if feature.streams.get(stream)]
                names = " and ".join(STREAM_NAMES[stream] for stream in images)
                ahead = [self.newest_ns[stream] - self.newest_ns["bodies"] for stream in images]
                late = max(ahead, default=0) / NANOSECONDS
                kept = min((self._kept_s(stream) for stream in images), default=BUFFER_S)
                reasons.append(
                    f"skeletons come {late:.1f} s after their {names} (kept for {kept:.2g} s): speed up depth"
                    if late > kept
                    else f"no {names} match the stamps of this body's skeletons: use the camera's stamps in both"
                )
        return "; ".join(reasons)

    def _kept_s(self, stream: str) -> float:
        """Return how long images are kept for their skeletons: of a fast camera, until there are too many."""
        stamps = (self.color if stream == "color" else self.flow).stamps_ns
        return (stamps[-1] - stamps[0]) / NANOSECONDS if len(stamps) >= BUFFERED_IMAGES else BUFFER_S

    def rewind(self, stamp_ns: int, inputs: ModelInputs) -> None:
        """Drop everything observed before the stamps jumped back to `stamp_ns`."""
        before = self.newest_ns.get("bodies", stamp_ns)
        self.skeletons.clear()
        series: list[tuple[str, Series[Any]]] = [("color", self.color), ("flow", self.flow)]
        for spec, feature in inputs.frame_inputs:
            if spec.name in self.frames:
                series += [(stream, self.frames[spec.name]) for stream in feature.streams]
        for stream, buffer in series:
            newest = self.newest_ns.get(stream, stamp_ns)
            # A stream that jumped back before the skeletons did holds messages from after the jump, up to its newest
            # stamp. All messages of a stream that has not jumped yet are from before the jump.
            buffer.rewind(newest if newest - stamp_ns < before - newest else 0)
        self.newest_ns = {stream: min(newest, stamp_ns) for stream, newest in self.newest_ns.items()}


class FrameStack:
    """Observed frames of an input at the window's samples; stacked only when the input is computed."""

    def __init__(self, frames: Sequence[np.ndarray]):
        self._frames = frames

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, part: slice) -> "FrameStack":
        return FrameStack(self._frames[part])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.stack(self._frames).astype(dtype or self._frames[0].dtype, copy=False)


def is_per_body(feature: FrameFeature) -> bool:
    """Return whether an image stack shows one body rather than the scene."""
    return "bodies" in feature.streams or "hands" in feature.streams


def is_complete(feature: FrameFeature, color: np.ndarray | None, flow: np.ndarray | None) -> bool:
    """Return whether the images that an input requires are present."""
    missing = {name for name, image in (("color", color), ("flow", flow)) if image is None}
    return not any(feature.streams.get(name) for name in missing)


def due_windows(
    body_ids: Sequence[str],
    stamp_ns: int,
    interval_s: float,
    tracks: Mapping[str, BodyTrack],
    buffers: StreamBuffers,
    inputs: ModelInputs,
) -> list[BodyWindow]:
    """Return the window of each body with its clips that are due; see `make_clips` and `ClipScores.due`."""
    windows = []
    newest = make_clips(body_ids, stamp_ns, tracks, buffers, inputs)
    for body_id, clip in zip(body_ids, newest, strict=True):
        scores, start_ns, clips = tracks[body_id].scores, tracks[body_id].window.start_ns, {stamp_ns: clip}
        if len(inputs.window.starts) > 1:
            for end_ns in scores.due(inputs.window, stamp_ns, start_ns, interval_s):
                if end_ns != stamp_ns:
                    (clips[end_ns],) = make_clips([body_id], end_ns, tracks, buffers, inputs)
        windows.append(BodyWindow(scores, stamp_ns, start_ns, clips))
    return windows


def make_clips(
    body_ids: Sequence[str],
    stamp_ns: int,
    tracks: Mapping[str, BodyTrack],
    buffers: StreamBuffers,
    inputs: ModelInputs,
) -> list[dict[str, Any]]:
    """Return one clip for each body: its joints [M, T, V, 3] first, then the nearest other bodies, and other inputs.

    Args:
        body_ids: The bodies to label, all of them in the newest frame.
        stamp_ns: Stamp of that frame, at which the windows end.
        tracks: By body id.
        buffers: Messages that belong to no body.
        inputs: The data to put into a clip, without keys whose stream is missing.
    """
    window, present_keys = inputs.window, buffers.present_keys
    needed = dict.fromkeys(body_ids)
    if inputs.bodies > 1 and body_ids:
        # A body that is occluded in this frame but was seen within the gap still counts as present.
        limit = stamp_ns - int(inputs.max_gap_s * NANOSECONDS)
        recent = (b for b, track in tracks.items() if len(track.window) and track.window.end_ns >= limit)
        needed |= dict.fromkeys(recent)
    joints = {body_id: tracks[body_id].window.positions(stamp_ns) for body_id in needed}
    centers = {b: np.nanmedian(clip[-1], axis=0) for b, clip in joints.items()} if inputs.bodies > 1 else {}
    wanted_ns = sample_stamps(stamp_ns, window.seconds, window.frames)
    clips = []
    for body_id in body_ids:
        others = sorted((b for b in centers if b != body_id), key=lambda b: _distance(centers[b], centers[body_id]))
        chosen = [body_id, *others[: inputs.bodies - 1]]
        starts = [tracks[b].window.start_ns for b in chosen]
        # The first observation of the body is held before its track starts, so all else is sampled from there on too.
        # A body that came later is missing until then.
        stamps = [np.maximum(wanted_ns, min(starts[0], start)) for start in starts]
        masked = (
            _mask_early(joints[b], tracks[b].window.start_ns, at, inputs) for b, at in zip(chosen, stamps, strict=True)
        )
        clip: dict[str, Any] = {"bodies": np.stack(list(masked))}
        for key in inputs.keys & present_keys:
            if KEYS[key][0] == 1:
                clip[key] = np.stack(
                    [_points(tracks[b], key, at, inputs) for b, at in zip(chosen, stamps, strict=True)]
                )
        if buffers.image_size is not None and ("size" in inputs.keys or buffers.up is not None):
            clip["size"] = np.array(buffers.image_size, np.float32)
        if buffers.up is not None:
            clip["up"] = buffers.up
        for spec, _ in inputs.frame_inputs:
            frames = tracks[body_id].frames.get(spec.name) or buffers.frames.get(spec.name)
            if frames:
                clip[spec.name] = FrameStack(frames.nearest(stamps[0]))
        clips.append(clip)
    return clips


def _points(track: BodyTrack, key: str, stamps_ns: np.ndarray, inputs: ModelInputs) -> np.ndarray:
    """Return the points of one key, [T, ..., D], NaN if there is no observation."""
    if len(track.points[key]):
        return track.points[key].interpolated(stamps_ns, inputs.max_gap_s)
    shape = _POINT_SHAPES.get(key, (len(layouts.get(inputs.layout)), 2))
    return np.full((len(stamps_ns), *shape), np.nan, np.float32)


def _mask_early(joints: np.ndarray, start_ns: int, stamps_ns: np.ndarray, inputs: ModelInputs) -> np.ndarray:
    """Set joints [T, V, 3] to NaN at stamps more than `max_gap_s` before the track's start."""
    early = start_ns - stamps_ns > inputs.max_gap_s * NANOSECONDS
    return np.where(early[:, None, None], np.float32(np.nan), joints) if early.any() else joints


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b)) if np.isfinite([a, b]).all() else math.inf
