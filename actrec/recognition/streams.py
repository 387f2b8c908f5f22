"""What is seen of each body beside its joints, from streams that come when they come: hands, face, pictures, flow.

Nothing here waits. What comes is matched by stamp with what came before, whichever was first; what is late enters the
windows after it. Pictures are reduced at once to what the network takes of them.

Memory is bounded. For each input that is a stack of pictures at most `FRAMES_A_SAMPLE` observed frames a sample of the
window are kept, for each body where it shows bodies; hands, face, pixels and motion for the window's seconds; whole
pictures and flow for a second, at most `PICTURES` of each (30 MB of 640×480 color).

What one frame's skeletons, or hands, tell a recognizer: checked, and in the layout that its model takes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from actrec import features
from actrec.features.base import FrameFeature, View
from actrec.features.specs import InputSpec
from actrec.inference.session import Session, body_layout, frame_inputs
from actrec.skeleton import layouts
from actrec.skeleton.conversions import convert
from actrec.skeleton.windows import Series
from actrec.types import KEYS, LOOSE, NANOSECONDS, STREAMS, Body, Face, Hand, Intrinsics
from actrec.utils.errors import InputError, PackageError
from actrec.utils.optical_flow import motion_at_joints


@dataclass(frozen=True)
class Seen:
    """One body's joints in one frame.

    Attributes:
        positions: [V, 3] metres, NaN for missing.
        pixels: [V, 2] px in the color image, NaN for missing; None where nobody needs them.
    """

    positions: np.ndarray
    pixels: np.ndarray | None = None


def by_id(bodies: Sequence[Body], layout: str, with_pixels: bool = False) -> dict[str, Seen]:
    """The bodies of which anything is seen, by id; one without any joint counts as not there.

    A hand is a body of its own, called after whose and which it is, "body_1_left"; one of no known body bears its own
    name, "hand_1".

    Args:
        bodies: Of one frame, in any layout that converts to `layout`.
        layout: What the model takes.
        with_pixels: Convert pixels too.

    Raises:
        InputError: A body without id or with that of another, of unknown layout or with the wrong number of joints, or
            with infinite coordinates.
    """
    seen: dict[str, Seen] = {}
    for body in bodies:
        name = _name(body)
        if not name:
            raise InputError("a body has no id: track the skeletons first (skeleton_node does)")
        if name in seen:
            raise InputError(f"two bodies of one frame have the id '{name}'")
        positions = _converted(body, name, body.positions, 3, layout)
        if not np.isnan(positions).any(axis=-1).all():
            seen[name] = Seen(positions, _converted(body, name, body.pixels, 2, layout) if with_pixels else None)
    return seen


def _name(body: Body) -> str:
    if isinstance(body, Hand) and not body.body_id.startswith(LOOSE):
        return f"{body.body_id or 'hand'}_{body.side}"
    return body.body_id


def _converted(body: Body, name: str, values: np.ndarray, axes: int, layout: str) -> np.ndarray:
    if body.layout not in layouts.LAYOUTS:
        known = ", ".join(sorted(layouts.LAYOUTS))
        raise InputError(f"body '{name}' has the unknown layout '{body.layout}'; known: {known}")
    expected = (len(layouts.get(body.layout)), axes)
    if values.shape != expected:
        what = "positions" if axes == 3 else "pixels"
        raise InputError(f"body '{name}' has {what} {list(values.shape)}, expected {list(expected)} of {body.layout}")
    # Before the conversion, in which an infinite joint would come out as a great finite number.
    if np.isinf(values).any():
        raise InputError(f"body '{name}' has infinite coordinates; a missing joint is NaN")
    return convert(values, np.ones(expected[0], dtype=np.float32), body.layout, layout)[0]


FRAMES_A_SAMPLE = 4

PICTURES = 32

BUFFER_S = 1.0
"""How long a picture waits for its frame's skeletons, and a frame's skeletons for its flow."""

TOLERANCE_S = 1 / 120
"""Stamps nearer than this are of one frame."""

SIDES = ("left", "right")

WORDS = {
    "bodies": "skeletons",
    "hands": "hands",
    "face": "faces",
    "flow": "scene flow",
    "color": "color images",
}


class Frames:
    """The observed frames of an input at a window's samples; stacked when the network's inputs are made of them."""

    def __init__(self, frames: Sequence[np.ndarray]):
        self._frames = frames

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, part: slice) -> "Frames":
        return Frames(self._frames[part])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.stack(self._frames).astype(dtype or self._frames[0].dtype, copy=False)


class Observations:
    """What one model needs of the streams beside the skeletons' positions.

    Args:
        session: The model.
        max_gap_s: A point unseen for longer is missing in between.
        timeout_s: A stream silent for longer than this against the skeletons counts as absent.

    Attributes:
        streams: What the model needs, and whether it must be there; see `actrec.features.streams`.

    Raises:
        PackageError: An input is made of whole pictures.
    """

    def __init__(self, session: Session, max_gap_s: float, timeout_s: float):
        package = session.package
        self.streams = features.streams(package.inputs)
        self._max_gap_s, self._timeout_ns = max_gap_s, int(timeout_s * NANOSECONDS)
        self._span_s = package.window.seconds + max_gap_s
        self._samples = package.window.frames
        self._spacing_s = package.window.seconds / package.window.frames / FRAMES_A_SAMPLE
        self._keys = session.keys - {"bodies"}
        whole = sorted(self._keys & {"color", "flow"})
        if whole:
            raise PackageError(
                f"model {package.name} is made from whole pictures ({whole[0]}), which are not kept live"
            )
        self._pictures = frame_inputs(package)
        if any("hands" in feature.streams for _, feature in self._pictures):
            self._keys |= {"hand_pixels"}
        self._joints = len(layouts.get(body_layout(package)))
        self._bodies: dict[str, dict[str, Series[Any]]] = {}
        self._scene: dict[str, Series[np.ndarray]] = {
            spec.name: self._frames() for spec, feature in self._pictures if not _of_bodies(feature)
        }
        self._skeletons: Series[dict[str, Seen]] = Series(BUFFER_S, 4 * PICTURES)
        self._color: Series[np.ndarray] = Series(BUFFER_S, PICTURES)
        self._flow: Series[tuple[np.ndarray, Intrinsics]] = Series(BUFFER_S, PICTURES)
        self._heard: dict[str, int] = {}
        self.size: tuple[int, int] | None = None

    @property
    def needs_pixels(self) -> bool:
        """Whether the joints' pixels are used at all."""
        return bool(self._pictures) or "pixels" in self._keys or "motion" in self._keys

    @property
    def needs_size(self) -> bool:
        """Whether the size of the color image must be known though no color image is taken."""
        return "color" not in self.streams and bool(self._keys & {"size", "motion"})

    # -- bodies --------------------------------------------------------------------------------------------------------

    def follow(self, body_id: str) -> None:
        """Starts to keep what is seen of a body, anew where it was followed."""
        kept = {key: Series[Any](self._span_s) for key in self._keys if KEYS[key][0] == 1}
        kept |= {spec.name: self._frames() for spec, feature in self._pictures if _of_bodies(feature)}
        self._bodies[body_id] = kept

    def drop(self, body_id: str) -> None:
        """Forgets a body."""
        self._bodies.pop(body_id, None)

    def rewind(self, stamp_ns: int) -> None:
        """Time has jumped back to this stamp: forgets all bodies, and what was seen before the jump."""
        before = self._heard.get("bodies", stamp_ns)
        self._bodies.clear()
        self._skeletons.clear()
        pictures: list[tuple[str, Series[Any]]] = [("color", self._color), ("flow", self._flow)]
        for spec, feature in self._pictures:
            if not _of_bodies(feature):
                pictures += [(stream, self._scene[spec.name]) for stream in feature.streams]
        for stream, series in pictures:
            heard = self._heard.get(stream, stamp_ns)
            # One that jumped before the skeletons did has sent nothing later than its last since; of the others all is
            # of before.
            series.rewind(heard if heard - stamp_ns < before - heard else 0)
        self._heard = {stream: min(heard, stamp_ns) for stream, heard in self._heard.items()}

    # -- streams -------------------------------------------------------------------------------------------------------

    def add_skeletons(self, stamp_ns: int, seen: dict[str, Seen]) -> None:
        """The joints of a frame; of bodies that are not followed nothing is kept."""
        self._heard["bodies"] = stamp_ns
        self._skeletons.add(stamp_ns, seen)
        for body_id, body in seen.items():
            self._keep(body_id, stamp_ns, "pixels", body.pixels)
        self._match(stamp_ns)

    def add_hands(self, stamp_ns: int, hands: Sequence[Hand]) -> None:
        """The hands of a frame; none is news too."""
        self._heard["hands"] = stamp_ns
        found: dict[str, dict[str, np.ndarray]] = {}
        for hand in hands:
            _check_points(hand, "hand", 21)
            pair = found.setdefault(
                hand.body_id,
                {
                    "hands": np.full((2, 21, 3), np.nan, np.float32),
                    "hand_pixels": np.full((2, 21, 2), np.nan, np.float32),
                },
            )
            side = SIDES.index(hand.side)
            pair["hands"][side], pair["hand_pixels"][side] = hand.positions, hand.pixels
        for body_id, pair in found.items():
            for key, value in pair.items():
                self._keep(body_id, stamp_ns, key, value)
        self._match(stamp_ns, anew=True)

    def add_faces(self, stamp_ns: int, faces: Sequence[Face]) -> None:
        """The faces of a frame; none is news too."""
        self._heard["face"] = stamp_ns
        for face in faces:
            _check_points(face, "face", 68)
        for face in faces:
            self._keep(face.body_id, stamp_ns, "face", face.positions)
            self._keep(face.body_id, stamp_ns, "face_pixels", face.pixels)

    def add_color(self, stamp_ns: int, color: np.ndarray) -> None:
        """A color image [H, W, 3] uint8, kept as it is until its frame's skeletons have come."""
        self.size = (color.shape[1], color.shape[0])
        self._heard["color"] = stamp_ns
        self._color.add(stamp_ns, color)
        self._match(stamp_ns)

    def add_flow(self, stamp_ns: int, flow: np.ndarray, intrinsics: Intrinsics) -> None:
        """Scene flow [h, w, 3] m/s, stamped with the first frame of its pair, and the intrinsics of its pixels."""
        self._heard["flow"] = stamp_ns
        self._flow.add(stamp_ns, (flow, intrinsics))
        self._match(stamp_ns)

    def _keep(self, body_id: str, stamp_ns: int, key: str, value: Any) -> None:
        series = self._bodies.get(body_id, {}).get(key)
        if series is not None:
            series.add(stamp_ns, value)

    def _frames(self) -> Series[np.ndarray]:
        return Series(self._span_s, FRAMES_A_SAMPLE * self._samples + 2, self._spacing_s)

    # -- what belongs together -----------------------------------------------------------------------------------------

    def _match(self, stamp_ns: int, anew: bool = False) -> None:
        """Makes what can now be made of the frame with this stamp; `anew` where its hands came after its skeletons."""
        color = self._color.at(stamp_ns, TOLERANCE_S)
        flow = self._flow.at(stamp_ns, TOLERANCE_S)
        scene = View(size=self.size, color=color, flow=flow[0] if flow else None)
        for spec, feature in self._pictures:
            if not _of_bodies(feature) and _complete(feature, scene) and self._scene[spec.name].takes(stamp_ns):
                self._scene[spec.name].add(stamp_ns, feature.observe(scene, spec))
        for body_id, body in (self._skeletons.at(stamp_ns, TOLERANCE_S) or {}).items():
            if body_id in self._bodies:
                self._look(body_id, body, stamp_ns, scene, anew)
                if flow and "motion" in self._keys and self.size is not None and body.pixels is not None:
                    moved = motion_at_joints(flow[0], body.positions, body.pixels, self.size, flow[1])
                    self._keep(body_id, stamp_ns, "motion", moved)

    def _look(self, body_id: str, body: Seen, stamp_ns: int, scene: View, anew: bool) -> None:
        """Reduces the pictures of one frame to what the network takes of one body."""
        kept = self._bodies[body_id]
        hands = kept["hand_pixels"].at(stamp_ns, TOLERANCE_S) if "hand_pixels" in kept else None
        view = View(body.positions, body.pixels, hands, scene.size, scene.color, scene.flow)
        for spec, feature in self._pictures:
            if not (_of_bodies(feature) and _complete(feature, view)):
                continue
            if kept[spec.name].takes(stamp_ns):
                kept[spec.name].add(stamp_ns, feature.observe(view, spec))
            elif anew and hands is not None and "hands" in feature.streams:
                kept[spec.name].replace(stamp_ns, feature.observe(view, spec))

    # -- windows -------------------------------------------------------------------------------------------------------

    def clip(self, body_ids: Sequence[str], wanted_ns: Sequence[np.ndarray]) -> dict[str, Any]:
        """What a window holds beside "bodies".

        Args:
            body_ids: The bodies of the clip, first the one that it is about.
            wanted_ns: For each of them, the stamps [T] to sample at.
        """
        out: dict[str, Any] = {}
        for stream, names in STREAMS.items():
            if stream == "bodies" or not self.absent(stream):
                for key in self._keys.intersection(names):
                    out[key] = np.stack([self._points(b, key, w) for b, w in zip(body_ids, wanted_ns, strict=True)])
        if "size" in self._keys and self.size is not None:
            out["size"] = np.array(self.size, np.float32)
        for spec, feature in self._pictures:
            series = self._series(spec, feature, body_ids[0])
            if len(series):
                out[spec.name] = Frames(series.nearest(wanted_ns[0]))
        return out

    def _points(self, body_id: str, key: str, wanted_ns: np.ndarray) -> np.ndarray:
        series = self._bodies[body_id][key]
        if len(series):
            return series.interpolated(wanted_ns, self._max_gap_s)
        shape = {"hands": (2, 21, 3), "hand_pixels": (2, 21, 2), "face": (68, 3), "face_pixels": (68, 2)}
        return np.full((len(wanted_ns), *shape.get(key, (self._joints, 2))), np.nan, np.float32)

    def _series(self, spec: InputSpec, feature: FrameFeature, body_id: str) -> Series[np.ndarray]:
        return self._bodies[body_id][spec.name] if _of_bodies(feature) else self._scene[spec.name]

    # -- what is missing -----------------------------------------------------------------------------------------------

    def absent(self, stream: str) -> str:
        """Why a stream counts as absent, in words; empty where it is there."""
        newest = self._heard.get("bodies")
        heard = self._heard.get(stream)
        if heard is None:
            return f"no {WORDS[stream]} so far"
        if newest is not None and newest - heard > self._timeout_ns:
            return f"no {WORDS[stream]} any more"
        return ""

    def lacking(self, body_id: str) -> str:
        """Why a body's window cannot be judged, in words; empty where it can."""
        reasons = [words for stream, needed in self.streams.items() if needed and (words := self.absent(stream))]
        sized = "size" in self._keys or ("motion" in self._keys and not self.absent("flow"))
        if sized and self.size is None:
            reasons.append("no camera_info so far, so the size of the color image is unknown")
        for spec, feature in self._pictures:
            if not reasons and not len(self._series(spec, feature, body_id)):
                wanted = " and ".join(WORDS[s] for s in ("color", "flow") if feature.streams.get(s))
                reasons.append(f"no {wanted} of a frame in which this body was seen: are their stamps the camera's?")
        return "; ".join(reasons)


def _of_bodies(feature: FrameFeature) -> bool:
    return "bodies" in feature.streams or "hands" in feature.streams


def _complete(feature: FrameFeature, view: View) -> bool:
    """Whether a frame's pictures that an input needs have come."""
    return (view.color is not None or not feature.streams.get("color")) and (
        view.flow is not None or not feature.streams.get("flow")
    )


def _check_points(found: Hand | Face, what: str, points: int) -> None:
    if found.positions.shape != (points, 3) or found.pixels.shape != (points, 2):
        raise InputError(
            f"{what} of '{found.body_id}' has positions {list(found.positions.shape)} and pixels "
            f"{list(found.pixels.shape)}, expected [{points}, 3] and [{points}, 2] of {what}_{points}"
        )
    if np.isinf(found.positions).any() or np.isinf(found.pixels).any():
        raise InputError(f"{what} of '{found.body_id}' has infinite coordinates; a missing point is NaN")
