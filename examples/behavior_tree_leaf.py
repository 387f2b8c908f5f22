"""A leaf for py_trees that waits for an action, in a tree: wait for a wave, then greet.

Usage: pip install py_trees && python examples/behavior_tree_leaf.py
"""

import math
import sys
import time
from collections.abc import Sequence
from typing import Any

import py_trees
import rclpy
from actrec_msgs.action import WaitForAction
from py_trees.common import Status
from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

TICK_S = 0.1
LATE_S = 5.0  # a recognizer that has ended never answers


class WaitForActionLeaf(py_trees.behaviour.Behaviour):
    """Succeeds when a person begins one of the actions; `setup` takes the node as py_trees_ros passes it.

    Its event is in `event` afterwards. When the tree interrupts the leaf, the goal is canceled.
    """

    def __init__(self, name: str, labels: Sequence[str], confidence: float = 0.5, timeout_s: int = 0):
        super().__init__(name)
        self.goal = WaitForAction.Goal(labels=list(labels), min_confidence=confidence)
        self.goal.timeout.sec = timeout_s
        self.event: Any = None
        self.sent: Any = None
        self.handle: Any = None
        self.answer: Any = None
        self.end = math.inf

    def setup(self, **kwargs: Any) -> None:
        """Connect to the recognizer."""
        self.client = ActionClient(kwargs["node"], WaitForAction, "recognizer_node/wait_for_action")
        if not self.client.wait_for_server(30.0):
            raise RuntimeError("no recognizer_node/wait_for_action: start the graph (actrec run)")

    def initialise(self) -> None:
        """Send the goal."""
        self.event = self.handle = self.answer = None
        self.end = time.monotonic() + (self.goal.timeout.sec + LATE_S if self.goal.timeout.sec else math.inf)
        self.sent = self.client.send_goal_async(self.goal)

    def update(self) -> Status:
        """Return RUNNING until the result is there; never block."""
        if self.handle is None and self.sent.done():
            self.handle = self.sent.result()
            self.answer = self.handle.get_result_async()
        if self.answer is None or not self.answer.done():
            if time.monotonic() < self.end and self.client.server_is_ready():
                return Status.RUNNING
            self.feedback_message = "the recognizer does not answer"
            return Status.FAILURE
        result = self.answer.result().result
        self.feedback_message = result.error_msg
        if result.error_code != WaitForAction.Result.NONE:
            return Status.FAILURE
        self.event = result.event
        return Status.SUCCESS

    def terminate(self, new_status: Status) -> None:
        """Cancel the goal if the tree goes on without it."""
        if new_status == Status.INVALID and self.status == Status.RUNNING:
            self.sent.add_done_callback(lambda sent: sent.result().cancel_goal_async())  # at once if it is done


class Greet(py_trees.behaviour.Behaviour):
    """Greets the person of the leaf before it; a robot would speak or wave back."""

    def __init__(self, node: Node, wave: WaitForActionLeaf):
        super().__init__("greet")
        self.node, self.wave = node, wave

    def update(self) -> Status:
        """Log the greeting."""
        self.node.get_logger().info(f"hello, {self.wave.event.body_id}, {self.wave.event.position.z:.1f} m away!")
        return Status.SUCCESS


def main() -> int:
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)  # Ctrl-C must still cancel the goal
    node = Node("behavior_tree")
    wave = WaitForActionLeaf("wait for a wave", ["wave"], timeout_s=60)
    root = py_trees.composites.Sequence("greet whoever waves", memory=True, children=[wave, Greet(node, wave)])
    tree = py_trees.trees.BehaviourTree(root)
    try:
        tree.setup(node=node)
        while root.status not in (Status.SUCCESS, Status.FAILURE):
            tree.tick()
            rclpy.spin_once(node, timeout_sec=TICK_S)
        node.get_logger().info("\n" + py_trees.display.unicode_tree(root, show_status=True))
        return 0 if root.status == Status.SUCCESS else 1
    except KeyboardInterrupt:
        root.stop(Status.INVALID)
        rclpy.spin_once(node, timeout_sec=TICK_S)
        return 1
    finally:
        wave.client.destroy()
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    sys.exit(main())
