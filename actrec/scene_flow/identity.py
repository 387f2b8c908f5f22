"""Identity of scene flow: the method, size and rate that a network's training and its use must share.

An identity maps `method` to a name in `actrec.scene_flow`, `height` to the short side of the flow image in px, and
`rate` to the pairs of images a second. Unknown ones are absent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from actrec.types import NANOSECONDS
from actrec.utils.errors import ConfigError

Identity = Mapping[str, Any]

SETTINGS = ("method", "height")
"""The parts of an identity that are fields of `actrec.scene_flow.stream.SceneFlowConfig`."""

NAMES = (*SETTINGS, "rate")

RATE_RATIO = 1.25
"""Rates within this ratio of each other are the same: a camera's rate varies with the light and the load."""

LEAST_S = 0.5
"""Shortest time of stamps from which a rate is known."""


@dataclass(frozen=True)
class Remedy:
    """How to change the flow at its source.

    Attributes:
        command: Words before all settings.
        setting: One setting, a format of its name and value.
        rate: How the rate is changed, a format of the value.
    """

    command: str
    setting: str
    rate: str


LIVE = Remedy(
    "start with --ros-args",
    "-p scene_flow_node:{}:={}",
    "use a camera of {:g} Hz and a computer that keeps up, or train on flow of this rate",
)
PREPARED = Remedy(
    "actrec prepare the dataset with", "--set flow.{}={}", "use recordings of {:g} Hz, or a model that was trained so"
)
"""Remedies for the flow of a running node, and for the flow of clips."""


def text(made: Identity) -> str:
    """Return an identity for the user: "pd_flow, 240 px, 30 Hz"."""
    units = {"height": " px", "rate": " Hz"}
    return ", ".join(f"{_text(made[name])}{units.get(name, '')}" for name in NAMES if name in made)


def check(required: Identity) -> None:
    """Raise ConfigError if a name is not part of an identity."""
    if unknown := [name for name in required if name not in NAMES]:
        raise ConfigError(f"scene_flow has '{unknown[0]}'; known: {', '.join(NAMES)}")


def rate(stamps_ns: Sequence[int] | np.ndarray) -> float:
    """Return the rate in Hz of increasing stamps [T], ns, by their median interval, which lost images do not change.

    0 for fewer than three, or less than `LEAST_S`.
    """
    intervals = np.diff(np.asarray(stamps_ns, np.int64))
    is_known = len(intervals) > 1 and intervals.sum() >= LEAST_S * NANOSECONDS
    return round(NANOSECONDS / float(np.median(intervals)), 1) if is_known else 0.0


def differing(trained: Identity, made: Identity) -> dict[str, Any]:
    """Return the parts of `trained` that differ in `made`; none that either does not know."""
    both = [name for name in NAMES if name in trained and name in made]
    return {name: trained[name] for name in both if not _is_same(name, trained[name], made[name])}


def _is_same(name: str, value: Any, other: Any) -> bool:
    if name == "rate":
        return bool(max(value, other) <= RATE_RATIO * min(value, other))
    return bool(value == other)


def describe(trained: Identity, made: Identity, remedy: Remedy) -> str:
    """Return how the flow `made` differs from a training's, with both values and the remedy; empty if it does not."""
    other = differing(trained, made)
    if not other:
        return ""
    words = " and ".join(f"{name} {_text(made[name])}, trained with {_text(value)}" for name, value in other.items())
    remedies = [remedy.rate.format(other["rate"])] if "rate" in other else []
    settings = [remedy.setting.format(name, other[name]) for name in SETTINGS if name in other]
    remedies += [" ".join([remedy.command, *settings])] if settings else []
    return f"scene flow has {words}; {'; '.join(remedies)}"


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
