"""Stop the robot while someone raises a hand: a gate before the base, and Nav2's goals are canceled.

Velocities pass from `cmd_vel_in` (remap the controller's output to it) to `cmd_vel` until a person raises a hand. Then
`navigate_to_pose` is canceled, and the robot stands still until every hand has been down for `HOLD_S`.
This is a comfort, no safety function: it depends on a camera and a network. From ROS 2 Kilted on, set Nav2's
`enable_stamped_cmd_vel` to false.

Usage: python examples/stop_on_raised_hand.py    (Ctrl-C ends it)
"""

from typing import Any

import rclpy
from action_msgs.srv import CancelGoal
from actrec_msgs.msg import ActionEvent
from geometry_msgs.msg import Twist
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import LivelinessPolicy, QoSProfile

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ModuleNotFoundError:  # ROS 2 Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

LABELS = ("raise hand", "stop")
HOLD_S = 1.0
LEASE_S = 2.0  # a recognizer that is silent for longer has ended; it promises a sign of life each second
PERIOD_S = 0.1  # of zero velocities


class StopOnRaisedHand(Node):
    """The gate."""

    def __init__(self) -> None:
        super().__init__("stop_on_raised_hand")
        self.raised: set[int] = set()  # events that go on
        self.lowered_at = 0.0
        self.is_stopped, self.newest_id = False, 0
        self.velocity = self.create_publisher(Twist, "cmd_vel", 10)
        # The cancel service of Nav2's action, so that nav2_msgs is not needed.
        self.cancel = self.create_client(CancelGoal, "navigate_to_pose/_action/cancel_goal")
        lease = QoSProfile(
            depth=10, liveliness=LivelinessPolicy.AUTOMATIC, liveliness_lease_duration=Duration(seconds=LEASE_S)
        )
        callbacks = SubscriptionEventCallbacks(liveliness=self.on_liveliness)
        self.create_subscription(ActionEvent, "action_events", self.on_event, lease, event_callbacks=callbacks)
        self.create_subscription(Twist, "cmd_vel_in", self.on_velocity, 10)
        self.create_timer(PERIOD_S, self.hold)

    def on_event(self, event: ActionEvent) -> None:
        """Stop at the begin of a raised hand, and note its end."""
        if event.kind == ActionEvent.BEGAN:
            if event.event_id <= self.newest_id:  # the recognizer was started again: the ends of its events are lost
                self.raised.clear()
                self.lowered_at = self.now()
            self.newest_id = event.event_id
        if event.label not in LABELS:
            return
        if event.kind == ActionEvent.BEGAN:
            self.raised.add(event.event_id)
            if not self.is_stopped:
                self.get_logger().info(f"{event.body_id}: {event.label} ({event.confidence:.2f}), the robot stops")
                self.is_stopped = True
                self.velocity.publish(Twist())
                if self.cancel.service_is_ready():
                    self.cancel.call_async(CancelGoal.Request())  # zeros: all goals
        elif event.event_id in self.raised:
            self.raised.remove(event.event_id)
            self.lowered_at = self.now()

    def on_velocity(self, velocity: Twist) -> None:
        """Pass on a velocity unless a hand is up."""
        if not self.is_stopped:
            self.velocity.publish(velocity)

    def on_liveliness(self, event: Any) -> None:
        """Take hands as down if the recognizer has ended, or does not answer: the ends of its events are lost."""
        if self.raised and event.alive_count_change < 0:
            self.raised.clear()
            self.lowered_at = self.now()

    def hold(self) -> None:
        """Keep the robot still, and release it when all hands have been down for long enough."""
        if self.is_stopped and not self.raised and self.now() - self.lowered_at > HOLD_S:
            self.is_stopped = False
            self.get_logger().info("all hands are down, the robot may move")
        if self.is_stopped:
            self.velocity.publish(Twist())

    def now(self) -> float:
        """Return the node's time, s."""
        return self.get_clock().now().nanoseconds / 1e9


def main() -> None:
    rclpy.init()
    node = StopOnRaisedHand()
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
