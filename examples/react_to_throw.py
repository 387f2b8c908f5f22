"""Turn to whoever throws something, while the throw is still going on.

A behavior that reacts at any time: it subscribes to `action_events`, which has one begin and one end for each action.

Usage: python examples/react_to_throw.py    (Ctrl-C ends it)
"""

import math

import rclpy
from actrec_msgs.msg import ActionEvent
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node


class ThrowReaction(Node):
    """Logs where to turn; a robot would send the angle to its head."""

    def __init__(self) -> None:
        super().__init__("throw_reaction")
        self.create_subscription(ActionEvent, "action_events", self.on_event, 10)

    def on_event(self, event: ActionEvent) -> None:
        """React to the begin of a throw, and log its end."""
        if event.label != "throw":
            return
        if event.kind == ActionEvent.BEGAN:
            angle = math.degrees(math.atan2(event.position.x, event.position.z))  # optical frame: x right, z forward
            who = f"{event.body_id} throws ({event.confidence:.2f}), {event.position.z:.1f} m away"
            self.get_logger().info(f"{who}: turn {angle:+.0f}° to the right")
        else:
            seconds = event.end.sec - event.start.sec + (event.end.nanosec - event.start.nanosec) / 1e9
            self.get_logger().info(f"the throw has ended, it took {seconds:.1f} s")


def main() -> None:
    rclpy.init()
    node = ThrowReaction()
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
