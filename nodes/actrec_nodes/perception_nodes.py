"""The nodes `skeleton_node`, `hand_node` and `face_node`: RGB-D frames to detections."""

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

import numpy as np
from actrec_msgs.msg import FaceArray, HandArray, SkeletonArray
from geometry_msgs.msg import Vector3Stamped
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Imu

from actrec import inference
from actrec.perception import networks, pipeline
from actrec.perception.tracking import Tracker
from actrec.skeleton import shape_fits
from actrec.types import NANOSECONDS, RgbdFrame
from actrec.utils import gravity
from actrec.utils.config import setting
from actrec.utils.errors import DeviceError, InputError, MissingLibraryError
from actrec_nodes.common import conversions, parameters, topics
from actrec_nodes.common.frame_node import FrameNode
from actrec_nodes.common.lifecycle import ActrecNode
from actrec_nodes.common.subscriptions import Subscription
from actrec_nodes.common.synchronizer import RgbdMessages
from actrec_nodes.common.tf import WAIT_S, TfPoses

ConfigT = TypeVar("ConfigT")

HOLD_S = 1.0  # time for which the last direction from TF is used while TF does not know a newer one

_IMU_TF = "the accelerometer's place from TF"
TF_S = 3.0  # time for which the accelerometer's place is looked up before its absence is warned of

KEPT = 8  # skeleton messages kept: enough for the frames in the queues


@dataclass(frozen=True)
class GravityInputConfig:
    """Where the direction of gravity comes from."""

    gravity_frame: str = setting(
        "",
        "Frame in TF whose z axis points up, such as base_footprint, odom or map: TF then gives the direction of "
        "gravity at each image's stamp, also on a moving head; empty: not from TF.",
    )
    imu: bool = setting(
        False, "Subscribe to camera/imu, the sensor_msgs/Imu of a camera driver's accelerometer; its place is in TF."
    )


class GravityInputs:
    """Adds the direction of gravity to frames: from `camera/up`, TF, or an accelerometer (`gravity.Choice`)."""

    def __init__(self, node: ActrecNode[Any], config: GravityInputConfig):
        self._node, self._config = node, config
        self._up: np.ndarray | None = None
        self._measured: np.ndarray | None = None
        self._choice = gravity.Choice(node.get_logger(), announce=False)
        self._tf = TfPoses(node, "gravity_frame", "set gravity_frame to ''") if config.gravity_frame else None
        self._held: tuple[int, np.ndarray] | None = None
        self._failures, self._searched_s = 0, 0.0
        self._optical = ""
        self._filters: dict[str, gravity.GravityFilter] = {}
        heard: list[tuple[Any, str, Any, Any]] = [
            (Vector3Stamped, topics.UP, self._keep_up, topics.INFO_SUBSCRIBER),
            (Vector3Stamped, topics.MEASURED_UP, self._keep_measured, topics.INFO_SUBSCRIBER),
        ]
        if config.imu:
            heard.append((Imu, topics.IMU, self._on_imu, qos_profile_sensor_data))
        self._subscriptions = [Subscription(node, *each, node.warn) for each in heard]

    def add_to(self, frame: RgbdFrame) -> RgbdFrame:
        """Return the frame with its direction of gravity and the source; without them if no source knows it."""
        self._optical = frame.frame_id
        filters = self._filters.values()
        measured = self._measured if not filters else next((f.up for f in filters if f.up is not None), None)
        up = self._choice.of({"camera": self._up, "tf": self._from_tf(frame), "accelerometer": measured})
        return replace(frame, up=up, up_source=self._choice.source)

    def close(self) -> None:
        """Unsubscribe."""
        for subscription in self._subscriptions:
            subscription.close()
        if self._tf is not None:
            self._tf.close()

    def _from_tf(self, frame: RgbdFrame) -> np.ndarray | None:
        if self._tf is None or not self._config.gravity_frame:  # TF may have an accelerometer's place only
            return None
        try:
            # After some failures in a row few lookups wait, so that a missing transform does not delay all frames.
            wait_s = WAIT_S if self._failures < 10 or self._failures % 30 == 0 else 0.0
            pose = self._tf.pose(self._config.gravity_frame, frame.frame_id, frame.stamp_ns, wait_s)
        except DeviceError as error:
            self._failures += 1
            if self._held is not None and abs(frame.stamp_ns - self._held[0]) < HOLD_S * NANOSECONDS:
                return self._held[1]
            self._node.warn(
                f"TF does not have the direction of gravity, from '{self._config.gravity_frame}' to "
                f"'{frame.frame_id}' ({error}): set gravity_frame to a frame of this tree whose z axis points up, or "
                "to '' to estimate it"
            )
            return None
        self._failures = 0
        self._held = frame.stamp_ns, gravity.check_up(pose[2, :3])
        return self._held[1]

    def _keep_up(self, message: Vector3Stamped) -> None:
        self._up = self._checked(message, topics.UP)

    def _keep_measured(self, message: Vector3Stamped) -> None:
        self._measured = self._checked(message, topics.MEASURED_UP)

    def _checked(self, message: Vector3Stamped, topic: str) -> np.ndarray | None:
        try:
            return gravity.up_from_vector(message.vector)
        except InputError as error:
            self._node.warn(f"a message on {self._node.resolve_topic_name(topic)} is ignored: {error}")
            return None

    def _on_imu(self, message: Imu) -> None:
        """Add a sample; a gyroscope that measures nothing at all is none (separate topics of both)."""
        frame_id = message.header.frame_id
        if not self._optical or (frame_id not in self._filters and not self._find_place(frame_id)):
            return
        measured, stamp_ns = self._filters[frame_id], conversions.stamp_to_ns(message.header.stamp)
        turn = message.angular_velocity
        if message.angular_velocity_covariance[0] >= 0 and (turn.x or turn.y or turn.z):
            measured.rotate(stamp_ns, np.array([turn.x, turn.y, turn.z]))
        a = message.linear_acceleration
        measured.add(stamp_ns, np.array([a.x, a.y, a.z]))

    def _find_place(self, frame_id: str) -> bool:
        """Make the filter of an accelerometer by its place in TF; return False if that is not known."""
        rotation = np.eye(3)
        if frame_id != self._optical:
            try:
                if self._tf is None:
                    self._tf = TfPoses(self._node, _IMU_TF, "set mount and imu to false")
                rotation = self._tf.pose(self._optical, frame_id, 0, 0.0)[:3, :3]
            except (DeviceError, MissingLibraryError) as error:
                self._searched_s = self._searched_s or time.monotonic()
                if isinstance(error, DeviceError) and time.monotonic() - self._searched_s < TF_S:
                    return False  # transforms are still coming
                self._node.warn(
                    f"the accelerometer on {self._node.resolve_topic_name(topics.IMU)} is not used, its place is not "
                    f"in TF ({error}): let the camera driver publish its transforms (publish_tf), or set mount"
                )
                return False
        self._filters[frame_id] = gravity.GravityFilter(rotation)
        return True


class PerceptionNode(FrameNode[ConfigT]):
    """Base of nodes that publish one message per processed frame, an empty one without detections.

    The settings of `perception_class`, a class of `actrec.perception.pipeline`, are the node's. `to_message` converts
    detections and a header to a message.
    """

    node_name: ClassVar[str]
    perception_class: ClassVar[Any]
    message_class: ClassVar[type]
    topic: ClassVar[str]
    to_message: ClassVar[Callable[..., Any]]

    def __init__(self, **node_options: Any):
        super().__init__(self.node_name, self.perception_class.config_class, **node_options)
        self._perception: Any = None
        self._publisher: Any = None
        self._gravity_settings = parameters.Parameters(self, GravityInputConfig)
        self._gravity: GravityInputs | None = None

    @classmethod
    def preload(cls, value: Callable[[str], Any]) -> None:
        """Import the estimator and ONNX Runtime, and read the list of networks."""
        pipeline.ESTIMATORS.get(cls.perception_class.kind)
        networks.BACKENDS.get(inference.FALLBACK)
        networks.files()

    def configure(self) -> None:
        """Make the estimator."""
        self._perception = self.perception_class(**parameters.as_options(self.config))
        self._publisher = self.create_output(self.message_class, self.topic)

    def subscribe(self) -> None:
        """Subscribe to the camera's direction of gravity too, which not every camera publishes."""
        self._gravity = GravityInputs(self, self._gravity_settings.read())
        super().subscribe()

    def unsubscribe(self) -> None:
        """Unsubscribe."""
        super().unsubscribe()
        if self._gravity is not None:
            self._gravity.close()
            self._gravity = None

    def reset(self) -> None:
        """Forget all tracks."""
        self._perception.reset()

    def figures(self) -> Mapping[str, float | int | str]:
        """Return the devices that the networks run on."""
        perception = self._perception
        return {**super().figures(), "device": perception.device if perception is not None else ""}

    def process(self, frame: RgbdFrame) -> None:
        """Estimate and publish."""
        head = conversions.header(frame.stamp_ns, frame.frame_id)
        self._publisher.publish(type(self).to_message(self.detect(frame), head, self._perception.up))

    def detect(self, frame: RgbdFrame) -> list[Any]:
        """Return the detections in a frame."""
        return list(self._perception.process(self.with_up(frame)))

    def with_up(self, frame: RgbdFrame) -> RgbdFrame:
        """Return the frame with the direction of gravity, if a source knows it."""
        inputs = self._gravity
        return frame if inputs is None else inputs.add_to(frame)

    def cleanup(self) -> None:
        """Free the estimator."""
        if self._perception is not None:
            self._perception.close()
            self._perception = None


class SkeletonNode(PerceptionNode[pipeline.BodyPerceptionConfig]):
    """Publishes the skeletons of the people in each frame."""

    node_name = "skeleton_node"
    perception_class = pipeline.BodyPerception
    message_class = SkeletonArray
    topic = topics.SKELETONS
    to_message = conversions.bodies_to_message

    @classmethod
    def preload(cls, value: Callable[[str], Any]) -> None:
        """Import the tracker's SciPy, and load the compiled fits, too."""
        super().preload(value)
        Tracker()
        shape_fits.prepare()

    def figures(self) -> dict[str, float | int | str]:
        """Return the direction of gravity and its source, the size of people by depth, and the warning about it."""
        found = dict(super().figures())
        if (perception := self._perception) is None:
            return {**found, "gravity": "unknown"}
        found |= {"people_size": perception.sizes.size}
        found["warning"] = found["warning"] or perception.sizes.fault or perception.gravity.warning
        if perception.up is None:
            return {**found, "gravity": "unknown"}
        roll, pitch = gravity.angles_from_up(perception.up)
        return {**found, "gravity": perception.gravity.source, "roll_deg": round(roll, 1), "pitch_deg": round(pitch, 1)}


class LoadShedder:
    """Halves the rate of a node while skeletons do not keep up with the images, as the machine is then overloaded.

    Skeletons and images are counted over `COUNTED` images. If less than `TOO_FEW` of them have skeletons, an image is
    accepted only after twice the interval of images, and twice the work. The rate is full again after some counts
    in a row with `ENOUGH` skeletons: five, and twice as many each time that the overload then returns as soon. Without
    any skeletons nothing is shed, as no node publishes them.

    Args:
        report: Called with a line when the rate changes.
        clock: Monotonic seconds.

    Attributes:
        reason: Why the rate is halved; empty at full rate.
    """

    COUNTED = 30
    TOO_FEW, ENOUGH = 0.8, 0.95
    PATIENCE, MOST_PATIENCE = 5, 80

    def __init__(self, report: Callable[[str], None], clock: Callable[[], float] = time.monotonic):
        self._report, self._clock = report, clock
        self._lock = threading.Lock()
        self.reason = ""
        self._work: deque[float] = deque(maxlen=3)
        self._patience, self._good, self._at_full_rate = self.PATIENCE, 0, self.MOST_PATIENCE
        self._interval, self._accepted = 0.0, float("-inf")
        self.restart()

    def restart(self) -> None:
        """Count again after a pause; the first images are not counted, as their skeletons come late."""
        with self._lock:
            self._images, self._skeletons, self._began = -self.COUNTED, 0, 0.0

    def add_skeletons(self) -> None:
        """Count a message of skeletons."""
        with self._lock:
            self._skeletons += 1

    def add_work(self, seconds: float) -> None:
        """Add the duration of work and its wait for skeletons; the median of three leaves out a stopped process."""
        self._work.append(seconds)

    def accepts(self) -> bool:
        """Count an image, and return whether to work on it."""
        with self._lock:
            now, self._images = self._clock(), self._images + 1
            if self._images == self.COUNTED:
                self._interval = (now - self._began) / self.COUNTED
                self._judge(self._skeletons)
            if self._images in (0, self.COUNTED):
                self._images, self._skeletons, self._began = 0, 0, now
            # Half an interval less than twice, as images jitter.
            work_s = statistics.median(self._work) if self._work else 0.0
            if self.reason and now - self._accepted < 2 * max(self._interval, work_s) - 0.5 * self._interval:
                return False
            self._accepted = now
            return True

    def _judge(self, skeletons: int) -> None:
        share = skeletons / self.COUNTED or 1.0
        if not self.reason:
            self._at_full_rate += 1
            if share < self.TOO_FEW:
                relapse = self._at_full_rate <= self._patience
                self._patience = min(2 * self._patience, self.MOST_PATIENCE) if relapse else self.PATIENCE
                self._good, self.reason = 0, f"half rate: skeletons for {skeletons} of {self.COUNTED} images"
                self._report(f"{self.reason}, the machine is overloaded (shed_load)")
            return
        self._good = self._good + 1 if share >= self.ENOUGH else 0
        if self._good >= self._patience:
            self._at_full_rate, self.reason = 0, ""
            self._report("full rate again: skeletons keep up with the images")


@dataclass(frozen=True)
class BodyPartsConfig:
    """How skeletons are used."""

    skeleton_max_age_s: float = setting(
        0.5, "Greatest distance of stamps at which skeletons are used for a frame.", unit="s", range=(0.0, 10.0)
    )
    skeleton_wait_s: float = setting(
        0.15, "Wait of a frame for its skeletons; older ones cost detections.", unit="s", range=(0.0, 10.0)
    )
    shed_load: bool = setting(
        True, "Work at half rate while skeletons come for less than 80 % of the images; diagnostics show it."
    )


class BodyPartsNode(PerceptionNode[ConfigT]):
    """Base of nodes that detect parts of the bodies in the skeletons of a frame, or in the nearest ones in time."""

    def __init__(self, **node_options: Any):
        super().__init__(**node_options)
        self._parts_settings = parameters.Parameters(self, BodyPartsConfig)
        self._recent: deque[tuple[int, SkeletonArray]] = deque(maxlen=KEPT)
        self._arrived = threading.Condition()
        self._max_age_ns, self._wait_s = 0, 0.0
        self._skeletons: Subscription | None = None
        self._shedder: LoadShedder | None = None

    def activate(self) -> None:
        """Read the settings, then subscribe."""
        settings = self._parts_settings.read()
        self._shedder = LoadShedder(self.get_logger().info) if settings.shed_load else None
        self._max_age_ns, self._wait_s = int(settings.skeleton_max_age_s * NANOSECONDS), settings.skeleton_wait_s
        super().activate()

    def subscribe(self) -> None:
        """Subscribe to skeletons too."""
        with self._arrived:
            self._recent.clear()
        if self._shedder is not None:
            self._shedder.restart()
        self._skeletons = Subscription(
            self, SkeletonArray, topics.SKELETONS, self._keep, topics.SMALL_SUBSCRIBER, self.warn
        )
        super().subscribe()

    def unsubscribe(self) -> None:
        """Unsubscribe, also from skeletons, which would keep skeleton_node at work."""
        super().unsubscribe()
        if self._skeletons is not None:
            self._skeletons.close()
            self._skeletons = None

    def receive(self, messages: RgbdMessages) -> None:
        """Pass a frame to the worker, or only some while the machine is overloaded."""
        if self._shedder is None or self._shedder.accepts():
            super().receive(messages)

    def figures(self) -> dict[str, float | int | str]:
        """Return why the rate is halved, as a warning."""
        found = dict(super().figures())
        return {**found, "warning": found["warning"] or (self._shedder.reason if self._shedder is not None else "")}

    def detect(self, frame: RgbdFrame) -> list[Any]:
        """Return the detections in a frame, near its skeletons if there are any."""
        began = time.monotonic()
        message = self._nearest(frame.stamp_ns)
        bodies = conversions.message_to_bodies(message) if message is not None else []
        up = None if message is None else gravity.up_from_vector(message.up)
        frame = self.with_up(frame) if up is None else replace(frame, up=up)
        found = list(self._perception.process(frame, bodies))
        if self._shedder is not None:
            self._shedder.add_work(time.monotonic() - began)
        return found

    def _nearest(self, stamp_ns: int) -> SkeletonArray | None:
        """Wait for the skeletons of a frame, and return them or the nearest that are not too old."""
        with self._arrived:
            if topics.publishers(self, topics.SKELETONS):
                # After skeletons of a later frame, this one's do not come.
                self._arrived.wait_for(lambda: self._recent and self._recent[-1][0] >= stamp_ns, self._wait_s)
            ages = [(abs(stamp_ns - stamp), message) for stamp, message in self._recent]
        age, nearest = min(ages, key=lambda item: item[0], default=(0, None))
        return nearest if age <= self._max_age_ns else None

    def _keep(self, message: SkeletonArray) -> None:
        stamp_ns = conversions.stamp_to_ns(message.header.stamp)
        if self._shedder is not None:
            self._shedder.add_skeletons()
        with self._arrived:
            if self._recent and stamp_ns < self._recent[-1][0]:
                self._recent.clear()  # the recording started over
            self._recent.append((stamp_ns, message))
            self._arrived.notify_all()


class HandNode(BodyPartsNode[pipeline.HandPerceptionConfig]):
    """Publishes the hands of the people in each frame."""

    node_name = "hand_node"
    perception_class = pipeline.HandPerception
    message_class = HandArray
    topic = topics.HANDS
    to_message = conversions.hands_to_message


class FaceNode(BodyPartsNode[pipeline.FacePerceptionConfig]):
    """Publishes the faces of the people in each frame."""

    node_name = "face_node"
    perception_class = pipeline.FacePerception
    message_class = FaceArray
    topic = topics.FACE
    to_message = conversions.faces_to_message
