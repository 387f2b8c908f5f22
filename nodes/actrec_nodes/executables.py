"""The nodes' executables. Ctrl-C while their libraries are still imported, for seconds, ends them without a word."""

import os
import signal
from types import FrameType


def node() -> int:
    """Run the node with the name of the executable."""
    _end_at_interrupt()
    from actrec_nodes.bringup import processes

    return processes.main()


def graph() -> int:
    """Run the whole graph in one process, or several."""
    _end_at_interrupt()
    from actrec_nodes.bringup import run

    return run.main()


def record() -> int:
    """Run `record_node`."""
    _end_at_interrupt()
    from actrec_nodes import record_node

    return record_node.main()


def _end_at_interrupt() -> None:
    """End this process with status 0 at SIGINT, until it handles signals itself."""

    def end(number: int, frame: FrameType | None) -> None:
        os._exit(0)

    signal.signal(signal.SIGINT, end)
