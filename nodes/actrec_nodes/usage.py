"""What processes use of the machine."""

from typing import Any

import psutil


def usage(pid: int) -> dict[str, float | None]:
    """Memory and processor time of a process so far.

    Returns:
        rss and pss, resident and proportional set size in MB (PSS shares out what processes have in common; None where
        the system does not tell, it is Linux's), and cpu_s, seconds on all cores together. All None where it has gone.
    """
    try:
        process = psutil.Process(pid)
        memory: Any = process.memory_full_info()
        times = process.cpu_times()
    except psutil.Error:
        return {"rss": None, "pss": None, "cpu_s": None}
    pss = getattr(memory, "pss", None)
    return {
        "rss": round(memory.rss / 1e6, 1),
        "pss": round(pss / 1e6, 1) if pss else None,
        "cpu_s": round(times.user + times.system, 2),
    }
