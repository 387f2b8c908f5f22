"""Holds a recording back to the pace at which the graph takes it."""

import threading
from typing import Any

from actrec_msgs.msg import ActionLabel, SkeletonArray
from rclpy.lifecycle import LifecycleNode

from actrec_nodes.common import conversions, topics

_DISCOVERY_STEP_S = 0.05


class FlowControl:
    """Limits how far a source runs ahead of the answers of the graph's last node.

    The answer to an image is a skeletons message of its stamp or a later one. The answer to joints is a label, one
    every `interval_s` of the recognizer; so it is to images if no node publishes skeletons. Without either publisher
    the source runs freely. An unanswered frame (a node fell behind, or died) delays it for `patience_s` only.

    Args:
        node: Whose subscriptions to use.
        patience_s: Longest wait for one answer.
        discovery_s: Longest wait, before the first frame, for a publisher of answers.
    """

    def __init__(self, node: LifecycleNode, patience_s: float = 1.0, discovery_s: float = 1.0):
        self._node, self._patience_s, self._discovery_s = node, patience_s, discovery_s
        self._answered = threading.Condition()
        self._newest_ns: dict[str, int] = {}
        self._sent: list[int] = []
        self._closed = False
        self._subscriptions = [
            node.create_subscription(kind, topic, self._listener(topic), topics.SMALL)
            for topic, kind in ((topics.ACTION_LABEL, ActionLabel), (topics.SKELETONS, SkeletonArray))
        ]

    def close(self) -> None:
        """Unsubscribes and release waiting threads."""
        with self._answered:
            self._closed = True
            self._answered.notify_all()
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def sent(self, stamp_ns: int) -> None:
        """Note that a frame has been published."""
        self._sent.append(stamp_ns)

    def wait(self, ahead: int, joints_alone: bool) -> bool:
        """Blocks until at most `ahead` frames are unanswered; False where patience ran out.

        Args:
            ahead: Frames that may be under way.
            joints_alone: The source publishes `skeletons` itself, so that only labels are an answer.
        """
        topic = self._discover(joints_alone)
        if topic is None:
            self._sent.clear()
            return True
        with self._answered:
            done = self._answered.wait_for(lambda: self._closed or self._unanswered(topic) <= ahead, self._patience_s)
        if not done:
            self._sent.clear()  # do not wait for the same lost frames again
        return done

    def _unanswered(self, topic: str) -> int:
        newest = self._newest_ns.get(topic, -1)
        self._sent = [stamp for stamp in self._sent if stamp > newest]
        return len(self._sent)

    def _discover(self, joints_alone: bool) -> str | None:
        """Return the topic that answers; other processes take a moment to be seen."""
        topic = self._answering_topic(joints_alone)
        while topic is None and self._discovery_s > 0 and not self._closed:
            with self._answered:
                self._answered.wait(_DISCOVERY_STEP_S)
            self._discovery_s -= _DISCOVERY_STEP_S
            topic = self._answering_topic(joints_alone)
        self._discovery_s = 0.0
        return topic

    def _answering_topic(self, joints_alone: bool) -> str | None:
        candidates = [topics.ACTION_LABEL] if joints_alone else [topics.SKELETONS, topics.ACTION_LABEL]
        return next((topic for topic in candidates if topics.publishers(self._node, topic)), None)

    def _listener(self, topic: str) -> Any:
        def on_answer(message: ActionLabel | SkeletonArray) -> None:
            with self._answered:
                self._newest_ns[topic] = conversions.stamp_to_ns(message.header.stamp)
                self._answered.notify_all()

        return on_answer
