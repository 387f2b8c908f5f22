"""Skeleton files that users write with numpy: joints, layout, stamps, and labels with start and end.

    np.savez("monday.npz", positions=xyz, layout="kinect_v2_25", fps=30.0,           # xyz [T, V, 3] m
             labels=["wave", "clap"], start_s=[1.5, 6.0], end_s=[3.0, 8.2], person="anna")

Joints are in the axes of a camera (x right, y down, z forward; level without `up`), or in right-handed axes of a room,
whose `up` is more than 60° from −y. These are shown as motion capture is (`place_before_camera`).
"""

import difflib
import itertools
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from actrec.recordings.labels import LabeledClip, check_label, is_printable
from actrec.skeleton.layouts import (
    CANONICAL,
    EXTRAPOLATED_SCORE,
    HANDS,
    KINECT_V2_25,
    LAYOUTS,
    TABLES,
    Layout,
    convert,
)
from actrec.skeleton.sequence import (
    SkeletonSequence,
    check_distance,
    open_npz,
    place_before_camera,
    stamps_at,
)
from actrec.types import NANOSECONDS, UNKNOWN
from actrec.utils import gravity
from actrec.utils.errors import DeviceError, InputError
from actrec.utils.geometry import kinect_to_optical

ARRAYS = (
    "positions", "layout", "fps", "stamps_s", "stamps_ns", "up", "body_ids", "labels", "start_s", "end_s", "body",
    "person",
)  # fmt: skip

BACKGROUND_S = (1.0, 5.0)
"""Length of the shortest and longest piece of time without a label that counts as `unknown`."""

_CLOCKS = ("stamps_s", "stamps_ns", "fps")
_PERIOD_S = (1e-3, 2.0)
_SIZE_M = {True: (0.04, 0.5), False: (0.4, 3.0)}  # of hands, of people
_UNITS = {"mm": 1000, "cm": 100}
_MOST_BODIES = 16
_MAX_BYTES = 1 << 30  # of arrays: 16 hours of a person in float64
_UPRIGHT = 0.5  # cosine of the largest angle between people's backs and `up`, and between a camera's `up` and level
_BODY_ID = re.compile(r"[A-Za-z]\w*")

_J = KINECT_V2_25.index

Arrays = dict[str, np.ndarray]


def read_skeleton_npz(path: str | Path, fps: float = 0.0) -> SkeletonSequence:
    """Read a file of the arrays `ARRAYS` (docs/teaching.md); bodies become `kinect_v2_25`, hands `hand_22`.

    `meta` has "labels", the file's own labeled spans (None without labels), and "background", the time between them as
    clips labeled `unknown`. `fps` replaces the file's own rate, not its stamps.

    Raises:
        DeviceError: There is no such file.
        InputError: It is corrupt or an array is wrong; the message names the file and the array.
    """
    path = Path(path)
    arrays = _load(path)
    layout, order = _layout(path, arrays["layout"])
    stamps = arrays.get("stamps_s", arrays.get("stamps_ns"))
    positions = _positions(path, arrays["positions"], layout, None if stamps is None else stamps.size)[..., order, :]
    stamps_ns = _stamps(path, arrays, positions.shape[1], fps)
    is_hand = layout.name in HANDS
    target = HANDS[1] if is_hand else CANONICAL
    joints, scores = convert(positions, np.ones(positions.shape[:-1], np.float32), layout.name, target)
    if not is_hand:
        _check_sides(path, joints, scores)
    joints, up = _leveled(path, joints, arrays.get("up"), is_hand)
    pixels = np.full((*joints.shape[:-1], 2), np.nan, np.float32)
    ids = _body_ids(path, arrays.get("body_ids"), len(joints))
    labels = _labels(path, arrays, ids, stamps_ns)
    shown = np.isfinite(joints).any(axis=(2, 3))
    background = () if labels is None else _background(labels, ids, stamps_ns, shown)
    meta: dict[str, Any] = {"format": "npz", "labels": labels, "background": background}
    return SkeletonSequence(path.stem, stamps_ns, joints, scores, pixels, ids, meta=meta, up=up, layout=target)


def _load(path: Path) -> Arrays:
    if not path.is_file():
        raise DeviceError(f"there is no file '{path}'; check the path")
    arrays: Arrays = {}
    try:
        with open_npz(path, _MAX_BYTES) as archive:
            for name in archive.files:
                arrays[name] = archive[name]
    except InputError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise various errors
        if "allow_pickle" in str(error):
            raise InputError(
                f"'{path}': array {name} holds Python objects; save numbers or texts: np.array({name}, dtype=str)"
            ) from error
        raise InputError(f"'{path}' is corrupt or not an .npz archive; copy it again ({error})") from error
    if unknown := [name for name in arrays if name not in ARRAYS]:
        raise InputError(
            f"'{path}' has an array {unknown[0]}{_nearest(unknown[0], ARRAYS)}; rename or remove it: the known ones "
            f"are {', '.join(ARRAYS)}"
        )
    if missing := [name for name in ("positions", "layout") if name not in arrays]:
        raise InputError(f"'{path}' has no array {missing[0]}: save it too")
    return arrays


def _nearest(name: str, known: Any) -> str:
    found = difflib.get_close_matches(name, list(known), 1)
    return f" (did you mean {found[0]}?)" if found else ""


# -- joints ------------------------------------------------------------------------------------------------------------


def _layout(path: Path, given: np.ndarray) -> tuple[Layout, list[int]]:
    """Return the layout, and the index in the file of each of its joints."""
    known = {name: LAYOUTS[name] for name in (*TABLES, *HANDS)}
    names = _texts(path, "layout", given, "kinect_v2_25")
    if given.size == 1:
        if names[0] not in known:
            near = _nearest(names[0], known)
            raise InputError(
                f"'{path}': unknown layout '{names[0]}'{near}; known: {', '.join(known)}, or a list of joint names"
            )
        return known[names[0]], list(range(len(known[names[0]])))
    joints = [_plain(name) for name in names]
    layout = max(known.values(), key=lambda each: (len(set(joints) & set(each.joints)), -len(each)))
    if unknown := [(name, joint) for name, joint in zip(names, joints, strict=True) if joint not in layout.index]:
        name, joint = unknown[0]
        raise InputError(
            f"'{path}': layout {layout.name}, the nearest, has no joint '{name}'{_nearest(joint, layout.joints)}; its "
            f"joints: {', '.join(layout.joints)}"
        )
    if repeated := [name for name, joint in zip(names, joints, strict=True) if joints.count(joint) > 1]:
        raise InputError(f"'{path}': layout lists joint '{repeated[0]}' twice; remove one with its positions")
    if missing := [joint for joint in layout.joints if joint not in joints]:
        raise InputError(f"'{path}': layout lacks {', '.join(missing)} of {layout.name}; add them with positions NaN")
    return layout, [joints.index(joint) for joint in layout.joints]


def _plain(name: str) -> str:
    """Return a joint name in the form of this package: `shoulder_left` for "LeftShoulder" and "left shoulder"."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.strip()).replace("-", "_").replace(" ", "_").lower()
    side = re.match(r"(left|right)_(.+)", words)
    return f"{side[2]}_{side[1]}" if side else words


def _positions(path: Path, given: np.ndarray, layout: Layout, frames: int | None) -> np.ndarray:
    """Return [M, T, V, 3] m, NaN for missing; a body of zeros is missing."""
    shape, wanted = given.shape, f"[T, {len(layout)}, 3] or [M, T, {len(layout)}, 3] in m for layout {layout.name}"
    swapped = given.ndim == 4 and shape[0] > _MOST_BODIES >= shape[1] and frames in (None, shape[0])
    if given.dtype.kind not in "fiu" or given.ndim not in (3, 4) or shape[-2:] != (len(layout), 3) or swapped:
        remedy = ""
        if swapped:
            remedy = "; bodies go first: positions.transpose(1, 0, 2, 3)"
        elif given.ndim > 1 and shape[-2:] == (3, len(layout)):
            remedy = "; swap the last two axes: positions.swapaxes(-1, -2)"
        elif given.ndim == 2 and shape[-1] == 3 * len(layout):
            remedy = f"; reshape it: positions.reshape(-1, {len(layout)}, 3)"
        elif given.ndim in (3, 4) and shape[-1] == 2:
            remedy = "; these are pixels or other 2-D joints"
        elif given.ndim in (3, 4) and shape[-1] == 3 and shape[-2] != len(layout):
            same = [name for name in (*TABLES, *HANDS) if len(LAYOUTS[name]) == shape[-2]]
            remedy = f"; layouts of {shape[-2]} joints: {', '.join(same) or 'none, so give a known list of names'}"
        raise InputError(f"'{path}': positions is {given.dtype} {list(shape)}, expected {wanted}{remedy}")
    positions = np.asarray(given[None] if given.ndim == 3 else given, np.float64)
    if np.isinf(positions).any():
        raise InputError(f"'{path}': positions holds infinite values; write NaN for a missing joint")
    positions = np.where(positions.any(axis=(-1, -2), keepdims=True), positions, np.nan)
    whole = positions[np.isfinite(positions).all(-1).mean(-1) >= 0.5]
    if not np.isfinite(positions).any():
        raise InputError(f"'{path}': positions holds no joint in any of {positions.shape[1]} frames; save it again")
    _check_size(path, whole, layout)
    check_distance(str(path), positions)
    return positions


def _check_size(path: Path, bodies: np.ndarray, layout: Layout) -> None:
    """Raise InputError if bodies [N, V, 3] have no person's size, or no hand's."""
    if not len(bodies):
        return
    size = float(np.median((np.nanmax(bodies, axis=1) - np.nanmin(bodies, axis=1)).max(axis=-1)))
    least, most = _SIZE_M[layout.name in HANDS]
    if least <= size <= most:
        return
    kind = "hands" if layout.name in HANDS else "people"
    units = [unit for unit, factor in _UNITS.items() if least <= size / factor <= most]
    cause = f"they are in {units[0]}: save positions / {_UNITS[units[0]]}" if units else "save positions in m"
    tall = f"{size:,.0f}" if 100 <= size < 1e6 else f"{size:.2g}"
    raise InputError(f"'{path}': {kind} are {tall} m tall, expected {least:g} to {most:g}; {cause}")


def _torso_axis(joints: np.ndarray) -> np.ndarray | None:
    """Return the mean direction [3] from hips to head of bodies [M, T, 25, 3]; None if no frame has both."""
    head, neck, base = (joints[..., _J[joint], :] for joint in ("head", "spine_shoulder", "spine_base"))
    axes = np.where(np.isfinite(head), head, neck) - base
    total = axes[np.isfinite(axes).all(axis=-1)].sum(axis=0)
    length = np.linalg.norm(total)
    return total / length if length > 0 else None


def _check_sides(path: Path, joints: np.ndarray, scores: np.ndarray) -> None:
    """Raise InputError if the feet of bodies [M, T, 25, 3] point backward: they are mirror images.

    In the published sets of Kinect v1 and v2, BVH and AMC here, 6,867 clips, no clip's mean cosine is below −0.26.
    """

    def joint(name: str, side: str = "") -> np.ndarray:
        return joints[..., _J[name + side], :]

    up = joint("spine_shoulder") - joint("spine_base")
    left = sum(joint(name, "_left") - joint(name, "_right") for name in ("shoulder", "hip"))
    feet = sum(joint("foot", side) - joint("ankle", side) for side in ("_left", "_right"))
    ahead, feet = np.cross(left, up), feet * (up * up).sum(-1, keepdims=True) - (feet * up).sum(-1, keepdims=True) * up
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = (ahead * feet).sum(-1) / (np.linalg.norm(ahead, axis=-1) * np.linalg.norm(feet, axis=-1))
    measured = scores[..., [_J["foot_left"], _J["foot_right"]]].min(-1) > EXTRAPOLATED_SCORE
    cosines = cosines[measured & np.isfinite(cosines)]
    if len(cosines) and cosines.mean() < -_UPRIGHT:
        raise InputError(
            f"'{path}': feet point backward, so people are mirrored: the axes are left-handed (save positions * "
            "[-1, 1, 1]), or left and right are exchanged in layout"
        )


def _leveled(
    path: Path, joints: np.ndarray, given: np.ndarray | None, is_hand: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the joints [M, T, V, 3] in level axes before the camera, and `up` in them; None if it is not given."""
    try:
        up = np.array(gravity.LEVEL, np.float32) if given is None else gravity.check_up(given)
    except (InputError, ValueError, TypeError) as error:
        raise InputError(f"'{path}': {error}, as [0, -1, 0] of a level camera") from error
    axis = None if is_hand else _torso_axis(joints)
    if axis is not None and axis @ up < (_UPRIGHT if given is None else -_UPRIGHT):
        stand = np.where(np.arange(3) == np.abs(axis).argmax(), np.sign(axis), 0).astype(int).tolist()
        raise InputError(
            f"'{path}': people stand along {stand}, but up is {[round(float(value), 2) for value in up]}"
            f"{', the default' if given is None else ''}: save up={stand}"
            + (", or [0, -1, 0] if they lie" if given is None else "")
            + (", or of a Kinect positions * [-1, -1, 1]" if given is None and stand == [0, 1, 0] else "")
        )
    joints = joints @ gravity.level_rotation(up).T
    is_room = float(up @ gravity.LEVEL) < _UPRIGHT
    if not is_hand and (is_room or np.nanmin(joints[..., 2]) < 0):
        joints = kinect_to_optical(place_before_camera(kinect_to_optical(joints), turn=is_room))
    return joints, None if given is None else np.array(gravity.LEVEL, np.float32)


def _body_ids(path: Path, given: np.ndarray | None, bodies: int) -> tuple[str, ...]:
    if given is None:
        return tuple(f"body_{m + 1}" for m in range(bodies))
    ids = _texts(path, "body_ids", given, "anna")
    if len(set(ids)) != bodies or len(ids) != bodies or not all(map(_BODY_ID.fullmatch, ids)):
        raise InputError(
            f"'{path}': body_ids is {ids}, expected {bodies} different names of letters, digits and underscores that "
            "start with a letter"
        )
    return tuple(ids)


# -- stamps ------------------------------------------------------------------------------------------------------------


def _stamps(path: Path, arrays: Arrays, frames: int, fps: float) -> np.ndarray:
    """Return [T] ns."""
    given = [name for name in _CLOCKS if name in arrays]
    if len(given) > 1:
        raise InputError(f"'{path}' has {' and '.join(given)}: keep one of them")
    if not given and not fps:
        raise InputError(
            f"'{path}' has none of {', '.join(_CLOCKS)}: save one, or give the frame rate: --recording fps=HZ"
        )
    if given in ([], ["fps"]):
        rate = fps or _number(path, "fps", arrays["fps"])
        if not 1 / _PERIOD_S[1] <= rate <= 1 / _PERIOD_S[0]:
            raise InputError(f"'{path}': fps is {rate:g}, expected 0.5 to 1000 frames per second")
        return stamps_at(rate, frames)
    name = given[0]
    values = np.asarray(arrays[name])
    if values.shape != (frames,) or values.dtype.kind not in "fiu":
        raise InputError(
            f"'{path}': {name} is {values.dtype} {list(values.shape)}, expected a number for each of {frames} frames"
        )
    if not np.isfinite(values).all():
        wrong = np.flatnonzero(~np.isfinite(values))
        raise InputError(
            f"'{path}': {name} is {values[wrong[0]]} in {len(wrong)} frames, first {wrong[0]}; remove these frames"
        )
    unit = NANOSECONDS if name == "stamps_s" else 1
    if (far := np.abs(values.astype(np.float64)) >= 2**63 / unit).any():
        raise InputError(f"'{path}': {name} holds {values[far][0]:g}, which is no time; check its unit")
    stamps_ns = (np.round(values * float(unit)) if unit > 1 else values).astype(np.int64)
    late = np.flatnonzero(np.diff(stamps_ns) <= 0)
    if len(late):
        few = "; float32 is too coarse for these times: save float64" if values.dtype == np.float32 else ""
        raise InputError(
            f"'{path}': {name} does not increase from frame {late[0]} ({values[late[0]]}) to the next "
            f"({values[late[0] + 1]}){few or '; sort the frames or remove one'}"
        )
    period = float(np.median(np.diff(stamps_ns))) / NANOSECONDS if frames > 1 else _PERIOD_S[0]
    if not _PERIOD_S[0] <= period <= _PERIOD_S[1]:
        raise InputError(f"'{path}': frames are {period:.3g} s apart by {name}, expected 0.001 to 2 s; check its unit")
    return stamps_ns


def _shown(values: np.ndarray) -> str:
    return repr(values.tolist()) if values.size < 6 else f"{values.dtype} {list(values.shape)}"


def _number(path: Path, name: str, given: np.ndarray) -> float:
    if given.size != 1 or given.dtype.kind not in "fiu" or not np.isfinite(given).all():
        raise InputError(f"'{path}': {name} is {_shown(given)}, expected one number, such as 30")
    return float(given.reshape(-1)[0])


# -- labels ------------------------------------------------------------------------------------------------------------


def _texts(path: Path, name: str, given: np.ndarray, example: str) -> list[str]:
    if (given.size and given.dtype.kind not in "US") or given.ndim > 1:
        raise InputError(f"'{path}': {name} is {given.dtype} {list(given.shape)}, expected texts, such as '{example}'")
    texts = [each.decode("utf-8", "replace") if isinstance(each, bytes) else str(each) for each in given.reshape(-1)]
    if wrong := [text for text in texts if not text or not is_printable(text)]:
        raise InputError(f"'{path}': {name} has {wrong[0]!r}, expected up to 80 printable characters, as '{example}'")
    return texts


def _each(path: Path, name: str, arrays: Arrays, count: int, example: str) -> list[str]:
    """Return a text for each label: one for all, or one for each; empty texts if there is no such array."""
    if name not in arrays:
        return [""] * count
    texts = _texts(path, name, arrays[name], example)
    if arrays[name].ndim and len(texts) != count:
        raise InputError(
            f"'{path}': {name} has {len(texts)} entries for {count} labels; give one for each, or one text"
        )
    return texts if arrays[name].ndim else texts * count


def _labels(path: Path, arrays: Arrays, ids: tuple[str, ...], stamps_ns: np.ndarray) -> tuple[LabeledClip, ...] | None:
    """Return the labeled spans, in s from the first frame, in order of their starts."""
    spans = [name for name in ("start_s", "end_s") if name in arrays]
    if "labels" not in arrays:
        if spans:
            raise InputError(f"'{path}' has {spans[0]} but no labels: save one for each, such as labels=['wave']")
        return None
    labels = _texts(path, "labels", arrays["labels"], "wave")
    people = _each(path, "person", arrays, len(labels), "anna")
    bodies = _each(path, "body", arrays, len(labels), ids[0])
    if foreign := sorted({body for body in bodies if body} - set(ids)):
        raise InputError(f"'{path}': body has '{foreign[0]}', which is no id; body_ids: {', '.join(ids)}")
    for label in labels:
        check_label(f"'{path}'", label)
    starts, ends = np.zeros(len(labels)), np.full(len(labels), math.inf)
    if len(labels) > 1 or spans:
        starts, ends = (_times(path, name, arrays, len(labels)) for name in ("start_s", "end_s"))
    rows = zip(labels, starts.tolist(), ends.tolist(), people, bodies, strict=True)
    clips = sorted((LabeledClip(path.name, *row) for row in rows), key=lambda clip: (clip.start_s, clip.end_s))
    _check_spans(path, clips, stamps_ns)
    return tuple(clips)


def _times(path: Path, name: str, arrays: Arrays, count: int) -> np.ndarray:
    if name not in arrays:
        raise InputError(
            f"'{path}' has labels but no {name}: save one for each of the {count}, in s from the first frame"
        )
    values = np.asarray(arrays[name])
    if values.reshape(-1).shape != (count,) or values.dtype.kind not in "fiu" or not np.isfinite(values).all():
        raise InputError(f"'{path}': {name} is {_shown(values)}, expected {count} numbers, one for each label, in s")
    return values.reshape(-1).astype(np.float64)


def _check_spans(path: Path, clips: list[LabeledClip], stamps_ns: np.ndarray) -> None:
    """Raise InputError if a span ends before its start, lies outside the recording, or overlaps one of its body."""
    last_s = float(stamps_ns[-1] - stamps_ns[0]) / NANOSECONDS
    frame_s = last_s / max(len(stamps_ns) - 1, 1)
    for k, clip in enumerate(clips):
        span = f"'{path}': label '{clip.label}' from {clip.start_s:g} to {clip.end_s:g} s"
        if clip.end_s <= clip.start_s:
            raise InputError(f"{span} ends before it starts; correct start_s and end_s")
        if clip.start_s < 0 or (clip.end_s > last_s + 1.5 * frame_s and clip.end_s != math.inf):
            first_s = float(stamps_ns[0]) / NANOSECONDS
            hint = "they count in s from the first frame"
            if clip.start_s >= first_s and clip.end_s - first_s <= last_s + 1.5 * frame_s:
                hint += ": subtract its stamp"
            elif clip.end_s == round(clip.end_s) and clip.end_s <= len(stamps_ns):
                hint += ": divide frame numbers by the frame rate"
            raise InputError(f"{span} lies outside the recording, which lasts {last_s:.2f} s; {hint}")
        for other in clips[:k]:
            if other.end_s > clip.start_s + 1e-6 and (other.body == clip.body or "" in (other.body, clip.body)):
                raise InputError(
                    f"{span} overlaps '{other.label}', which ends at {other.end_s:g} s; correct one, or name the "
                    "body of each in body"
                )


def _background(
    labels: tuple[LabeledClip, ...], ids: tuple[str, ...], stamps_ns: np.ndarray, shown: np.ndarray
) -> tuple[LabeledClip, ...]:
    """Return the time without a label, while its body is in view, in pieces of 1 to 5 s labeled `unknown`.

    Each body that labels name has its own, so that a clip shows one person. Without such a body, a piece between labels
    of two people is ignored: it may show either.

    Args:
        labels: In order of their starts.
        ids: [M] of the bodies.
        stamps_ns: [T].
        shown: [M, T] whether a body is in view.
    """
    least, most = BACKGROUND_S
    times, pieces, name = (stamps_ns - stamps_ns[0]) / NANOSECONDS, [], labels[0].recording if labels else ""
    for body in dict.fromkeys(clip.body for clip in labels if clip.body) or [""]:
        seen: np.ndarray = shown[ids.index(body)] if body else np.any(shown, axis=0)
        own, free_s = [clip for clip in labels if clip.body in ("", body)], 0.0
        for before, after in itertools.pairwise([None, *own, None]):
            start_s = after.start_s if after else float(times[-1])
            people = {clip.person for clip in (before, after) if clip}
            if (gap := start_s - free_s) >= least and ("" in people or len(people) < 2):
                person = "" if "" in people or not people else people.pop()
                for a, b in itertools.pairwise(np.linspace(free_s, start_s, math.ceil(gap / most) + 1).tolist()):
                    inside = (times >= a) & (times <= b)
                    if 2 * seen[inside].sum() >= max(inside.sum(), 1):
                        pieces.append(LabeledClip(name, UNKNOWN, round(a, 3), round(b, 3), person, body))
            free_s = after.end_s if after else free_s
    return tuple(pieces)
