"""Waits until nodes of other processes are active."""

import time
from collections.abc import Iterable
from typing import Any

from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState
from rclpy.node import Node

_STEP_S = 0.05
_ANSWER_S = 1.0


def wait_until_active(asking: Node, names: Iterable[str], timeout_s: float) -> str | None:
    """Asks nodes for their lifecycle states until all are active.

    Who has answered has been discovered, too: DDS may take seconds for that.

    Args:
        asking: A node that is spun in another thread.
        names: Of the lifecycle nodes, resolved as `asking` resolves names.
        timeout_s: For all of them together.

    Returns:
        The first that was not active in time; None where all are.
    """
    deadline = time.monotonic() + timeout_s
    for name in names:
        client = asking.create_client(GetState, f"{name}/get_state")
        try:
            while not _is_active(client):
                if time.monotonic() > deadline:
                    return name
                time.sleep(_STEP_S)
        finally:
            asking.destroy_client(client)
    return None


def _is_active(client: Any) -> bool:
    if not client.service_is_ready():
        return False
    answer = client.call_async(GetState.Request())
    deadline = time.monotonic() + _ANSWER_S
    while not answer.done():
        if time.monotonic() > deadline:
            client.remove_pending_request(answer)
            return False
        time.sleep(0.005)
    return bool(answer.result().current_state.id == State.PRIMARY_STATE_ACTIVE)
