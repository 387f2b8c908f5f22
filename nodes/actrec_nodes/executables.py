"""The nodes' executables. Ctrl-C while their libraries are still imported, for seconds, ends them without a word."""

import contextlib
import os
import signal
from collections.abc import Iterator


def node() -> int:
    """Run the node with the name of the executable."""
    with _ending_at_interrupt():
        from actrec_nodes.bringup import processes
    return processes.main()


def graph() -> int:
    """Run the whole graph in one process, or several."""
    with _ending_at_interrupt():
        from actrec_nodes.bringup import run
    return run.main()


def record() -> int:
    """Run `record_node`."""
    with _ending_at_interrupt():
        from actrec_nodes import record_node
    return record_node.main()


@contextlib.contextmanager
def _ending_at_interrupt() -> Iterator[None]:
    """End this process with status 0 at SIGINT in this block."""
    previous = signal.signal(signal.SIGINT, lambda number, frame: os._exit(0))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
