"""The node `hri_node`: people in the topics of REP-155 (ROS4HRI), for tools that read them."""

import importlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from actrec_msgs.msg import ActionEvent, SkeletonArray
from geometry_msgs.msg import Quaternion, Transform, TransformStamped, Vector3
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from actrec.recognition.predictions import hand_owner
from actrec.skeleton.layouts import CANONICAL, KINECT_V2_25, convert
from actrec.types import Body
from actrec.utils import calibration_files, gravity
from actrec.utils.config import setting
from actrec.utils.errors import ConfigError, MissingLibraryError
from actrec.utils.gravity import LEVEL
from actrec_nodes.common import conversions, topics
from actrec_nodes.common.lifecycle import ActrecNode
from actrec_nodes.common.subscriptions import Subscription

_J = KINECT_V2_25.index

KEYPOINTS = {
    "NECK": "spine_shoulder",
    **{
        f"{side.upper()}_{joint.upper()}": f"{joint}_{side}"
        for side in ("right", "left")
        for joint in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
    },
}
"""Keypoint of hri_msgs/Skeleton2D to our joint. Nose, eyes and ears are no joints; their confidence is 0."""

PRIORITY = 128  # of an intent, the default of hri_actions_msgs
ROBOT = "__myself__"  # the robot in an intent
SILENT_S = 2.0  # time without skeletons after which the list of people is empty


@dataclass(frozen=True)
class HriConfig:
    """Parameters of the node."""

    body_frames: bool = setting(
        False, "Publish the TF frame body_ID of each person: between the hips, x forward, z up."
    )
    intents: list[str] = setting(
        ["wave=__intent_engage_with__"],
        "Actions that are an intent toward the robot: LABEL=INTENT. Published if hri_actions_msgs is installed.",
    )


class HriNode(ActrecNode[HriConfig]):
    """Publishes `humans/bodies/tracked`, and `skeleton2d`, `roi` and `gesture` of each body, from skeletons and events.

    A body's topics exist while the body is in view. `intents` has a message for each event of an action in the
    parameter of this name.
    """

    def __init__(self, **node_options: Any):
        super().__init__("hri_node", HriConfig, **node_options)
        self._hri: Any = None
        self._actions: Any = None
        self._tracked: Any = None
        self._intents: Any = None
        self._tf: Any = None
        self._intent_of: dict[str, str] = {}
        self._open: list[Subscription] = []
        self._by_body: dict[str, dict[str, Any]] = {}
        self._bodies: dict[str, Body] = {}
        self._up = np.array(LEVEL)
        self._size: tuple[int, int] | None = None
        self._heard_s = 0.0

    def configure(self) -> None:
        """Import the messages of ROS4HRI and make the publishers."""
        self._hri = _messages("hri_msgs")
        if self._hri is None:
            raise MissingLibraryError(
                "hri_node needs hri_msgs: sudo apt install ros-$ROS_DISTRO-hri-msgs, or build the package of "
                "ros4hri/hri_msgs in your workspace and source it"
            )
        pairs = [entry.partition("=") for entry in self.config.intents]
        if wrong := [entry for entry, (_, sign, intent) in zip(self.config.intents, pairs, strict=True) if not intent]:
            raise ConfigError(f"intents has '{wrong[0]}', expected LABEL=INTENT, for example wave=__intent_greet__")
        self._intent_of = {label: intent for label, _, intent in pairs}
        self._tracked = self.create_output(self._hri.IdsList, topics.HUMANS_TRACKED)
        self._actions = _messages("hri_actions_msgs")
        if self._actions is not None:
            self._intents = self.create_output(self._actions.Intent, topics.INTENTS)
        elif pairs:
            self.get_logger().info(f"{topics.INTENTS} is not published: hri_actions_msgs is not installed")
        if self.config.body_frames:
            tf = _messages("tf2_msgs")
            if tf is None:
                raise MissingLibraryError(
                    "body_frames needs tf2_msgs, which comes with ROS 2: source its setup.bash, or set it to false"
                )
            self._tf = tf.TFMessage, self.create_output(tf.TFMessage, "/tf", topics.SMALL)

    def activate(self) -> None:
        """Subscribe."""
        wanted: tuple[tuple[type, str, Callable[[Any], None], Any], ...] = (
            (SkeletonArray, topics.SKELETONS, self._on_skeletons, topics.SMALL_SUBSCRIBER),
            (CameraInfo, topics.COLOR_INFO, self._on_info, topics.INFO_SUBSCRIBER),
            (ActionEvent, topics.ACTION_EVENTS, self._on_event, topics.SMALL_SUBSCRIBER),
        )
        self._open = [Subscription(self, *each, warn=self.warn) for each in wanted]
        self.start_timer(SILENT_S / 2, self._end_silent)

    def deactivate(self) -> None:
        """Unsubscribe, and publish an empty list of bodies."""
        while self._open:
            self._open.pop().close()
        self._end_all()

    def cleanup(self) -> None:
        """Forget the messages."""
        self._hri = self._actions = self._tf = self._intents = None

    def _end_silent(self) -> None:
        """End the people if no skeletons come any more, not even empty ones."""
        if self._bodies and time.monotonic() - self._heard_s > SILENT_S:
            self._end_all()

    def _end_all(self) -> None:
        self._bodies = {}
        self._follow([])
        self._tracked.publish(self._hri.IdsList())

    def _on_info(self, message: CameraInfo) -> None:
        self._size = (message.width, message.height)

    def _on_skeletons(self, message: SkeletonArray) -> None:
        began = self._heard_s = time.monotonic()
        self.statistics.count("received")
        try:
            bodies, up = conversions.message_to_bodies(message), gravity.up_from_vector(message.up)
            self._up = np.array(LEVEL) if up is None else up
            self._publish(message.header, [canonical(body) for body in bodies])
        except Exception as error:  # one bad message must not stop the node, which reports it
            self.statistics.count("failed")
            self.fail(error)
        else:
            age = self.age(conversions.stamp_to_ns(message.header.stamp))
            self.statistics.done(time.monotonic() - began, age)

    def _publish(self, head: Header, bodies: Sequence[Body]) -> None:
        self._bodies = {body.body_id: body for body in bodies}
        self._follow(list(self._bodies))
        self._tracked.publish(self._hri.IdsList(header=head, ids=list(self._bodies)))
        for body in bodies:
            outputs = self._by_body[body.body_id]
            if self._size is not None and outputs["skeleton2d"].get_subscription_count():
                outputs["skeleton2d"].publish(skeleton2d(self._hri, body, self._size, head))
            if self._size is not None and outputs["roi"].get_subscription_count():
                outputs["roi"].publish(region(self._hri, body, self._size, head))
        if self._tf is not None:
            kind, publisher = self._tf
            poses = {body.body_id: body_pose(body.positions, self._up) for body in bodies}
            found = [_transform(body_id, pose, head) for body_id, pose in poses.items() if pose is not None]
            publisher.publish(kind(transforms=found))

    def _follow(self, body_ids: Sequence[str]) -> None:
        """Make the publishers of new bodies, and destroy the ones of lost bodies."""
        for body_id in [body_id for body_id in self._by_body if body_id not in body_ids]:
            for publisher in self._by_body.pop(body_id).values():
                self.destroy_publisher(publisher)
        kinds = {
            "skeleton2d": self._hri.Skeleton2D,
            "roi": self._hri.NormalizedRegionOfInterest2D,
            "gesture": self._hri.Gesture,
        }
        for body_id in body_ids:
            if body_id not in self._by_body:
                self._by_body[body_id] = {
                    name: self.create_publisher(kind, f"{topics.HUMANS_BODIES}/{body_id}/{name}", topics.SMALL)
                    for name, kind in kinds.items()
                }

    def _on_event(self, event: ActionEvent) -> None:
        if event.kind != ActionEvent.BEGAN:
            return
        body = self._bodies.get(hand_owner(event.body_id))
        number = gesture(self._hri, event.label, body, self._up) if body is not None else None
        if body is not None and number is not None:
            message = self._hri.Gesture(header=event.header, gesture=number)
            self._by_body[body.body_id]["gesture"].publish(message)
        if self._intents is not None and event.label in self._intent_of:
            self._intents.publish(intent(self._actions, self._intent_of[event.label], event))


def _messages(package: str) -> Any:
    """Return the module of a package's messages; None if it is not installed."""
    try:
        return importlib.import_module(f"{package}.msg")
    except ImportError:
        return None


def canonical(body: Body) -> Body:
    """Return a body in the layout kinect_v2_25."""
    positions, scores = convert(body.positions, body.scores, body.layout, CANONICAL)
    pixels, _ = convert(body.pixels, body.scores, body.layout, CANONICAL)
    return Body(body.body_id, CANONICAL, positions, pixels, scores)


def skeleton2d(hri: Any, body: Body, size: tuple[int, int], head: Header) -> Any:
    """Return a hri_msgs/Skeleton2D: pixels divided by the image size, confidence 0 if missing or outside the image."""
    points = [hri.NormalizedPointOfInterest2D() for _ in range(18)]
    for name, joint in KEYPOINTS.items():
        x, y = body.pixels[_J[joint]] / size
        if 0 <= x <= 1 and 0 <= y <= 1:
            point = points[getattr(hri.Skeleton2D, name)]
            point.x, point.y, point.c = float(x), float(y), float(np.clip(body.scores[_J[joint]], 0, 1))
    return hri.Skeleton2D(header=head, skeleton=points)


def region(hri: Any, body: Body, size: tuple[int, int], head: Header) -> Any:
    """Return a hri_msgs/NormalizedRegionOfInterest2D around the joints in the image; zeros if there are none."""
    known = np.isfinite(body.pixels).all(axis=-1)
    message = hri.NormalizedRegionOfInterest2D(header=head)
    if known.any():
        places = np.clip(body.pixels[known] / size, 0, 1)
        (message.xmin, message.ymin), (message.xmax, message.ymax) = places.min(0).tolist(), places.max(0).tolist()
        message.c = float(np.clip(body.scores[known].mean(), 0, 1))
    return message


def gesture(hri: Any, label: str, body: Body, up: np.ndarray) -> int | None:
    """Return the number of an action among the gestures of hri_msgs; None if it is none of them."""
    kinds = hri.Gesture
    if label == "wave":
        return int(kinds.WAVING)
    if label != "raise hand":
        return None
    height = body.positions @ up
    left, right = (height[_J[f"wrist_{side}"]] > height[_J[f"shoulder_{side}"]] for side in ("left", "right"))
    raised = {(True, True): kinds.BOTH_HANDS_RAISED, (True, False): kinds.LEFT_HAND_RAISED}
    return int(raised.get((bool(left), bool(right)), kinds.RIGHT_HAND_RAISED)) if left or right else None


def intent(actions: Any, name: str, event: ActionEvent) -> Any:
    """Return a hri_actions_msgs/Intent of the person of an event toward the robot."""
    kind = actions.Intent
    data = {"agent": hand_owner(event.body_id), "recipient": ROBOT, "object": event.label}
    return kind(
        intent=name,
        data=json.dumps(data),
        source=kind.UNKNOWN_AGENT,  # a body is no person with an id of REP-155
        modality=kind.MODALITY_MOTION,
        priority=PRIORITY,
        confidence=event.confidence,
    )


def body_pose(positions: np.ndarray, up: np.ndarray) -> np.ndarray | None:
    """Return [4, 4], the body's frame (between the hips, x forward, y left, z up) in the optical one; None if unknown.

    Args:
        positions: [25, 3] m, kinect_v2_25.
        up: [3] unit vector against gravity.
    """
    places = {name: positions[_J[name]] for name in ("hip_left", "hip_right", "shoulder_left", "shoulder_right")}
    left = places["hip_left"] - places["hip_right"] + places["shoulder_left"] - places["shoulder_right"]
    left = left - (left @ up) * up
    length = float(np.linalg.norm(left))
    if not length > 0:  # also NaN
        return None
    y = left / length
    rotation = np.stack([np.cross(y, up), y, up], axis=1)
    return calibration_files.transform(rotation, (places["hip_left"] + places["hip_right"]) / 2)


def _transform(body_id: str, pose: np.ndarray, head: Header) -> TransformStamped:
    x, y, z, w = calibration_files.quaternion(pose[:3, :3])
    where = Vector3(**dict(zip("xyz", map(float, pose[:3, 3]), strict=True)))
    sent = TransformStamped(header=head, child_frame_id=f"body_{body_id}")
    sent.transform = Transform(translation=where, rotation=Quaternion(x=x, y=y, z=z, w=w))
    return sent
