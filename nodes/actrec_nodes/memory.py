"""Memory of processes."""

from typing import Any

import psutil


def megabytes(pid: int) -> dict[str, float | None]:
    """Resident and proportional set size of a process in MB; PSS shares out what processes have in common.

    PSS is None where the system does not tell (it is Linux's), both where the process has gone.
    """
    try:
        info: Any = psutil.Process(pid).memory_full_info()
    except psutil.Error:
        return {"rss": None, "pss": None}
    pss = getattr(info, "pss", None)
    return {"rss": round(info.rss / 1e6, 1), "pss": round(pss / 1e6, 1) if pss else None}
