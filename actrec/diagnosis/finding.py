"""One line of a diagnosis."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        area: "software", "models", "cameras", "accelerator" or "transport".
        name: What was checked.
        ok: Whether it is as it should be.
        value: What was found, one line.
        remedy: What to do about it where it is not ok, else "".
        required: Whether the graph cannot run while it is not ok.
    """

    area: str
    name: str
    ok: bool
    value: str
    remedy: str = ""
    required: bool = False

    @property
    def state(self) -> str:
        """Either "ok", "gap" (optional or degraded) or "fault" (the graph cannot run)."""
        if self.ok:
            return "ok"
        return "fault" if self.required else "gap"
