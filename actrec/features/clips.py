"""Network inputs of a window that contains several clips, and synthetic example clips for warm-up and checks."""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, partial

import numpy as np

from actrec import features
from actrec.features.leveling import without_gravity
from actrec.features.specs import InputSpec, WindowSpec
from actrec.simulation.actions import Performance
from actrec.simulation.actor import ActorPose, hand_joints
from actrec.skeleton import layouts
from actrec.types import KEYS, STREAMS, Clip, Intrinsics, LazyClip
from actrec.utils.camera_model import project
from actrec.utils.errors import InputError

RATE_HZ = 15.0
"""Frames per second of example clips."""

CAMERA = Intrinsics(320, 240, 300.0, 300.0, 160.0, 120.0)
"""Camera of example clips."""

_CAMERA_HEIGHT, _DISTANCE, _APART = 1.0, 2.6, 0.9
_HAND_LENGTH, _FACE_RADIUS = 0.19, 0.09
_FLOW_SIZE = (120, 160)
_CANONICAL = "kinect_v2_25"


def spans_window(spec: InputSpec) -> bool:
    """Return whether an input spans the whole window instead of one clip."""
    return bool(spec.preprocessing.get("scope") == "window")


def window_inputs(
    clip: Clip,
    specs: Iterable[InputSpec],
    window: WindowSpec,
    starts: Sequence[int] | None = None,
    around: Clip | None = None,
) -> list[dict[str, np.ndarray]]:
    """Return the inputs of all clips, as `each_clip` yields them."""
    return list(each_clip(clip, specs, window, starts, around))


def each_clip(
    clip: Clip,
    specs: Iterable[InputSpec],
    window: WindowSpec,
    starts: Sequence[int] | None = None,
    around: Clip | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Yield the inputs of each clip of a window, input name to float32 of the spec's shape; this saves memory.

    Inputs with the preprocessing `scope: window` are computed once from the whole window and are part of every clip.

    Args:
        clip: The whole window, T = `window.frames`.
        specs: The network's inputs.
        window, starts: Length of the clips, and their first frames; None for `window.starts`.
        around: The recording that inputs of the whole window are made from instead of `clip`.

    Raises:
        InputError: The window is shorter than one clip, or as for `features.inputs`.
    """
    around = clip if around is None else around
    if window.gravity == "camera":
        clip, around = without_gravity(clip), without_gravity(around)
    specs = list(specs)
    whole = [spec for spec in specs if spans_window(spec)]
    others = [spec for spec in specs if spec not in whole]
    shared = features.inputs(around, whole)
    starts = window.starts if starts is None else starts
    for start in starts:
        # Several clips overlap and share decoded images; a single one needs only its own frames.
        part = cut(clip, start, window.clip_frames, alone=len(starts) == 1 and not whole)
        yield {**shared, **features.inputs(part, others)}


def cut(clip: Clip, start: int, frames: int, alone: bool = False) -> Clip:
    """Return frames `start` to `start + frames` of a clip; keys without time axis are unchanged.

    Pass `alone` if no other part of the clip will be used.

    Raises:
        InputError: The clip does not have these frames; for a `LazyClip`, on access.
    """
    parts = {name: partial(_cut, clip, name, start, frames, alone) for name in clip}
    if not isinstance(clip, LazyClip):
        return {name: part() for name, part in parts.items()}
    return LazyClip(parts, shown=None if clip.shown is None else cut(clip.shown, start, frames, alone))


def _cut(clip: Clip, name: str, start: int, frames: int, alone: bool) -> np.ndarray:
    if alone and isinstance(clip, LazyClip) and (part := clip.part(name, start, frames)) is not None:
        return part
    value = clip[name]
    axis = KEYS[name][0] if name in KEYS else 0  # otherwise observed frames of an input of that name
    if axis is not None and not 0 <= start <= start + frames <= (value.shape[axis] if axis else len(value)):
        raise InputError(
            f"'{name}' {list(np.shape(value))} has no frames {start} to {start + frames}: the window is too short"
        )
    span = slice(start, start + frames)
    return value if axis is None else value[:, span] if axis else value[span]


def example_clip(specs: Iterable[InputSpec], frames: int, bodies: int = 1, seed: int = 0) -> dict[str, np.ndarray]:
    """Create a clip of `frames` frames and `bodies` bodies with all streams that a network's inputs can use.

    Bodies, hands and face belong to simulated actors at `RATE_HZ` in front of `CAMERA`; joints of a layout other than
    `kinect_v2_25` move at random. Color and flow are smooth noise.

    Returns:
        Keys as in `actrec.types.KEYS`.
    """
    specs = list(specs)
    rng = np.random.default_rng([seed, 11])
    keys = {"size", *(key for stream in features.streams(specs) for key in STREAMS[stream])}
    clip = _people(frames, bodies, seed, rng)
    other_streams = {"hands", "face", "hands_stamp", "face_stamp"}
    named = (spec.layout for spec in specs if spec.modality not in other_streams and spec.layout in layouts.LAYOUTS)
    layout = next(named, _CANONICAL)  # of "bodies": a body's, or a single hand's
    if layout != _CANONICAL:
        clip["bodies"] = np.stack([_random_motion(layout, frames, rng) for _ in range(bodies)])
    clip = {name: value.astype(np.float32) for name, value in clip.items()}
    for joints, pixels in (("bodies", "pixels"), ("hands", "hand_pixels"), ("face", "face_pixels")):
        clip[pixels] = project(clip[joints], CAMERA)
    clip["motion"] = np.gradient(clip["pixels"], 1 / RATE_HZ, axis=1) if frames > 1 else np.zeros_like(clip["pixels"])
    clip["size"] = np.array([CAMERA.width, CAMERA.height], dtype=np.float32)
    if "color" in keys:
        clip["color"] = (_smooth_noise((frames, CAMERA.height, CAMERA.width), rng) * 60 + 128).clip(0, 255)
        clip["color"] = clip["color"].astype(np.uint8)
    if "flow" in keys:
        clip["flow"] = 0.4 * _smooth_noise((frames, *_FLOW_SIZE), rng)
    return {name: value for name, value in clip.items() if name in keys}


def example_windows(
    specs: Sequence[InputSpec], window: WindowSpec, bodies: int, count: int, seed: int = 0
) -> dict[str, np.ndarray]:
    """Return inputs [count, …] float32 by name: the first clips of `count` windows with simulated people."""
    clips = (example_clip(specs, window.frames, bodies, seed * 1000 + n) for n in range(count))
    made = [next(each_clip(clip, specs, window, starts=window.starts[:1])) for clip in clips]
    return {spec.name: np.stack([inputs[spec.name] for inputs in made]) for spec in specs}


def _people(frames: int, bodies: int, seed: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return joints [M, T, 25, 3], hands [M, T, 2, 21, 3], face [M, T, 68, 3] of actors side by side, optical frame."""
    to_optical = np.diag([1.0, -1.0, -1.0])  # from left, up, forward of an actor that faces the camera
    face = rng.normal(0, _FACE_RADIUS / 2, (68, 3))
    found: dict[str, list[np.ndarray]] = {"bodies": [], "hands": [], "face": []}
    for m in range(bodies):
        place = np.array([(m - (bodies - 1) / 2) * _APART, _CAMERA_HEIGHT, _DISTANCE])
        poses = [pose.transformed(to_optical, place) for pose in _performed(seed * 16 + m, frames)]
        found["bodies"].append(np.stack([pose.joints for pose in poses]))
        found["hands"].append(np.stack([hand_joints(pose, _HAND_LENGTH) for pose in poses]))
        found["face"].append(np.stack([pose.joints[3] + face @ pose.head.T for pose in poses]))
    return {name: np.stack(values) for name, values in found.items()}


@lru_cache(maxsize=64)  # an export uses the same clips several times
def _performed(seed: int, frames: int) -> list[ActorPose]:
    performance = Performance(seed=seed, room=0.3)
    return [performance.pose(1.0 + t / RATE_HZ) for t in range(frames)]


def _random_motion(layout: str, frames: int, rng: np.random.Generator) -> np.ndarray:
    """Return joints [T, V, 3] of any layout with smoothly moving bones of about 3 cm, 1 m in front of the camera."""
    tree = layouts.get(layout)
    bones = 0.03 * (rng.normal(0, 1, (len(tree), 3)) + 0.3 * np.cumsum(rng.normal(0, 0.3, (frames, len(tree), 3)), 0))
    root = np.array(tree.parents) == np.arange(len(tree))
    joints = np.zeros((frames, len(tree), 3))
    for _ in range(len(tree)):  # each pass places one more joint of every chain
        joints = np.where(root[:, None], [0.0, 0.0, 1.0], joints[:, list(tree.parents)] + bones)
    return joints


def _smooth_noise(shape: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    """Return noise [T, H, W, 3] float32 of about unit variance, with cells of 16 px that change over time."""
    frames, height, width = shape
    still = rng.normal(0, 1, (1, height // 16 + 1, width // 16 + 1, 3))
    moving = rng.normal(0, 0.3, (frames, *still.shape[1:]))
    return np.repeat(np.repeat(still + moving, 16, 1), 16, 2)[:, :height, :width].astype(np.float32)
