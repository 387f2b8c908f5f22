"""The node `camera_node`: a camera, a recording or the simulated actor to RGB-D frames."""

import importlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from actrec_msgs.msg import ActionLabel, SkeletonArray
from geometry_msgs.msg import Vector3Stamped
from sensor_msgs.msg import CameraInfo, Image

from actrec import cameras
from actrec.cameras.base import Camera
from actrec.perception.gravity import GravityConfig, GravityEstimator
from actrec.types import RgbdFrame
from actrec.utils import calibration_files, gravity
from actrec.utils.config import setting
from actrec.utils.errors import ActrecError, DeviceError, EndOfStream
from actrec_nodes.common import conversions, parameters, topics
from actrec_nodes.common.lifecycle import ActrecNode
from actrec_nodes.common.subscriptions import Subscription

SAME_UP_COSINE = 0.999986  # cosine of 0.3°: a smaller change of the direction of gravity is not published
HUNG_S = 1.0  # a driver that exceeds its timeout by more than this is abandoned
_DISCOVERY_S = 1.0  # wait of a recording's first frame for a subscriber of images, if the node started after others
_MATCH_S = 10.0  # its wait for the match with all discovered subscribers
_NEXT_FRAME_S = 0.3  # wait for the current frame before a driver is closed while a thread reads from it
_DISCOVERY_STEP_S = 0.05
_SOON_S = 60.0  # a camera that is lost for less is tried at a steady pace: a cable is put in again


class FlowControl:
    """Limits the number of frames of a recording that the graph has not answered yet.

    The answer to an image is a skeletons message of its stamp or a later one. The answer to joints is a label, one
    every `interval_s` of the recognizer; also to images if no node publishes skeletons. Without either publisher
    there is no limit. An unanswered frame (a node dropped it, or died) delays the source for `patience_s` only, the
    first one for `first_s`, because a network's first inference is slow; and the discovery of a publisher of answers
    delays the first frame for `discovery_s`.
    """

    def __init__(self, node: ActrecNode[Any], patience_s: float = 1.0, discovery_s: float = 1.0, first_s: float = 10.0):
        self._node, self._patience_s, self._discovery_s = node, patience_s, discovery_s
        self._first_s, self._lost = max(first_s, patience_s), 0
        self._answered = threading.Condition()
        self._newest_ns: dict[str, int] = {}
        self._sent: list[int] = []
        self._closed = False
        self._subscriptions = [
            Subscription(node, kind, topic, self._listener(topic), topics.SMALL_SUBSCRIBER)
            for topic, kind in ((topics.ACTION_LABEL, ActionLabel), (topics.SKELETONS, SkeletonArray))
        ]

    def close(self) -> None:
        """Unsubscribe and release waiting threads."""
        with self._answered:
            self._closed = True
            self._answered.notify_all()
        for subscription in self._subscriptions:
            subscription.close()
        self._subscriptions = []

    def sent(self, stamp_ns: int) -> None:
        """Add a published frame."""
        self._sent.append(stamp_ns)

    def wait(self, ahead: int, joints_alone: bool) -> bool:
        """Block until at most `ahead` frames are unanswered; return False if that fails twice in a row.

        If the source has `joints_alone`, it publishes `skeletons` itself, and only labels are answers.
        """
        topic = self._discover(joints_alone)
        if topic is None:
            self._sent.clear()
            return True
        with self._answered:
            patience_s = self._patience_s if self._newest_ns or self._lost else self._first_s
            done = self._answered.wait_for(lambda: self._closed or self._unanswered(topic) <= ahead, patience_s)
        self._lost = 0 if done else self._lost + 1
        if not done:
            self._sent.clear()  # do not wait for the same lost frames again
        return self._lost < 2

    def _unanswered(self, topic: str) -> int:
        newest = self._newest_ns.get(topic, -1)
        self._sent = [stamp for stamp in self._sent if stamp > newest]
        return len(self._sent)

    def _discover(self, joints_alone: bool) -> str | None:
        """Return the topic of the answers; the discovery of other processes takes a moment."""
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

    def _listener(self, topic: str) -> Callable[[Any], None]:
        def on_answer(message: ActionLabel | SkeletonArray) -> None:
            with self._answered:
                self._newest_ns[topic] = conversions.stamp_to_ns(message.header.stamp)
                self._answered.notify_all()

        return on_answer


@dataclass
class _Reading:
    """State of one reading thread: a driver that hangs may return when another thread reads already."""

    stop: threading.Event = field(default_factory=threading.Event)
    in_driver: bool = False


@dataclass(frozen=True)
class CameraConfig:
    """Parameters of the camera node. The settings of a driver are `<driver>.<setting>`."""

    driver: str = setting("simulated", "Camera driver: a name in actrec.cameras.")
    on_end: str = setting("exit", "At the end of a recording.", choices=("exit", "stay"))
    read_timeout_s: float = setting(
        2.0, "Time without a frame after which a camera is lost.", unit="s", range=(0.1, 60.0)
    )
    frames_ahead: int = setting(2, "Images in the graph at a time, of a recording without a rate.", range=(1, 100))
    joints_ahead: int = setting(40, "The same for a recording of joints without images.", range=(1, 1000))
    retry_s: float = setting(
        0.4, "Wait to reopen a lost camera; after a minute it is doubled each time.", unit="s", range=(0.01, 60.0)
    )
    retry_max_s: float = setting(1.0, "Longest wait between two attempts.", unit="s", range=(0.01, 3600.0))


class CameraNode(ActrecNode[CameraConfig]):
    """Publishes the frames of a driver, which a thread reads, and its skeletons if it has them."""

    def __init__(self, **node_options: Any):
        super().__init__("camera_node", CameraConfig, **node_options)
        self._camera: Camera | None = None
        self._thread: threading.Thread | None = None
        self._reading = _Reading()
        self._by_topic: dict[str, Any] = {}
        self._skipped = 0
        self._flow: FlowControl | None = None
        self._mount_publisher: Any = None
        self._mount_up: np.ndarray | None = None
        self._published_up: tuple[str, np.ndarray] | None = None
        self._gravity = gravity.Choice(self.get_logger())
        self._gravity_settings = parameters.Parameters(self, GravityConfig)
        self._set_up: np.ndarray | None = None
        self._of_joints: GravityEstimator | None = None
        self._serial = ""  # of the open camera

    def figures(self) -> dict[str, float | int]:
        """Return the driver's figures."""
        try:
            return self._camera.figures() if self._camera is not None else {}
        except DeviceError:  # not open
            return {}

    def configure(self) -> None:
        """Find the driver, declare its settings and make it; the device is opened by activation."""
        driver = cameras.DRIVERS.get(self.config.driver)
        options = parameters.Parameters(self, driver.config_class, self.config.driver).read()
        self._camera = driver(**parameters.as_options(options))
        self._camera.prepare()
        mount = self._gravity_settings.read().mount
        self._set_up = None if mount == "auto" else gravity.parse_mount(mount)
        for name, kind, profile in (
            (topics.COLOR, Image, topics.IMAGE_PUBLISHER),
            (topics.COLOR_INFO, CameraInfo, topics.IMAGE_PUBLISHER),
            (topics.DEPTH, Image, topics.IMAGE_PUBLISHER),
            (topics.DEPTH_INFO, CameraInfo, topics.IMAGE_PUBLISHER),
            (topics.TRUE_SKELETONS, SkeletonArray, topics.SMALL),
            (topics.TRUE_ACTION_LABEL, ActionLabel, topics.SMALL),
            (topics.UP, Vector3Stamped, topics.LATCHED),
            (topics.MEASURED_UP, Vector3Stamped, topics.LATCHED),
        ):
            self._by_topic[name] = self.create_output(kind, name, profile)

    def activate(self) -> None:
        """Open the device and start reading."""
        assert self._camera is not None
        with self.working(f"opening camera '{self.config.driver}'"):
            self._camera.open()
        self._published_up, self._serial = None, self._camera.serial
        self._of_joints = GravityEstimator(gravity_window_s=self._gravity_settings.read().gravity_window_s)
        self._publish_mount(self._camera)
        self._skipped = 0
        self._flow = None if self._camera.paced else FlowControl(self)
        self._reading = _Reading()
        self._thread = threading.Thread(target=self._run, args=(self._reading,), name="camera", daemon=True)
        self._thread.start()

    def deactivate(self) -> None:
        """Stop reading and close the device."""
        camera, waking = self._camera, None
        self._reading.stop.set()
        if self._flow is not None:
            self._flow.close()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_NEXT_FRAME_S)
            if camera is not None and self._reading.in_driver:
                # Closing ends a read that waits for a camera or a recording's long gap. It may hang if the driver does.
                waking = threading.Thread(target=self._close, args=(camera,), name="closing", daemon=True)
                waking.start()
            self._thread.join(self.config.read_timeout_s + HUNG_S)
            if self._thread.is_alive():
                self.complain(f"driver '{self.config.driver}' does not return from reading: closing it all the same")
            self._thread = None
        if waking is not None:
            waking.join(HUNG_S)
        elif camera is not None:
            camera.close()
        self._withdraw_up()  # the next frames may come from another camera, or with another mount

    def _close(self, camera: Camera) -> None:
        try:
            camera.close()
        except Exception as error:  # of any kind: the node reports it and stops
            self.fail(error)

    def cleanup(self) -> None:
        """Free the driver."""
        self._by_topic = {}
        self._camera = None

    def publish(self, frame: RgbdFrame) -> None:
        """Publish one frame; each message has its stamp."""
        head = conversions.header(frame.stamp_ns, frame.frame_id)
        frame = self._with_up(frame, head)
        if frame.color is None:
            if frame.up is None and (estimator := self._of_joints) is not None:
                up = estimator.known(frame)
                estimator.update(frame, frame.skeletons)
                frame = replace(frame, up=up)
            self._publish_joints(topics.SKELETONS, frame, head)
            return
        frame.check()
        # Before the images, so that it comes before their labels.
        for body_id, action in self._camera.actions_at(frame.stamp_ns).items() if self._camera else ():
            label = ActionLabel(header=head, body_id=body_id, label=action, class_id=-1, confidence=1.0)
            self._by_topic[topics.TRUE_ACTION_LABEL].publish(label)
        # Color last, so that a subscriber has depth already and starts at once.
        info = conversions.intrinsics_to_info(frame.intrinsics, head)
        self._by_topic[topics.COLOR_INFO].publish(info)
        if frame.depth is not None:
            self._by_topic[topics.DEPTH_INFO].publish(info)
            self._by_topic[topics.DEPTH].publish(conversions.depth_to_image(frame.depth, head))
        self._by_topic[topics.COLOR].publish(conversions.color_to_image(frame.color, head))
        if frame.skeletons:
            self._publish_joints(topics.TRUE_SKELETONS, frame, head)

    def _publish_joints(self, topic: str, frame: RgbdFrame, head: Any) -> None:
        if topic not in self._by_topic:
            # Only a source without images publishes `skeletons`; else the skeleton node does.
            self._by_topic[topic] = self.create_output(SkeletonArray, topic)
            self._by_topic[topic].on_activate(None)
        self._by_topic[topic].publish(conversions.bodies_to_message(frame.skeletons, head, frame.up))

    def _with_up(self, frame: RgbdFrame, head: Any) -> RgbdFrame:
        """Return the frame with the direction of gravity, in the order of `gravity.SOURCES`; publish a new one."""
        up = self._gravity.of({"setting": self._set_up, "calibration": self._mount_up, frame.up_source: frame.up})
        source, before = self._gravity.source, self._published_up
        if up is None:
            if before is not None and before[0] == "accelerometer":  # it sends nothing any more
                self._withdraw_up()
            return frame
        if before is None or source != before[0] or up @ before[1] < SAME_UP_COSINE:
            if before is not None and _up_topic(source) != _up_topic(before[0]):
                self._withdraw_up()
            vector = Vector3Stamped(header=head, vector=conversions.up_to_vector(up))
            self._by_topic[_up_topic(source)].publish(vector)
            self._published_up = source, up
        return replace(frame, up=up, up_source=source)

    def _withdraw_up(self) -> None:
        """Publish that the direction of gravity published last holds no more: subscribers keep it."""
        published, self._published_up = self._published_up, None
        if published is not None:
            self._by_topic[_up_topic(published[0])].publish(Vector3Stamped())

    def _publish_mount(self, camera: Camera) -> None:
        """Publish the static transform of the camera's `SERIAL_mount.yaml`, if there is one, or warn."""
        self._mount_up = None
        try:
            parts = (calibration_files.MOUNT,)
            mount = calibration_files.load(camera.serial, parts=parts).mount if camera.serial else None
        except ActrecError as error:
            self.warn(f"the camera's place on the robot is not published: {error}")
            return
        if mount is None:
            return
        self._mount_up = mount.up  # of a mount that moves, TF has it (gravity_frame)
        images = getattr(camera.config, "frame_id", mount.child)
        if images != mount.child:
            self.warn(
                f"the camera's mount is of frame '{mount.child}', but its images are of '{images}': set its frame_id, "
                "or calibrate with --child"
            )
        try:
            tf = importlib.import_module("tf2_msgs.msg")
        except ImportError:
            self.warn(
                f"the camera's place in {mount.parent} is not published: it needs tf2_msgs, which comes with ROS 2"
            )
            return
        from geometry_msgs.msg import Quaternion, Transform, TransformStamped, Vector3

        if self._mount_publisher is None:
            self._mount_publisher = self.create_publisher(tf.TFMessage, "/tf_static", topics.LATCHED)
        x, y, z, w = calibration_files.quaternion(mount.pose[:3, :3])
        where = dict(zip("xyz", map(float, mount.pose[:3, 3]), strict=True))
        sent = TransformStamped(child_frame_id=mount.child)
        sent.header.frame_id, sent.header.stamp = mount.parent, self.get_clock().now().to_msg()
        sent.transform = Transform(translation=Vector3(**where), rotation=Quaternion(x=x, y=y, z=z, w=w))
        self._mount_publisher.publish(tf.TFMessage(transforms=[sent]))

    def _run(self, reading: _Reading) -> None:
        camera = self._camera
        assert camera is not None
        if self.start_after and not camera.live:
            self._await_subscribers(reading)
        while not reading.stop.is_set():
            try:
                frame = self._read(camera, reading)
            except Exception as error:  # no exception of a driver may end the thread unreported
                if reading.stop.is_set():
                    return
                if isinstance(error, EndOfStream):
                    self.get_logger().info(f"{error} (on_end: {self.config.on_end})")
                    self._end(0)
                    return
                self.fail(error)
                if camera.live:
                    self._reopen(camera, reading)
                elif not isinstance(error, DeviceError):
                    self._end(1)
                    return
            else:
                if reading.stop.is_set():  # too late
                    return
                skipped, self._skipped = max(camera.skipped - self._skipped, 0), camera.skipped
                self.statistics.count("received", 1 + skipped)
                self.statistics.count("dropped", skipped)
                self._await_graph(joints_alone=frame.color is None)
                self._publish_counted(frame, reading)

    def _end(self, status: int) -> None:
        if self.config.on_end == "exit":
            self.finish(status)

    def _read(self, camera: Camera, reading: _Reading) -> RgbdFrame:
        reading.in_driver = True
        try:
            return camera.read(self.config.read_timeout_s)
        finally:
            reading.in_driver = False

    def _await_subscribers(self, reading: _Reading) -> None:
        """Wait until the subscribers of images are matched with this node's new publishers."""
        began = time.monotonic()
        while not reading.stop.wait(0.01):
            passed = time.monotonic() - began
            known = sum(self.count_subscribers(self.resolve_topic_name(name)) for name in topics.CAMERA_TOPICS)
            matched = sum(self._by_topic[name].get_subscription_count() for name in topics.CAMERA_TOPICS)
            if 0 < known <= matched or passed > (_MATCH_S if known else _DISCOVERY_S):
                return

    def _await_graph(self, joints_alone: bool) -> None:
        if self._flow is None:
            return
        ahead = self.config.joints_ahead if joints_alone else self.config.frames_ahead
        if not self._flow.wait(ahead - 1, joints_alone):
            self.warn("the graph does not answer: is the recognizer active? The recording continues")

    def _publish_counted(self, frame: RgbdFrame, reading: _Reading) -> None:
        began = time.monotonic()
        try:
            self.publish(frame)
        except Exception as error:  # as above
            if reading.stop.is_set():
                return
            self.statistics.count("failed")
            self.fail(error)
        else:
            self.statistics.done(time.monotonic() - began, self.age(frame.stamp_ns))
            if self._flow is not None:
                self._flow.sent(frame.stamp_ns)

    def _reopen(self, camera: Camera, reading: _Reading) -> None:
        """Close and open the camera again, with growing pauses, until it answers or the node stops."""
        pause, began = self.config.retry_s, time.monotonic()
        while not reading.stop.wait(pause):
            try:
                with self.working(f"opening camera '{self.config.driver}' again: {self.last_error}"):
                    camera.close()
                    camera.open()
            except Exception as error:  # as above
                if reading.stop.is_set():
                    return
                if time.monotonic() - began >= _SOON_S:
                    pause = min(2 * pause, self.config.retry_max_s)
                self.fail(DeviceError(f"{error} (next attempt in {pause:g} s)"))
            else:
                if reading.stop.is_set():  # the node has closed it before it was opened
                    self._close(camera)
                else:
                    if camera.serial != self._serial:  # another one
                        self._serial = camera.serial
                        self._withdraw_up()
                        self._publish_mount(camera)
                    self.get_logger().info(f"camera '{self.config.driver}' is back")
                return


def _up_topic(source: str) -> str:
    """Return the topic of a direction of gravity by its source."""
    return topics.MEASURED_UP if source == "accelerometer" else topics.UP
