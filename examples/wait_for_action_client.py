"""Wait for an action as one step of a program: an action client of `recognizer_node/wait_for_action`.

Usage: python examples/wait_for_action_client.py LABEL [LABEL ...] [--timeout 30] [--confidence 0.5]
Exit status: 0 if someone did it, 1 if not.
"""

import argparse
import sys

import rclpy
from actrec_msgs.action import WaitForAction
from builtin_interfaces.msg import Duration
from rclpy.action import ActionClient
from rclpy.node import Node

SERVER = "recognizer_node/wait_for_action"


def wait_for(node: Node, goal: WaitForAction.Goal, margin_s: float = 5.0) -> WaitForAction.Result | None:
    """Return the result of a goal; None if the server does not answer within the goal's timeout and a margin.

    The margin also covers a recognizer whose process ends: then no result arrives.
    """
    client = ActionClient(node, WaitForAction, SERVER)
    if not client.wait_for_server(margin_s):
        return None
    sent = client.send_goal_async(goal, lambda message: node.get_logger().info(describe(message.feedback)))
    rclpy.spin_until_future_complete(node, sent, timeout_sec=margin_s)
    if not sent.done():
        return None
    answered = sent.result().get_result_async()
    limit_s = goal.timeout.sec + margin_s if goal.timeout.sec else None
    rclpy.spin_until_future_complete(node, answered, timeout_sec=limit_s)
    return answered.result().result if answered.done() else None


def describe(feedback: WaitForAction.Feedback) -> str:
    """Return a line about the goal and the people in view."""
    people = ", ".join(f"{label.body_id}: {label.label}" for label in feedback.labels) or "no person in view"
    return f"waiting for {feedback.waiting_for} ({people})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", nargs="+")
    parser.add_argument("--timeout", type=int, default=30, help="seconds; 0 for no limit")
    parser.add_argument("--confidence", type=float, default=0.5)
    options = parser.parse_args(rclpy.utilities.remove_ros_args()[1:])
    rclpy.init()
    node = Node("wait_for_action_client")
    goal = WaitForAction.Goal(labels=options.labels, min_confidence=options.confidence)
    goal.timeout = Duration(sec=options.timeout)
    try:
        result = wait_for(node, goal)
        if result is None:
            node.get_logger().error("the recognizer does not answer: start the graph (actrec run)")
            return 1
        if result.error_code != WaitForAction.Result.NONE:
            node.get_logger().error(result.error_msg)
            return 1
        event, away = result.event, f"{result.event.position.z:.1f} m away"
        node.get_logger().info(f"{event.body_id}: {event.label} ({event.confidence:.2f}), {away}")
        return 0
    except KeyboardInterrupt:
        return 1
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    sys.exit(main())
