"""The action `~/wait_for_action`: clients wait for an action of a person, without a filter of their own."""

import dataclasses
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from actrec_msgs.action import WaitForAction
from actrec_msgs.msg import ActionEvent as ActionEventMsg
from actrec_msgs.msg import ActionLabel
from rclpy.action import ActionServer, CancelResponse
from rclpy.duration import Duration
from rclpy.task import Future

from actrec.recognition import ActionEvent
from actrec.recognition.events import BEGAN
from actrec.recognition.predictions import hand_owner
from actrec_nodes.common.diagnostics import shorten
from actrec_nodes.common.lifecycle import ActrecNode

ROUNDS, ROUND_S = 3, 0.5
"""Tasks of the executor until a result is sent: the goal ends, rclpy takes its result, and sends it. Time for each."""

Result, Feedback = WaitForAction.Result, WaitForAction.Feedback


@dataclass
class _Goal:
    """A goal that waits."""

    handle: Any  # rclpy's
    words: str  # the goal in words
    newest_id: int  # newest event when it was accepted
    done: Future  # its result
    timer: Any = None


class WaitForActionServer:
    """Serves `~/wait_for_action` to any number of clients; no call blocks.

    Only the thread of the node's executor finishes goals. Other threads give it tasks.

    Args:
        node: Owns the server.
    """

    def __init__(self, node: ActrecNode[Any]):
        self._node = node
        self._lock = threading.Lock()
        self._model, self._known = "", frozenset[str]()
        self._is_active = False
        self._newest_id = 0
        self._goals: dict[bytes, _Goal] = {}
        self._labels: dict[str, ActionLabel] = {}
        self._server: ActionServer | None = None

    def start(self, model: str, labels: Collection[str]) -> None:
        """Accept goals for the labels of a model, whose events count from 1.

        The server appears with the first start, so that a client that waits for it finds an active node.
        """
        with self._lock:
            self._model, self._known, self._is_active, self._newest_id = model, frozenset(labels), True, 0
            self._labels.clear()
        if self._server is None:
            self._server = ActionServer(
                self._node, WaitForAction, "~/wait_for_action", self._execute, cancel_callback=self._on_cancel
            )

    def replace_model(self, model: str, labels: Collection[str]) -> None:
        """Abort the goals for labels that the new model does not know."""
        with self._lock:
            self._model, self._known = model, frozenset(labels)
            aborted = [(goal, unknown) for goal in self._goals.values() if (unknown := self._unknown(goal))]
        for goal, unknown in aborted:
            self._later(goal, Result.MODEL_REPLACED, f"the model was replaced, and {unknown}")

    def stop(self) -> None:
        """Abort all goals."""
        self._abort("was deactivated during the wait")

    def end(self) -> None:
        """Abort all goals, and wait until their clients have been answered; call it while another thread spins."""
        executor = self._node.executor
        if not self._abort("ends") or executor is None:
            return
        for _ in range(ROUNDS):
            done = threading.Event()
            executor.create_task(done.set)
            if not done.wait(ROUND_S):
                return

    def _abort(self, why: str) -> bool:
        """Abort all goals, and return whether there were any."""
        with self._lock:
            self._is_active = False
            goals = list(self._goals.values())
        for goal in goals:
            self._later(goal, Result.INACTIVE, f"{self._node.get_name()} {why}")
        return bool(goals)

    def destroy(self) -> None:
        """Remove the server from the node."""
        if self._server is not None:
            self._server.destroy()
            self._server = None

    def add_labels(self, labels: Sequence[ActionLabel], lost: Iterable[str] = ()) -> None:
        """Keep the newest label of each person without the ones `lost`; send feedback if one has changed."""
        with self._lock:
            before = {body_id: label.label for body_id, label in self._labels.items()}
            for body_id in lost:
                self._labels.pop(body_id, None)
            self._labels |= {label.body_id: label for label in labels if label.body_id}
            changed = before != {body_id: label.label for body_id, label in self._labels.items()}
            goals = list(self._goals.values()) if changed else []
        for goal in goals:
            self._task(self._send_feedback, goal)

    def add_events(
        self,
        events: Sequence[ActionEvent],
        present: Sequence[ActionEvent],
        message: Callable[[ActionEvent], ActionEventMsg],
    ) -> None:
        """Finish the goals that an event meets. Call this before the events are published.

        Args:
            events: New events, which began or ended.
            present: Events that go on, with the confidence so far.
            message: Converts an event.
        """
        with self._lock:
            self._newest_id = max([self._newest_id, *(event.event_id for event in events)])
            goals = list(self._goals.values())
        for goal in goals:
            found = [event for event in (*events, *present) if event.event_id > goal.newest_id]
            found += present if goal.handle.request.accept_present else ()
            if event := next((event for event in found if _meets(event, goal.handle.request)), None):
                # It may reach the confidence as it ends.
                self._later(goal, Result.NONE, "", message(dataclasses.replace(event, kind=BEGAN)))

    async def _execute(self, handle: Any) -> Any:
        """Wait for the result of a goal; rclpy calls this in the thread of the executor."""
        if error := self._refusal(handle.request):
            handle.abort()
            return Result(error_code=error[0], error_msg=error[1])
        request, future = handle.request, Future(executor=self._node.executor)
        goal = _Goal(handle, _words(request), self._newest_id, future)
        seconds = Duration.from_msg(request.timeout).nanoseconds / 1e9
        if seconds:
            text = f"no {goal.words}"
            goal.timer = self._node.create_timer(seconds, lambda: self._finish(goal, Result.TIMEOUT, text))
        with self._lock:
            self._goals[_key(handle)] = goal
        self._send_feedback(goal)
        if handle.is_cancel_requested:
            self._finish(goal, Result.CANCELED, "canceled")
        elif not self._is_active:  # deactivated by another thread in the meantime
            self.stop()
        return await goal.done

    def _refusal(self, request: Any) -> tuple[int, str] | None:
        """Return the error code and text of a goal that cannot be met."""
        name = self._node.get_name()
        if not self._is_active:
            full = self._node.get_fully_qualified_name()
            return Result.INACTIVE, f"{name} is not active; ros2 lifecycle set {full} activate"
        if unknown := self._unknown_labels(request):
            return Result.UNKNOWN_LABEL, unknown
        if not 0.0 <= request.min_confidence <= 1.0:
            return Result.INVALID_GOAL, f"min_confidence is {request.min_confidence:g}, expected 0 to 1"
        if Duration.from_msg(request.timeout).nanoseconds < 0:
            return Result.INVALID_GOAL, "timeout is negative, expected 0 (no limit) or more"
        return None

    def _unknown(self, goal: _Goal) -> str:
        return self._unknown_labels(goal.handle.request)

    def _unknown_labels(self, request: Any) -> str:
        """Return a line about labels that the model does not know; empty if it knows all."""
        unknown = ", ".join(f"'{shorten(label)}'" for label in request.labels if label not in self._known)
        known = ", ".join(sorted(self._known))
        return f"model {self._model} has no label {unknown}; known: {known}" if unknown else ""

    def _on_cancel(self, handle: Any) -> CancelResponse:
        goal = self._goals.get(_key(handle))
        if goal is not None:
            self._later(goal, Result.CANCELED, "canceled")  # a task: the goal's state changes after this callback
        return CancelResponse.ACCEPT

    def _later(self, goal: _Goal, code: int, text: str, event: ActionEventMsg | None = None) -> None:
        self._task(self._finish, goal, code, text, event)

    def _task(self, call: Callable[..., None], *args: Any) -> None:
        """Call in the thread of the executor, or now if the node is in none that still runs."""
        executor = self._node.executor
        if executor is not None and self._node in executor.get_nodes():
            executor.create_task(call, *args)
        else:
            call(*args)

    def _finish(self, goal: _Goal, code: int, text: str, event: ActionEventMsg | None = None) -> None:
        """Finish a goal, once."""
        with self._lock:
            if self._goals.pop(_key(goal.handle), None) is None:
                return
        if goal.timer is not None:
            self._node.destroy_timer(goal.timer)
        if code == Result.NONE:
            goal.handle.succeed()
        elif code == Result.CANCELED:
            goal.handle.canceled()
        else:
            goal.handle.abort()
        goal.done.set_result(Result(error_code=code, error_msg=text, event=event or ActionEventMsg()))

    def _send_feedback(self, goal: _Goal) -> None:
        with self._lock:
            if _key(goal.handle) not in self._goals:
                return
            labels = list(self._labels.values())
        goal.handle.publish_feedback(Feedback(waiting_for=goal.words, labels=labels))


def _key(handle: Any) -> bytes:
    return bytes(handle.goal_id.uuid)


def _meets(event: ActionEvent, request: Any) -> bool:
    return (
        (not request.labels or event.label in request.labels)
        and event.confidence >= request.min_confidence
        and request.body_id in ("", event.body_id, hand_owner(event.body_id))
    )


def _words(request: Any) -> str:
    """Describe a goal: "throw or wave by anyone, confidence 0.8 or more, within 10 s"."""
    confidence, seconds = request.min_confidence, Duration.from_msg(request.timeout).nanoseconds / 1e9
    parts = [
        f"{' or '.join(request.labels) or 'any action'} by {shorten(request.body_id) or 'anyone'}",
        f"confidence {confidence:.3g} or more" if confidence else "",
        f"within {seconds:g} s" if seconds else "",
    ]
    return ", ".join(filter(None, parts))
