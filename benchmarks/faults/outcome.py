"""What a campaign measured, against the line to reach."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from actrec.utils.errors import ConfigError
from benchmarks.faults.live_graph import Label, percentile


@dataclass
class Outcome:
    """Measurements of one campaign on one node, topic or reader.

    Attributes:
        campaign, subject: Its name, and the node, topic, reader or fault.
        backs_s: Seconds until labels of new frames came again, one for each time that they did.
        lost: Times that they did not come; None if no label was waited for.
        stale: Answers of the network about frames older than `live_graph.STALE_S`; None if no labels were checked.
        oldest_s: Age of the oldest answer when it was published, s; NaN without answers.
        growth_mb: Growth of the memory, 10^6 bytes; None if it was not measured.
        peak_mb: Most memory that one file took while it was read, likewise.
        figures: Further figures by name.
        faults: What was missed, in words; empty if the line was reached.
        note: How it was measured.
    """

    campaign: str
    subject: str
    times: int = 0
    backs_s: list[float] = field(default_factory=list)
    lost: int | None = None
    stale: int | None = None
    oldest_s: float = math.nan
    growth_mb: float | None = None
    peak_mb: float | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    note: str = ""

    def add(self, back_s: float | None) -> None:
        """Add one time; None if labels did not come back."""
        self.times += 1
        self.lost = (self.lost or 0) + (back_s is None)
        if back_s is not None:
            self.backs_s.append(back_s)

    def add_labels(self, labels: Sequence[Label]) -> None:
        """Count stale labels, and keep the age of the oldest label."""
        self.stale = (self.stale or 0) + sum(label.is_stale for label in labels)
        ages = [label.age_s for label in labels if label.is_of_network]
        self.oldest_s = max([age for age in [*ages, self.oldest_s] if not math.isnan(age)], default=math.nan)

    def check(self, max_s: float = math.inf, p95_s: float = math.inf, growth_mb: float = math.inf) -> None:
        """Compare the measurements with the line to reach."""
        self.require(not self.lost, f"{self.lost} of {self.times} never back")
        slowest, p95 = max(self.backs_s, default=0.0), percentile(self.backs_s or [0.0], 0.95)
        self.require(slowest < max_s, f"back after {slowest:.1f} s")
        self.require(p95 < p95_s, f"p95 {p95:.1f} s")
        self.require(not self.stale, f"{self.stale} stale labels")
        self.require((self.growth_mb or 0.0) <= growth_mb, f"memory grew by {self.growth_mb or 0.0:.0f} MB")

    def require(self, holds: bool, otherwise: str) -> None:
        """Add a fault unless a condition holds."""
        if not holds:
            self.faults.append(otherwise)

    def measurements(self) -> list[tuple[str, float | int, str, str]]:
        """Return (name, value, unit, note) of each measurement, for the table of results."""
        note = "; ".join(filter(None, (f"{self.times} times", self.note, *(self.faults or ["reached"]))))
        found: list[tuple[str, Any, str, str]] = []
        for name, share in (("p50", 0.5), ("p95", 0.95), ("maximum", 1.0)) if self.backs_s else ():
            found.append((f"labels back, {name}", round(percentile(self.backs_s, share), 2), "s", note))
        if self.lost is not None:
            found.append(("labels lost", self.lost, f"of {self.lost + len(self.backs_s)}", note))
        if self.stale is not None:
            found.append(("stale labels", self.stale, "", note))
        if not math.isnan(self.oldest_s):
            found.append(("age of the oldest label", round(self.oldest_s, 2), "s", note))
        if self.growth_mb is not None:
            found.append(("growth of the memory", round(self.growth_mb, 1), "MB", note))
        if self.peak_mb is not None:
            found.append(("peak of the memory", round(self.peak_mb, 1), "MB", note))
        found += [(name, value, "", note) for name, value in self.figures.items() if isinstance(value, int | float)]
        return found

    def row(self) -> dict[str, Any]:
        """Return a line of the table."""
        figures = [f"{name} {value}" for name, value in self.figures.items()]
        backs = [percentile(self.backs_s, share) for share in (0.5, 0.95, 1.0)]
        return {
            "campaign": self.campaign,
            "subject": self.subject,
            "times": self.times,
            **{f"back {name}, s": _rounded(value) for name, value in zip(("p50", "p95", "max"), backs, strict=True)},
            "lost": _rounded(self.lost),
            "stale labels": _rounded(self.stale),
            "oldest label, s": _rounded(self.oldest_s),
            "growth, MB": _rounded(self.growth_mb),
            "peak, MB": _rounded(self.peak_mb),
            "further": ", ".join(filter(None, (self.note, *figures))),
            "result": "; ".join(self.faults) or "reached",
        }


def chosen(only: Sequence[str], known: Iterable[str]) -> list[str]:
    """Return the known names that are in `only`, all if it is empty; raise ConfigError if there are none."""
    names = list(known)
    found = [name for name in names if name in only] if only else names
    if not found:
        raise ConfigError(f"--only names none of: {', '.join(names)}")
    return found


def _rounded(value: float | None) -> float | str:
    return "" if value is None or math.isnan(value) else round(value, 2)
