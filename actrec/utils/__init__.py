"""Settings, errors, registries, geometry, files, threads of numpy's linear algebra, usable cores, signals."""

import os
import signal


def single_threaded_blas() -> None:
    """Limit OpenBLAS to one thread, unless the user has set a number. Call it before the first import of numpy.

    The live path multiplies a few hundred numbers. OpenBLAS starts threads even for these, and they spin afterwards. On
    two cores, they used 0.7 of a core and doubled the p95 latency.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def usable_cores() -> int:
    """Return the number of cores that this process may use, which is limited in a SLURM job."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def stop_signals() -> list[signal.Signals]:
    """Return the signals that ask a process to stop; SIGHUP, of a terminal that closes, unless nohup ignores it."""
    found = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        found.append(signal.SIGHUP)
    return found
