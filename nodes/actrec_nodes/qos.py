"""Quality of service, stated once (REP-2003)."""

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy


def _profile(depth: int, reliability: ReliabilityPolicy, durability: DurabilityPolicy) -> QoSProfile:
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=reliability, durability=durability)


IMAGE_PUBLISHER = _profile(5, ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE)
"""Images and camera_info as published: reliable, so that a subscriber of either kind connects."""

IMAGE_SUBSCRIBER = _profile(5, ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.VOLATILE)
"""Images and camera_info as subscribed: best effort, so that any driver connects; a lost image is history."""

SMALL = _profile(50, ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE)
"""Skeletons, hands, face and labels on both sides: small, and a lost frame damages a window."""

LATCHED = _profile(1, ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL)
"""What changes rarely and a late subscriber still wants: lists, statistics."""

WINDOW_SUBSCRIBER = _profile(1000, ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE)
"""Skeletons where every one must enter a window: the queue outlasts a pause of half a minute."""
