"""Northwestern-UCLA Multiview Action 3D (Wang et al., CVPR 2014): Kinect v1 joints, three views.

The dataset gives no clock. In "walk around" the distance between the ankles swings 0.128 times a frame (median of 106
sequences), which at 12 Hz is 1.5 steps a second, a slow indoor walk: so 12 Hz is the default; `fps` sets another.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from actrec.errors import InputError
from actrec.recordings.sequence import SkeletonSequence, from_kinect, load_npz, read_text, split_frames, stamps_at

FPS = 12.0
CLASSES = (
    "pick up with one hand", "pick up with two hands", "drop trash", "walk around", "sit down", "stand up",
    "donning", "doffing", "throw", "carry",
)  # fmt: skip
_NAME = re.compile(r"a(\d+)_s(\d+)_e(\d+)_v(\d+)")


def read_nucla_json(path: str | Path, fps: float = FPS) -> SkeletonSequence:
    """Reads one sequence as published: {"file_name", "skeletons": [T][20][3] metres, "label": 1..10}.

    Raises:
        DeviceError: There is no such file.
        InputError: It is truncated, corrupt or of another form.
    """
    path = Path(path)
    try:
        content = json.loads(read_text(path))
        xyz = np.asarray(content["skeletons"], dtype=np.float64)
        label = int(content["label"])
        name = str(content.get("file_name", path.stem))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(f"'{path}' is corrupt or no N-UCLA skeleton file: {error}; copy it again") from error
    if xyz.ndim != 3 or xyz.shape[1:] != (20, 3) or not len(xyz):
        raise InputError(f"'{path}': skeletons is {list(xyz.shape)}, expected [frames, 20, 3]")
    return _sequence(name, xyz, label, fps)


def read_nucla_npz(path: str | Path, fps: float = FPS) -> list[SkeletonSequence]:
    """Reads all sequences of `nucla_skeletons.npz` (xyz, length, name, label; `is_train` goes to `meta`).

    Raises:
        DeviceError: There is no such file.
        InputError: It is corrupt, or its arrays contradict each other.
    """
    path = Path(path)
    arrays = load_npz(path, ("xyz", "length", "name", "label", "is_train"))
    parts = split_frames(path, arrays, 20, {"label": (1, len(CLASSES)), "is_train": (0, 1)})
    names = [str(name) for name in arrays["name"].reshape(-1)]
    if len(names) != len(parts) or not all(map(parse_name, names)):
        raise InputError(f"'{path}': name does not hold {len(parts)} names aAA_sSS_eEE_vVV")
    return [
        _sequence(name, part, int(label), fps, is_train=bool(train))
        for name, part, label, train in zip(names, parts, arrays["label"], arrays["is_train"], strict=True)
    ]


def parse_name(name: str) -> dict[str, int]:
    """Action, subject, episode and view from "aAA_sSS_eEE_vVV"; empty for another name."""
    match = _NAME.fullmatch(name)
    return dict(zip(("action", "subject", "episode", "view"), map(int, match.groups()), strict=True)) if match else {}


def _sequence(name: str, xyz: np.ndarray, label: int, fps: float, **more: Any) -> SkeletonSequence:
    meta: dict[str, Any] = {"format": "nucla", "fps": fps, **more}
    if 1 <= label <= len(CLASSES):
        meta["label_name"] = CLASSES[label - 1]
    meta.update(parse_name(name))
    return from_kinect(name, xyz[None], "kinect_v1_20", stamps_at(fps, len(xyz)), label=label, meta=meta)
