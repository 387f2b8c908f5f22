"""Keeps numpy's linear algebra to one thread, and tell how many cores there are to use."""

import os


def single_threaded_blas() -> None:
    """Call before numpy is first imported, at the top of a program; a value that the user has set stays.

    The products on the live path are of a few hundred numbers. OpenBLAS splits them all the same, and its threads then
    spin for a while: measured on two cores, that took 0.7 of one from the graph and doubled its p95 latency.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def usable_cores() -> int:
    """Those of the machine that this process may use: fewer in a SLURM job; all where the system does not tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
