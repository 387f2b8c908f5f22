"""Options that make each network small but structurally complete, for the suite over all of them."""

from typing import Any

SMALL: dict[str, dict[str, Any]] = {
    "deepacts_graph": {"width": 8, "frames": 16},
}
