"""One node in a process of its own: `python -m actrec_nodes.bringup.process camera_node --ros-args …`."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from actrec.utils.errors import ActrecError
from actrec_nodes.bringup import graph
from actrec_nodes.bringup.processes import Host, ros, wait_until_active
from actrec_nodes.common.lifecycle import ActrecNode

READY_S = 60.0
"""How long a node waits for the nodes that it starts after."""


def spin(node_class: Callable[..., ActrecNode[Any]], args: Sequence[str] | None = None) -> int:
    """Run a node until it has nothing more to do or is interrupted.

    With the parameter `autostart` the node configures and activates itself; otherwise a lifecycle manager does.

    Args:
        node_class: Makes the node from `context`.
        args: Command line; by default the process's own.

    Returns:
        Exit status: 0 at a clean end, 1 where the node could not start.
    """
    try:
        with ros(sys.argv if args is None else args) as context, Host(context) as host:
            node = node_class(context=context)
            host.add(node)
            if node.autostart and host.start(wait=lambda: _wait(node)) is not None:
                return 1
            host.wait()
            return node.exit_status or 0
    except KeyboardInterrupt:
        return 0
    except ActrecError as error:
        print(f"actrec: {error}", file=sys.stderr)
        return 1


def _wait(node: ActrecNode[Any]) -> None:
    """Wait until the nodes of `start_after` are active; this node is configured by then."""
    missing = wait_until_active(node, node.start_after, READY_S)
    if missing:
        node.complain(f"{missing} is not active after {READY_S:g} s: starting without it", "warning")


if __name__ == "__main__":
    sys.exit(spin(graph.find(sys.argv[1]).load(), sys.argv[1:]))
