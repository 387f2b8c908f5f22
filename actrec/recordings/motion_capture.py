"""Motion capture files: Biovision (.bvh) and Acclaim (.amc with its skeleton .asf), by forward kinematics.

The files have no camera. A recording is shown as a level camera sees it (`place_before_camera`): the actor faces it in
the first frame.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from actrec.skeleton.layouts import ASF_31, BVH_21, CANONICAL, convert
from actrec.skeleton.sequence import (
    SkeletonSequence,
    check_distance,
    from_kinect,
    place_before_camera,
    read_text,
    stamps_at,
)
from actrec.utils import gravity
from actrec.utils.errors import DeviceError, InputError

logger = logging.getLogger(__name__)

AMC_FPS = 120.0
"""Frame rate of HDM05 and CMU, which the files do not state."""

_INCH_M = 0.0254
_BVH_UNITS = {"m": 1.0, "cm": 0.01, "mm": 0.001, "inch": _INCH_M, "0.45 inch": _INCH_M / 0.45}
"""Possible units of a BVH file, which does not state its own, in m; the last is CMU's."""

_LEG_M = (0.5, 1.1)
"""m, range of thigh and shin together: exactly one unit puts a person's legs into it."""

_UPRIGHT = 0.7
"""Least cosine between the pose at rest and the axis along which people stand, if that is not y."""

_BVH_NAMES = {
    "hips": "hips pelvis", "spine": "spine", "chest": "chest spine1 spine2", "neck": "neck", "head": "head",
    "clavicle": "shoulder collar clavicle", "shoulder": "upperarm arm uparm", "elbow": "lowerarm forearm lowarm",
    "wrist": "hand", "hip": "upperleg upleg thigh", "knee": "lowerleg leg lowleg shin", "ankle": "foot",
    "toe": "toes toebase toe",
}  # fmt: skip
"""Names that programs give to the joints of `bvh_21`, without side, namespace and underscores."""

_OPTIONAL = ("clavicle", "toe")


@dataclass(frozen=True)
class _Bone:
    """A joint of a BVH file, or a bone of an ASF file.

    Attributes:
        parent: Index; −1 for the root.
        offset: [3] from the parent; of an ASF file to the far end of the bone.
        channels: BVH's channels, or ASF's degrees of freedom.
        axis: Rotation from the bone's own axes to the skeleton's (ASF).
    """

    name: str
    parent: int
    offset: np.ndarray
    channels: tuple[str, ...]
    axis: Rotation | None = None


def read_bvh(path: str | Path) -> SkeletonSequence:
    """Read a BVH file with the joints of `bvh_21` under their common names; other joints are ignored.

    Raises:
        DeviceError: There is no such file.
        InputError: It is truncated or corrupt, lacks joints, or its legs are no person's in any unit.
    """
    path = Path(path)
    hierarchy, found, motion = read_text(path).partition("MOTION")
    try:
        if not found or not hierarchy.split()[:1] == ["HIERARCHY"]:
            raise ValueError("it has no HIERARCHY and MOTION")
        bones = _bvh_bones(hierarchy.split()[1:])
        stated = re.match(r"\s*Frames:\s*(\d+)\s*Frame Time:\s*(\S+)", motion)
        if stated is None or not int(stated[1]) or not 0 < float(stated[2]) < 10:
            raise ValueError("it states no number of frames and frame time")
        values = np.array(motion[stated.end() :].split(), np.float64)
    except (ValueError, IndexError) as error:
        raise InputError(f"'{path}' is truncated or not a BVH file: {error}; copy it again") from error
    frames, columns = int(stated[1]), sum(len(bone.channels) for bone in bones)
    if len(values) != frames * columns or not np.isfinite(values).all():
        raise InputError(
            f"'{path}' holds {int(np.isfinite(values).sum())} numbers, expected {frames} frames of {columns}: it is "
            "truncated or corrupt; copy it again"
        )
    chosen = _bvh_joints(path, [bone.name for bone in bones])
    world = _bvh_positions(bones, values.reshape(frames, columns))
    positions = np.full((frames, len(BVH_21), 3), np.nan)
    positions[:, list(chosen)] = world[:, list(chosen.values())]
    index = BVH_21.index
    leg = sum(
        float(np.median(np.linalg.norm(positions[:, index[a]] - positions[:, index[b]], axis=-1)))
        for a, b in (("hip_left", "knee_left"), ("knee_left", "ankle_left"))
    )
    units = [unit for unit in _BVH_UNITS.values() if _LEG_M[0] <= leg * unit < _LEG_M[1]]
    if not units:
        raise InputError(f"'{path}': thigh and shin measure {leg:.3g}, a person's in none of {', '.join(_BVH_UNITS)}")
    positions = _with_y_up(path, positions, _bvh_rest(bones)[list(chosen.values())], list(chosen)) * units[0]
    return motion_sequence(
        path.stem, positions, BVH_21.name, stamps_at(1 / float(stated[2]), frames), {"format": "bvh"}
    )


def _bvh_bones(tokens: list[str]) -> list[_Bone]:
    """Parse the hierarchy; end sites have no channels."""
    bones: list[_Bone] = []
    stack: list[int] = []
    name = ""
    k = 0
    while k < len(tokens):
        token = tokens[k]
        if token in ("ROOT", "JOINT", "End"):
            name, k = tokens[k + 1], k + 2
        elif token == "{":
            if tokens[k + 1] != "OFFSET":
                raise ValueError(f"'{name}' has no OFFSET")
            offset = np.array(tokens[k + 2 : k + 5], np.float64)
            channels: tuple[str, ...] = ()
            k += 5
            if k < len(tokens) and tokens[k] == "CHANNELS":
                count = int(tokens[k + 1])
                channels, k = tuple(tokens[k + 2 : k + 2 + count]), k + 2 + count
            kinds = {f"{axis}{kind}" for axis in "XYZ" for kind in ("rotation", "position")}
            if set(channels) - kinds or len(set(channels)) < len(channels):
                raise ValueError(f"'{name}' has the channels {' '.join(channels)}")
            bones.append(_Bone(name, stack[-1] if stack else -1, offset, channels))
            stack.append(len(bones) - 1)
        elif token == "}":
            stack.pop()
            k += 1
        else:
            raise ValueError(f"unknown word '{token[:40]}'")
    if stack or not bones:
        raise ValueError("its hierarchy is incomplete")
    return bones


def _bvh_positions(bones: Sequence[_Bone], values: np.ndarray) -> np.ndarray:
    """Return the joints' positions [T, joints, 3]; position channels replace the offset of a joint but the root's."""
    positions = np.empty((len(values), len(bones), 3))
    rotations: list[Rotation] = []
    column = 0
    for v, bone in enumerate(bones):
        own = {channel: values[:, column + i] for i, channel in enumerate(bone.channels)}
        column += len(bone.channels)
        local = np.tile(bone.offset, (len(values), 1))
        for axis, letter in enumerate("XYZ"):
            if f"{letter}position" in own:
                local[:, axis] = own[f"{letter}position"] + (bone.offset[axis] if bone.parent < 0 else 0.0)
        order = [channel for channel in bone.channels if channel.endswith("rotation")]
        turn = Rotation.identity(len(values))
        if order:
            angles = np.stack([own[channel] for channel in order], axis=-1)
            turn = Rotation.from_euler("".join(channel[0] for channel in order), angles, degrees=True)
        if bone.parent < 0:
            positions[:, v] = local
        else:
            positions[:, v] = positions[:, bone.parent] + rotations[bone.parent].apply(local)
            turn = rotations[bone.parent] * turn
        rotations.append(turn)
    return positions


def _bvh_rest(bones: Sequence[_Bone]) -> np.ndarray:
    """Return the joints' positions [joints, 3] without any motion."""
    positions = np.zeros((len(bones), 3))
    for v, bone in enumerate(bones[1:], 1):
        positions[v] = positions[bone.parent] + bone.offset
    return positions


def _with_y_up(path: Path, positions: np.ndarray, rest: np.ndarray, known: list[int]) -> np.ndarray:
    """Return positions [T, 21, 3] in axes with y up.

    Some programs write z up, and estimators y down. An actor who lies is recognized by the pose at rest, which stands
    along another axis. No actor is upside down in a whole file.

    Args:
        path: The file.
        positions: Of `bvh_21`, in the file's axes.
        rest: [joints, 3] without any motion, of the joints `known` of `bvh_21`.
        known: Indices of these joints.
    """
    hips, head = BVH_21.index["hips"], BVH_21.index["head"]
    axis = (positions[:, head] - positions[:, hips]).mean(axis=0)
    at_rest = rest[known.index(head)] - rest[known.index(hips)]
    up = np.where(np.arange(3) == np.abs(axis).argmax(), np.sign(axis), 0.0)
    if up[1] > 0 or (up[1] == 0 and up @ at_rest < _UPRIGHT * np.linalg.norm(at_rest)):
        return positions
    logger.warning("'%s': people stand along %s, which is taken as up instead of y", path, up.astype(int).tolist())
    if up[1]:
        return positions * [1.0, -1.0, -1.0]
    turn: Rotation = Rotation.align_vectors([[0, 1, 0]], [up])[0]
    return turn.apply(positions.reshape(-1, 3)).reshape(positions.shape)


def _bvh_joints(path: Path, names: Sequence[str]) -> dict[int, int]:
    """Return the index in the file of each joint of `bvh_21` that it has."""
    known: dict[str, int] = {}
    for v, name in enumerate(names):
        bare = name.split(":")[-1].replace("_", "").replace(".", "").replace("-", "")
        side = re.fullmatch(r"(Left|Right|)(.+?)(L|R|)", bare)
        if side is None:  # a name of separators alone
            continue
        mark = (side[1] or side[3])[:1]
        suffix = {"L": "_left", "R": "_right", "": ""}[mark]
        known.setdefault(side[2].lower() + suffix, v)
    chosen, missing = {}, []
    for v, joint in enumerate(BVH_21.joints):
        kind, _, side_name = joint.partition("_")
        wanted = [f"{alias}_{side_name}" if side_name else alias for alias in _BVH_NAMES[kind].split()]
        found = next((known[alias] for alias in wanted if alias in known), None)
        if found is not None:
            chosen[v] = found
        elif kind not in _OPTIONAL:
            missing.append(joint)
    if missing:
        raise InputError(
            f"'{path}' has no joint for {', '.join(missing)}; name them as in Hips, Spine, Chest, Neck, Head, LeftArm, "
            "LeftForeArm, LeftHand, LeftUpLeg, LeftLeg, LeftFoot"
        )
    return chosen


# -- Acclaim -----------------------------------------------------------------------------------------------------------


def read_amc(path: str | Path, fps: float = AMC_FPS, skeleton: Path | None = None, step: int = 1) -> SkeletonSequence:
    """Read every `step`-th frame of an AMC file of `fps` Hz.

    Its skeleton is the ASF file `skeleton`, or else the one beside it with which its own name begins.

    Raises:
        DeviceError: There is no such file, or no skeleton.
        InputError: One is truncated or corrupt, or the skeleton does not have the bones of `asf_31`.
    """
    path = Path(path)
    asf = skeleton or _find_asf(path)
    text = read_text(path)
    try:
        bones, unit, degrees = _asf_bones(read_text(asf))
    except (ValueError, IndexError, KeyError) as error:
        raise InputError(f"'{asf}' is truncated or not an ASF file: {error}; copy it again") from error
    names = [bone.name for bone in bones]
    order = [_asf_name(joint) for joint in ASF_31.joints]
    if missing := [name for name in order if name not in names]:
        raise InputError(f"'{asf}' has no bone {', '.join(missing)}: it is not a skeleton of HDM05's or CMU's form")
    try:
        values = _amc_values(text, bones)
    except ValueError as error:
        raise InputError(f"'{path}' is truncated or does not fit '{asf.name}': {error}; copy both again") from error
    positions = _asf_positions(bones, values, degrees) * unit
    joints, fps = positions[::step, [names.index(name) for name in order]], fps / step
    return motion_sequence(path.stem, joints, ASF_31.name, stamps_at(fps, len(joints)), {"format": "amc", "fps": fps})


def _find_asf(path: Path) -> Path:
    if not path.is_file():
        raise DeviceError(f"there is no file '{path}'; check the path")
    beside = [file for file in path.parent.glob("*.[aA][sS][fF]") if path.stem.startswith(file.stem)]
    if not beside:
        raise DeviceError(
            f"'{path}' has no skeleton: copy the actor's .asf beside it, named as the beginning of its name"
        )
    return max(beside, key=lambda file: len(file.stem))


def _asf_name(joint: str) -> str:
    """Return the name of a bone in the file, `lfemur` for `femur_left`."""
    bone, _, side = joint.partition("_")
    return side[:1] + bone


def _asf_bones(text: str) -> tuple[list[_Bone], float, bool]:
    """Return the bones, the root first and parents before children, the unit in m, and whether angles are degrees."""
    sections: dict[str, list[list[str]]] = {}
    lines: list[list[str]] = []
    for line in text.splitlines():
        words = line.split()
        if words and words[0].startswith(":"):
            lines = sections.setdefault(words[0][1:].lower(), [])
        elif words and not words[0].startswith("#"):
            lines.append(words)
    units = {words[0]: words[1] for words in sections["units"]}
    degrees = units.get("angle", "deg") == "deg"
    root_order = next((words[1:] for words in sections["root"] if words[0] == "order"), [])
    if {word.lower() for word in root_order} != {"tx", "ty", "tz", "rx", "ry", "rz"}:
        raise ValueError("the order of its root is not TX TY TZ RX RY RZ or a permutation")
    data = {"root": _Bone("root", -1, np.zeros(3), tuple(root_order))}
    block: dict[str, list[str]] = {}
    for words in sections["bonedata"]:
        if words[0] == "end":
            name, (*turn, order) = block["name"][0], block["axis"]
            numbers = np.array([*block["direction"], *turn, *block["length"]], np.float64)
            if numbers.shape != (7,) or not np.isfinite(numbers).all():
                raise ValueError(f"bone {name} needs three numbers of direction, three of axis and a length")
            axis = Rotation.from_euler(order.lower(), numbers[3:6], degrees)
            data[name] = _Bone(name, 0, numbers[:3] * numbers[6], tuple(block.get("dof", ())), axis)
        block = {} if words[0] in ("begin", "end") else {**block, words[0]: words[1:]}
    bones, index = [data["root"]], {"root": 0}
    for parent, *children in sections["hierarchy"]:
        for name in children if parent not in ("begin", "end") else ():
            bone = data[name]
            index[name] = len(bones)
            bones.append(_Bone(name, index[parent], bone.offset, bone.channels, bone.axis))
    return bones, _INCH_M / float(units["length"]), degrees


def _amc_values(text: str, bones: Sequence[_Bone]) -> dict[str, np.ndarray]:
    """Return the values [T, degrees of freedom] of each bone."""
    channels = {bone.name: len(bone.channels) for bone in bones if bone.channels}
    frames: list[dict[str, list[str]]] = []
    for line in text.splitlines():
        name, *values = line.split() or [""]
        if name.isdigit() and not values:
            if int(name) != len(frames) + 1:
                raise ValueError(f"frame {name} follows frame {len(frames)}")
            frames.append({})
        elif name and not name.startswith(("#", ":")):
            if not frames or len(values) != channels.get(name):
                raise ValueError(
                    f"'{line[:60]}' has {len(values)} values, expected {channels.get(name, 'no such bone')}"
                )
            frames[-1][name] = values
    if not frames:
        raise ValueError("it has no frames")
    for number, frame in enumerate(frames, 1):
        if absent := [name for name in channels if name not in frame]:
            raise ValueError(f"frame {number} lacks {absent[0]}")
    found = {name: np.array([frame[name] for frame in frames], np.float64) for name in channels}
    if not all(np.isfinite(value).all() for value in found.values()):
        raise ValueError("a value is not a number")
    return found


def _asf_positions(bones: Sequence[_Bone], values: dict[str, np.ndarray], degrees: bool) -> np.ndarray:
    """Return the far end of each bone [T, bones, 3] in the file's unit."""
    root = dict(zip((c.lower() for c in bones[0].channels), values["root"].T, strict=True))
    frames = len(values["root"])
    positions = np.empty((frames, len(bones), 3))
    rotations: list[Rotation] = []
    for v, bone in enumerate(bones):
        own = (
            root
            if bone.axis is None
            else dict(zip(bone.channels, values.get(bone.name, np.empty((frames, 0))).T, strict=True))
        )
        angles = np.stack([own.get(f"r{axis}", np.zeros(frames)) for axis in "xyz"], axis=-1)
        turn = Rotation.from_euler("xyz", angles, degrees)
        if bone.axis is None:
            positions[:, v] = np.stack([root[f"t{axis}"] for axis in "xyz"], axis=-1)
        else:
            turn = rotations[bone.parent] * bone.axis * turn * bone.axis.inv()
            positions[:, v] = positions[:, bone.parent] + turn.apply(bone.offset)
        rotations.append(turn)
    return positions


# -- both --------------------------------------------------------------------------------------------------------------


def motion_sequence(
    name: str, positions: np.ndarray, layout: str, stamps_ns: np.ndarray, meta: dict[str, Any], label: int | None = None
) -> SkeletonSequence:
    """Create a sequence of captured motion as a level camera sees it (see the module).

    Args:
        name: Name of the sequence.
        positions: [T, V, 3] m in right-handed axes with y up, NaN for missing.
        layout: The joint layout of `positions`.
        stamps_ns: [T] nanoseconds.
        meta: Other data of the format.
        label: Number of the action.

    Raises:
        InputError: A joint is farther away than 1 km.
    """
    check_distance(name, positions)
    joints, scores = convert(positions, np.ones(positions.shape[:-1]), layout)
    up = np.array(gravity.LEVEL, np.float32)
    return from_kinect(
        name,
        place_before_camera(joints[None]),
        CANONICAL,
        stamps_ns,
        scores=scores[None],
        label=label,
        meta=meta,
        up=up,
    )
