"""The hands of a recording as joints: a bag's `hands`, or a sequence of SHREC'17 as published."""

from pathlib import Path
from typing import Any

import numpy as np

from actrec.errors import InputError
from actrec.recordings import sniff
from actrec.recordings.bag_reader import messages, open_reader, reading, stamp_ns
from actrec.recordings.bag_skeletons import choose_topic, typestore_of
from actrec.recordings.base import existing
from actrec.recordings.shrec17 import read_gesture
from actrec.skeleton.conversions import convert

HANDS = "actrec_msgs/msg/HandArray"


def read_hands(path: str | Path, layout: str) -> tuple[np.ndarray, np.ndarray]:
    """All hands of a recording.

    Args:
        path: A bag that holds `HandArray` messages, or a `skeletons_world.txt` of SHREC'17.
        layout: What the joints are wanted as: `hand_22`, or as they were recorded.

    Returns:
        Stamps [T] int64 nanoseconds, and joints [M, T, V, 3] float32 metres in the optical frame, NaN where missing;
        one of the M for each side of each person.

    Raises:
        DeviceError: There is nothing there.
        InputError: It is corrupt, of another kind, or shows no hand.
        ConfigError: A bag holds several topics of hands.
    """
    path = existing(path)
    if path.suffix == ".txt":
        gesture = read_gesture(path)
        stamps, hands = gesture.stamps_ns, gesture.hands
        if layout != "hand_22":
            raise InputError(f"'{path}' holds joints in hand_22, not in {layout}")
    elif sniff(path) == "bag":
        stamps, hands = _of_bag(path, layout)
    else:
        raise InputError(f"'{path}' holds no hands: give bags with {HANDS} messages, or skeletons_world.txt files")
    if not np.isfinite(hands).any():
        raise InputError(f"'{path}' shows no hand in any of its {len(stamps)} frames: record it again")
    return stamps, hands


def _of_bag(path: Path, layout: str) -> tuple[np.ndarray, np.ndarray]:
    reader = open_reader(path)
    try:
        if not any(c.msgtype == HANDS and c.msgcount for c in reader.connections):
            raise InputError(f"bag '{path}' holds no {HANDS} messages: record the topic hands")
        topic = choose_topic(path, reader, HANDS, ("/hands",))
        store = typestore_of(path, reader, topic, HANDS)
        seen: dict[int, dict[str, np.ndarray]] = {}
        with reading(path):
            for _, _, raw in messages(reader, [topic]):
                found = store.deserialize_cdr(raw, HANDS).hands
                seen.setdefault(stamp_ns(raw), {}).update({f"{h.body_id} {h.side}": _joints(h, layout) for h in found})
    finally:
        reader.close()
    stamps = sorted(seen)
    names = dict.fromkeys(name for hands in seen.values() for name in hands)
    missing = next((np.full_like(joints, np.nan) for hands in seen.values() for joints in hands.values()), np.empty(0))
    tracks = [[seen[stamp].get(name, missing) for stamp in stamps] for name in names]
    return np.array(stamps, np.int64), np.array(tracks, np.float32)


def _joints(hand: Any, layout: str) -> np.ndarray:
    positions = np.array([(p.x, p.y, p.z) for p in hand.positions], np.float32).reshape(-1, 3)
    return convert(positions, np.array(hand.confidences, np.float32), hand.layout, layout)[0]
