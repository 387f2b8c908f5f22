"""Occlusion: how much of a label rests on each joint in each part of the window. It needs the session alone."""

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actrec.inference.session import Session, body_layout
from actrec.skeleton import layouts
from actrec.types import Clip

SEGMENTS = 8
"""Parts of the window, each occluded alone."""

BUDGET_S = 60.0
"""Longest time of all runs; if it would take longer, limbs are occluded instead of joints, then nothing is."""

LIMBS = ("head", "spine", "left arm", "right arm", "left leg", "right leg")
_OF_LIMB = {"shoulder": "arm", "elbow": "arm", "wrist": "arm", "hand": "arm", "thumb": "arm",
            "hip": "leg", "knee": "leg", "ankle": "leg", "foot": "leg"}  # fmt: skip
BATCH = 32
LEAST = 1e-6
"""Smallest probability whose logarithm is taken; smaller ones count as this one."""


@dataclass(frozen=True)
class Importance:
    """Importance of joints, or of limbs, over time.

    Attributes:
        names: Of the joints or limbs.
        members: The joints of each, as indices.
        values: [names, segments] decrease of ln p of the label, p as published, if they are not seen in that part.
        whole: [names] the same if they are not seen at all.
    """

    names: tuple[str, ...]
    members: tuple[tuple[int, ...], ...]
    values: np.ndarray
    whole: np.ndarray

    def by_joint(self, joints: int) -> np.ndarray:
        """Return the values by joint [joints, segments]; each joint has its limb's."""
        spread = np.zeros((joints, self.values.shape[1]))
        for members, row in zip(self.members, self.values, strict=True):
            spread[list(members)] = row
        return spread


def importance(session: Session, clip: Clip, label: int, budget_s: float = BUDGET_S) -> Importance | None:
    """Return the importance of the joints of body 0 for a label; None if it would take longer than `budget_s`.

    A hidden joint is missing (NaN), as live behind an obstacle.

    Args:
        session: The model.
        clip: One window, as for `Session.predict`.
        label: Index of the class.
        budget_s: Longest time of all runs.
    """
    began = time.monotonic()
    before = _log_probability(session, [clip], label)[0]
    one_s = time.monotonic() - began
    layout = layouts.get(body_layout(session.package))
    single = tuple((name, (v,)) for v, name in enumerate(layout.joints))
    limbs = tuple(_limbs(layout))
    for groups, segments in ((single, SEGMENTS), (limbs, SEGMENTS), (limbs, SEGMENTS // 2)):
        if one_s * len(groups) * (segments + 1) <= budget_s and groups:
            break
    else:
        return None
    frames = clip["bodies"].shape[1]
    bounds = np.linspace(0, frames, segments + 1).round().astype(int)
    spans = [slice(None), *(slice(a, b) for a, b in itertools.pairwise(bounds))]
    hidden = [_without(clip, members, span) for _, members in groups for span in spans]
    after = np.concatenate(
        [_log_probability(session, hidden[i : i + BATCH], label) for i in range(0, len(hidden), BATCH)]
    )
    drops = (before - after + 0.0).reshape(len(groups), len(spans))
    names, members = zip(*groups, strict=True)
    return Importance(names, members, drops[:, 1:], drops[:, 0])


def _without(clip: Clip, joints: tuple[int, ...], span: slice) -> dict[str, np.ndarray]:
    hidden = dict(clip)
    for key in ("bodies", "pixels"):
        if key in clip:
            values = np.array(clip[key], copy=True)
            values[0, span, list(joints)] = np.nan
            hidden[key] = values
    return hidden


def _log_probability(session: Session, clips: Sequence[Clip], label: int) -> np.ndarray:
    found = session.probabilities(clips)[:, label].astype(np.float64)
    return np.log(np.maximum(found, LEAST))


def _limbs(layout: layouts.Layout) -> list[tuple[str, tuple[int, ...]]]:
    """Return the limbs of a body and their joints; none for a hand."""
    if layout.name in layouts.HANDS:
        return []
    members: dict[str, list[int]] = {name: [] for name in LIMBS}
    for v, joint in enumerate(layout.joints):
        name, _, side = joint.rpartition("_")
        limb = _OF_LIMB.get((name or joint).split("_")[0])
        found = f"{side} {limb}" if limb and side in ("left", "right") else "spine" if "spine" in joint else "head"
        members[found].append(v)
    return [(name, tuple(joints)) for name, joints in members.items() if joints]
