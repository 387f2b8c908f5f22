"""Subscriptions that follow the quality of service (QoS) that publishers offer, and causes of silent topics."""

import math
import posixpath
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription as RosSubscription

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ModuleNotFoundError:  # its name in Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks

NO_PUBLISHER = "it has no publisher"
SENDS_NOTHING = "publishes it but sends nothing"

TIMED = hasattr(RosSubscription, "CallbackType")  # else, in Humble, callbacks get no times of a message

FOLLOW_S = 0.5  # interval at which the QoS of publishers and subscription is compared


class Subscription:
    """A subscription to a topic whose publishers may be reliable or best-effort, latched or volatile, and may change.

    A reliable profile becomes best-effort while a publisher offers no more. A latched (transient-local) profile gets
    all live messages, and those sent before the start by publishers that latch them; it may get a message twice. A
    best-effort and volatile profile matches any publisher.

    Args:
        node: Owns the subscription.
        kind, topic, callback: As for `Node.create_subscription`.
        profile: The QoS wanted.
        warn: Called with a line if a publisher offers less than wanted.
        raw: Pass the serialized message.
        exclusive: One subscription at a time, so that no message is received twice: latched if all publishers are.
        lost: Called with the middleware's event of lost messages.
        timed: Call `callback` with the message and the time of its publication in ns, by the clock of the publisher's
            machine; 0 if it is unknown.
        numbered: Call `callback` with the message and its number among the messages of its publisher; 0 if it is
            unknown, as in Humble and with middleware that does not count them.
    """

    def __init__(
        self,
        node: Node,
        kind: type,
        topic: str,
        callback: Callable[..., None],
        profile: QoSProfile,
        warn: Callable[[str], None] | None = None,
        raw: bool = False,
        exclusive: bool = False,
        lost: Callable[[Any], None] | None = None,
        timed: bool = False,
        numbered: bool = False,
    ):
        self.topic_name = node.resolve_topic_name(topic)
        self._node, self._kind, self._profile = node, kind, profile
        wanted = "source_timestamp" if timed else "publication_sequence_number" if numbered else ""
        self._callback = _informed(callback, wanted) if wanted else callback
        self._warn = warn or (lambda line: node.get_logger().warning(line))
        self._raw, self._exclusive, self._lost = raw, exclusive, lost
        self._lock = threading.RLock()
        self._held: dict[tuple[ReliabilityPolicy, DurabilityPolicy], Any] = {}
        self._weaker: set[str] = set()
        self._closed = False
        self._timer: Any = None
        self.follow()
        if profile.reliability == ReliabilityPolicy.RELIABLE or profile.durability == DurabilityPolicy.TRANSIENT_LOCAL:
            # A steady clock, because a simulated clock may stand still.
            self._timer = node.create_timer(FOLLOW_S, self.follow, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def close(self) -> None:
        """Unsubscribe."""
        with self._lock:
            self._closed = True
            if self._timer is not None:
                self._node.destroy_timer(self._timer)
            while self._held:
                self._node.destroy_subscription(self._held.popitem()[1])

    def follow(self, _: Any = None) -> None:
        """Subscribe again if the publishers' QoS asks for it."""
        with self._lock:
            if self._closed:
                return
            publishers = [
                info
                for info in self._node.get_publishers_info_by_topic(self.topic_name)
                if info.topic_type == type_name(self._kind)
            ]
            offered = [info.qos_profile for info in publishers]
            wanted = requested(self._profile, offered, self._exclusive)
            for policies in [policies for policies in self._held if policies not in wanted and self._exclusive]:
                self._node.destroy_subscription(self._held.pop(policies))
            for policies in wanted:
                if policies not in self._held:
                    self._held[policies] = self._subscribe(*policies)
            # The new one is there before the old one ends, so that no message is lost.
            for policies in [policies for policies in self._held if policies not in wanted]:
                self._node.destroy_subscription(self._held.pop(policies))
            self._report(publishers)

    def _subscribe(self, reliability: ReliabilityPolicy, durability: DurabilityPolicy) -> Any:
        profile = QoSProfile(
            history=self._profile.history, depth=self._profile.depth, reliability=reliability, durability=durability
        )
        events = SubscriptionEventCallbacks(incompatible_qos=self.follow, message_lost=self._lost)
        return self._node.create_subscription(
            self._kind, self.topic_name, self._callback, profile, raw=self._raw, event_callbacks=events
        )

    def _report(self, publishers: Sequence[Any]) -> None:
        if self._profile.reliability != ReliabilityPolicy.RELIABLE:
            return
        weaker = {
            _owner(info)
            for info in filter(_named, publishers)
            if info.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
        }
        for name in sorted(weaker - self._weaker):
            self._warn(
                f"{name} publishes {self.topic_name} best effort, and this node wants it reliable: subscribed best "
                "effort, so lost messages are not sent again; let it publish reliable"
            )
        self._weaker = weaker


def _informed(callback: Callable[[Any, int], None], key: str) -> Callable[..., None]:
    """Return a callback of rclpy that passes the message and a number that the middleware has of it, 0 for none."""

    def receive(message: Any, info: Any) -> None:
        callback(message, int(info.get(key) or 0))

    def receive_alone(message: Any) -> None:
        callback(message, 0)

    return receive if TIMED else receive_alone


class Liveliness:
    """Whether the publishers of a topic live, by their liveliness (QoS), which the middleware asserts for a process.

    A publisher that offers a lease at most as long as `lease_s` is lost when it is destroyed, or when its process has
    been killed or stopped for that time. Publishers without a lease, such as a vendor's, are not followed. It takes
    a second subscription, because one that requests a lease gets no messages from publishers without.

    Args:
        node: Owns the subscription.
        kind, topic: The topic.
        lease_s: Longest lease that is requested.
        changed: Called in the executor's thread when a publisher is lost or found.

    Attributes:
        alive: Number of living publishers with a lease; None before the first event about one.
    """

    def __init__(self, node: Node, kind: type, topic: str, lease_s: float, changed: Callable[[], None]):
        self.topic = topic
        self._node, self._kind, self._lease_s, self._changed = node, kind, lease_s, changed
        self._name = node.resolve_topic_name(topic)
        self._subscription: Any = None
        self.alive: int | None = None
        self.follow()

    def follow(self) -> None:
        """Subscribe if a publisher offers a lease."""
        if self._subscription is not None:
            return
        lease = Duration(seconds=self._lease_s)
        offered = [info.qos_profile for info in self._node.get_publishers_info_by_topic(self._name)]
        if not any(0 < offer.liveliness_lease_duration.nanoseconds <= lease.nanoseconds for offer in offered):
            return
        profile = QoSProfile(
            history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.BEST_EFFORT,
            liveliness_lease_duration=lease,
        )  # fmt: skip
        events = SubscriptionEventCallbacks(liveliness=self._on_liveliness, incompatible_qos=lambda _: None)
        self._subscription = self._node.create_subscription(
            self._kind, self.topic, lambda _: None, profile, raw=True, event_callbacks=events
        )

    def close(self) -> None:
        """Unsubscribe."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

    def _on_liveliness(self, event: Any) -> None:
        self.alive = event.alive_count
        self._changed()


def requested(
    profile: QoSProfile, offered: Sequence[QoSProfile], exclusive: bool = False
) -> list[tuple[ReliabilityPolicy, DurabilityPolicy]]:
    """Return the policies of the subscriptions that a profile needs with these publishers; see `Subscription`."""
    reliable = profile.reliability == ReliabilityPolicy.RELIABLE and all(
        offer.reliability == ReliabilityPolicy.RELIABLE for offer in offered
    )
    reliability = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
    # Only a reliable publisher and subscription pass on earlier messages.
    latched = [
        offer.durability == DurabilityPolicy.TRANSIENT_LOCAL and offer.reliability == ReliabilityPolicy.RELIABLE
        for offer in offered
    ]
    earlier = profile.durability == DurabilityPolicy.TRANSIENT_LOCAL and any(latched)
    volatile = (reliability, DurabilityPolicy.VOLATILE)
    with_earlier = (ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL)
    if exclusive:
        return [with_earlier if earlier and all(latched) else volatile]
    return [volatile, with_earlier] if earlier else [volatile]


def publisher_events(
    node: Node, topic: str, offered: QoSProfile, warn: Callable[[str], None], matched: Callable[[Any], None]
) -> PublisherEventCallbacks:
    """Return event callbacks of a publisher that name a subscriber whose QoS asks for more, both policies, a remedy.

    `matched` is called when a subscriber comes or goes, but not in Humble.
    """
    name = node.resolve_topic_name(topic)
    timers: list[Any] = []

    def report(_: Any, repeated: bool = False) -> None:
        subscriptions = node.get_subscriptions_info_by_topic(name)
        if not repeated and not all(map(_named, subscriptions)):
            steady = Clock(clock_type=ClockType.STEADY_TIME)
            timers.append(node.create_timer(FOLLOW_S, repeat, clock=steady))
            return
        for info in subscriptions:
            if asked := _more(info.qos_profile, offered):
                warn(
                    f"{_owner(info)} gets nothing from {name}: it asks for {asked[0]}, and this node publishes "
                    f"{asked[1]}; let it subscribe {asked[1]}"
                )

    def repeat() -> None:
        while timers:
            node.destroy_timer(timers.pop())
        report(None, repeated=True)

    events = PublisherEventCallbacks(incompatible_qos=report)
    events.matched = matched  # no argument in Humble
    return events


def _more(asked: QoSProfile, offered: QoSProfile) -> tuple[str, str] | None:
    """Return the first policy that a subscription asks for and a publisher does not offer, and the one offered."""
    if asked.durability == DurabilityPolicy.TRANSIENT_LOCAL != offered.durability:
        return "transient local", "volatile"
    if asked.reliability == ReliabilityPolicy.RELIABLE != offered.reliability:
        return "reliable", "best effort"
    return None


def why_silent(node: Node, topic: str, kind: type, ours: Sequence[str] | None = None) -> str:
    """Explain why no message arrives on a topic (its resolved name): its publishers, and other topics of its type.

    `ours` are topics of the graph that are no replacement; without it, no other topics are listed.
    """
    publishers, expected = node.get_publishers_info_by_topic(topic), type_name(kind)
    foreign = [info for info in publishers if info.topic_type != expected]
    if publishers and len(foreign) == len(publishers):
        return f"{_owner(foreign[0])} publishes {foreign[0].topic_type} on it, expected {expected}: remap another topic"
    if publishers:
        names = ", ".join(sorted({_owner(info) for info in publishers}))
        # A reliable publisher that latches sends its newest message to later subscribers as well.
        latched = DurabilityPolicy.TRANSIENT_LOCAL, ReliabilityPolicy.RELIABLE
        lost = all((info.qos_profile.durability, info.qos_profile.reliability) != latched for info in publishers)
        once = kind.__name__ == "CameraInfo" and lost
        hint = " (sent only once, it must be latched: reliable, with durability transient local)" if once else ""
        return f"{names} {SENDS_NOTHING}{hint}"
    if ours is None:
        return NO_PUBLISHER
    # A camera's images are called image, image_raw, image_rect, …
    word = "camera_info" if kind.__name__ == "CameraInfo" else "image"
    excluded = {topic, *map(node.resolve_topic_name, ours)}
    found = [name for name, types in node.get_topic_names_and_types() if expected in types and name not in excluded]
    others = sorted(name for name in found if word in posixpath.basename(name) and node.count_publishers(name))
    what = "images are" if word == "image" else "camera_info is"
    return f"{NO_PUBLISHER}; {what} on {', '.join(others)}: remap {topic}" if others else NO_PUBLISHER


class Publishers:
    """Finds second publishers of topics, but not in a process that was killed, or its successor.

    DDS keeps the publishers of a killed process until the lease of its participant ends. So two publishers of one name
    count as two only if both are there for longer.

    Args:
        node: Asks for the publishers.
        clock: Monotonic seconds.
    """

    LEASE_S = 25.0
    """20 s by default, and a reserve."""

    def __init__(self, node: Node, clock: Callable[[], float] = time.monotonic):
        self._node, self._clock = node, clock
        self._since: dict[str, dict[tuple[str, bytes], float]] = {}

    def rivals(self, name: str) -> str:
        """Warn about a second graph: publishers beside the node itself, or two of one name; else empty."""
        topic, own = self._node.resolve_topic_name(name), self._node.get_fully_qualified_name()
        owners = self._owners(topic)
        if len(owners) < 2 or (own not in owners and len(set(owners)) == len(owners)):
            return ""
        return (
            f"{topic} has {len(owners)} publishers, {' and '.join(owners)}: if a second graph runs in this ROS domain, "
            "stop it, or start it with another ROS_DOMAIN_ID or namespace (--ros-args -r __ns:=/second)"
        )

    def several(self, name: str) -> str:
        """Warn about more than one publisher of a topic of which one is expected; empty if there is none or one."""
        topic = self._node.resolve_topic_name(name)
        owners = self._owners(topic)
        if len(owners) < 2:
            return ""
        listed = " and ".join(owners)
        return f"{topic} has {len(owners)} publishers, {listed}, but one is expected: stop or remap the other"

    def _owners(self, topic: str) -> list[str]:
        """Return the sorted names of the nodes that publish a topic, each once for each of its publishers."""
        now, before = self._clock(), self._since.get(topic, {})
        publishers = self._node.get_publishers_info_by_topic(topic)
        found = [(_owner(info), bytes(info.endpoint_gid)) for info in publishers]
        self._since[topic] = since = {each: before.get(each, now) for each in found}
        lasting = [owner for (owner, _), began in since.items() if now - began >= self.LEASE_S]
        # A publisher that has no name for so long is of a program without ROS.
        return sorted(lasting + list({_owner(info) for info in filter(_named, publishers)} - set(lasting)))


@dataclass
class Kept:
    """Which of two publishers is kept on all topics that they both publish, until a time in monotonic seconds."""

    longer: bool = True  # the one that has published more messages
    until: float = -math.inf


@dataclass
class _Sender:
    """A publisher, by the number of its last message and when that came."""

    number: int
    at: float


class Numbers:
    """Selects the messages of one publisher of a topic by their numbers, which DDS counts for each publisher.

    The numbers of one publisher only grow. If they fall again and again, there are two. Their messages are
    distinguished if their numbers are far from each other; if not, all are accepted, because lost messages could
    confuse them. Of two publishers that begin at once, color of one and depth of the other might be kept: topics share
    `kept`.

    Args:
        kept: Shared by the topics.
        clock: Monotonic seconds.
    """

    GONE_S = 2.0  # a publisher without a message for this long has gone
    FALLS = 3  # of the numbers within that time; a publisher that starts again gives one
    APART = 30  # least difference of two publishers' numbers
    MOST = 8  # publishers

    def __init__(self, kept: Kept, clock: Callable[[], float]):
        self._kept, self._clock = kept, clock
        self._senders: list[_Sender] = []  # the earliest first
        self._falls: deque[float] = deque(maxlen=self.FALLS)
        self._last = 0

    def accepts(self, number: int) -> bool:
        """Return whether a message is of the publisher that is kept, or of the only one."""
        now = self._clock()
        self._senders = [sender for sender in self._senders[-self.MOST :] if now - sender.at <= self.GONE_S]
        own = min(self._senders, key=lambda sender: abs(number - sender.number), default=None)
        if own is None or abs(number - own.number) > self.APART // 2:
            own = _Sender(number, now)
            self._senders.append(own)
        own.number, own.at = number, now
        if number < self._last:
            self._falls.append(now)
        self._last = number
        numbers = [sender.number for sender in self._senders]
        falls = len(self._falls) == self.FALLS and now - self._falls[0] <= self.GONE_S
        if not falls or max(numbers) - min(numbers) < self.APART:
            return True
        if now > self._kept.until:
            self._kept.longer = self._senders[0].number == max(numbers)
        self._kept.until = now + self.GONE_S
        return number == (max(numbers) if self._kept.longer else min(numbers))


def _named(info: Any) -> bool:
    """Return whether the node of a publisher or subscription is known: DDS may find it later than its endpoint."""
    return info.node_name != "_NODE_NAME_UNKNOWN_"


def _owner(info: Any) -> str:
    return posixpath.join(info.node_namespace, info.node_name) if _named(info) else "another node"


def type_name(kind: Any) -> str:
    """Return the name of a message's type in the graph: sensor_msgs/msg/Image."""
    package, _, name = kind.__module__.partition(".msg.")
    return f"{package}/msg/{kind.__name__}" if name else kind.__module__
