"""Comparison of labels with the actions that simulated actors perform: found or not, other labels, delay."""

import itertools
import math
import statistics
from collections import Counter, deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from actrec.types import NANOSECONDS, UNKNOWN

TOLERANCE_S = 1.0
"""A label may come this long after the end of its action."""

WAITING = "waiting"

RESTING = ("", "idle", UNKNOWN)
"""Names of no action."""

_KEPT = 10_000  # newest actions, of a run without an end
_BODIES = 1000  # bodies whose last label is kept
_LATEST_S = 60.0  # longest time from the start of an action to the labels that are compared with it


@dataclass
class _Performed:
    """One performed action, and the labels that came in its time."""

    action: str
    start_ns: int
    end_ns: int
    delay_s: float | None = None  # from its start to the first right label
    confidence: float = math.nan  # of that label
    body_id: str = ""  # of the body with that label
    others: list[str] = field(default_factory=list)


class GroundTruth:
    """Compares labels with the actions of actors at the same stamps.

    A label is right if an actor performs its action, or ended it at most `TOLERANCE_S` before; of several actors any,
    because bodies are not matched with actors. Names are compared without case and underscores.
    """

    def __init__(self) -> None:
        self._performed: deque[_Performed] = deque(maxlen=_KEPT)
        self._present: dict[str, _Performed] = {}
        self._labels: dict[str, str] = {}
        self._false: Counter[str] = Counter()
        self._waited_ns = self._newest_ns = self._labeled_ns = 0

    def add_action(self, stamp_ns: int, actor: str, action: str) -> None:
        """Add the action of an actor at a stamp; "idle" is waiting."""
        action, before, first = _name(action), self._present.get(actor), not self._present
        if before is None or before.action != action or stamp_ns < before.start_ns:
            before = self._present[actor] = _Performed(action, stamp_ns, stamp_ns)
            if action not in RESTING:
                self._performed.append(before)
        before.end_ns = stamp_ns
        if not first and all(entry.action in RESTING for entry in self._present.values()):
            self._waited_ns += max(stamp_ns - self._newest_ns, 0)
        self._newest_ns = stamp_ns

    def add_label(
        self, stamp_ns: int, body_id: str, label: str, confidence: float = math.nan
    ) -> tuple[str, bool | None]:
        """Add a body's label.

        Returns:
            The actions at its stamp, `WAITING` for none, empty if no action was added yet; and whether the label is
            right, None if it is unknown.
        """
        if not self._present:
            return "", None
        label, self._labeled_ns = _name(label), max(self._labeled_ns, stamp_ns)
        changed = self._labels.get(body_id) != label
        self._labels[body_id] = label
        if len(self._labels) > _BODIES:  # ids are never used twice
            self._labels.pop(next(iter(self._labels)))
        late_ns = stamp_ns - TOLERANCE_S * NANOSECONDS
        oldest_ns = stamp_ns - _LATEST_S * NANOSECONDS
        newest = itertools.takewhile(lambda entry: entry.start_ns >= oldest_ns, reversed(self._performed))
        long = [e for e in self._present.values() if e.start_ns < oldest_ns and e.action not in RESTING]
        near = [e for e in (*newest, *long) if e.start_ns <= stamp_ns and late_ns <= e.end_ns]  # the newest first
        now = " + ".join(sorted({entry.action for entry in near if stamp_ns <= entry.end_ns})) or WAITING
        if label == UNKNOWN:
            return now, None
        alike = [entry for entry in near if entry.action == label]
        own = next((e for e in alike if e.body_id == body_id and stamp_ns <= e.end_ns), None)
        right = own or next((entry for entry in alike if entry.delay_s is None), None) or next(iter(alike), None)
        if right is not None:
            if right.delay_s is None:
                right.delay_s, right.confidence = (stamp_ns - right.start_ns) / NANOSECONDS, confidence
                right.body_id = body_id
        elif changed and near:
            near[0].others.append(label)
        elif changed:
            self._false[label] += 1
        return now, right is not None

    def figures(self, known: Collection[str] | None = None) -> dict[str, Any]:
        """Return the figures by action and of waiting; empty if no action was added.

        An action that was not found and goes on until less than `TOLERANCE_S` before the last label is not counted.

        Args:
            known: The model's labels; None if they are not known.
        """
        if not self._present:
            return {}
        known = None if known is None else {_name(label) for label in known}
        last_ns = self._labeled_ns - TOLERANCE_S * NANOSECONDS
        actions: dict[str, dict[str, Any]] = {}
        for action in dict.fromkeys(entry.action for entry in self._performed):
            entries = [entry for entry in self._performed if entry.action == action]
            whole = [entry for entry in entries if entry.delay_s is not None or entry.end_ns <= last_ns]
            delays = [entry.delay_s for entry in whole if entry.delay_s is not None]
            confidences = [entry.confidence for entry in whole if not math.isnan(entry.confidence)]
            others = Counter(label for entry in whole for label in entry.others)
            if whole:
                actions[action] = {
                    "performed": len(whole),
                    "found": len(delays),
                    "known": known is None or action in known,
                    "other_labels": dict(others.most_common()),
                    "median_delay_s": round(statistics.median(delays), 2) if delays else None,
                    "median_confidence": round(statistics.median(confidences), 2) if confidences else None,
                }
        waited_s = round(self._waited_ns / NANOSECONDS, 1)
        return {"actions": actions, "waited_s": waited_s, "labels_while_waiting": dict(self._false.most_common())}


def _name(label: str) -> str:
    return label.replace("_", " ").strip().lower()
