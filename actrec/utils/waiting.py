"""The wait of a command for a running graph, which ends with the cause and a remedy."""

import threading
import time
from collections.abc import Callable

from actrec.utils.errors import DeviceError

SAY_S = 5.0
WAIT_S = 30.0

_STEP_S = 0.05


class Waiting:
    """Waits for the first message of a running graph, with one message to the user and an end.

    Args:
        stopped: Ends the wait without an error.
        say: Called once, after `SAY_S`, with the line to show.
        limit_s: Time after which the wait is an error; 0 for no limit.
    """

    def __init__(self, stopped: threading.Event, say: Callable[[str], None], limit_s: float = WAIT_S):
        self._stopped, self._say, self._limit_s = stopped, say, limit_s

    def until(self, came: Callable[[], bool], what: str, why: Callable[[], str], remedy: str) -> bool:
        """Wait until `came()`; return False if the user stopped the wait.

        Args:
            what: The awaited messages, such as "skeletons on /skeletons".
            why: Returns why nothing has come yet, such as that the topic has no publisher.
            remedy: What the user can do, for the error.

        Raises:
            DeviceError: Nothing came within the limit.
        """
        began, said = time.monotonic(), False
        while not came():
            waited_s = time.monotonic() - began
            if 0 < self._limit_s <= waited_s:
                raise DeviceError(f"no {what} within {self._limit_s:g} s (--wait): {why()}; {remedy}")
            if waited_s >= SAY_S and not said:
                said = True
                end = f"for {self._limit_s:g} s at most" if self._limit_s else "until Ctrl-C"
                self._say(f"waiting for {what} ({why()}), {end}")
            if self._stopped.wait(_STEP_S):
                return False
        return True
