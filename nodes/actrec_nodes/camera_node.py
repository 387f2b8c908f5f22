"""Publishes a camera driver's frames: color, depth, camera_info, and joints if the source knows them.

The camera's place on the robot, as `actrec calibrate` found it, for TF.
"""

import importlib
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from actrec_msgs.msg import SkeletonArray
from sensor_msgs.msg import CameraInfo, Image

from actrec import cameras
from actrec.cameras.base import Camera
from actrec.types import RgbdFrame
from actrec.utils import calibration_files
from actrec.utils.config import setting
from actrec.utils.errors import ActrecError, DeviceError, EndOfStream
from actrec_nodes.bringup import process
from actrec_nodes.common import conversions, parameters, topics
from actrec_nodes.common.flow_control import FlowControl
from actrec_nodes.common.lifecycle import ActrecNode

TOPIC = "/tf_static"


class CameraMount:
    """Publishes the static transform in a camera's `SERIAL_mount.yaml`; nothing if there is no such file.

    Args:
        node: Publishes.
    """

    def __init__(self, node: ActrecNode[Any]):
        self._node = node
        self._publisher: Any = None

    def publish(self, camera: Camera) -> None:
        """Publish the mount of an open camera; a fault is logged, and the camera goes on without it."""
        try:
            mount = calibration_files.load(camera.serial).mount if camera.serial else None
        except ActrecError as error:
            self._node.complain(f"the camera's place on the robot is not published: {error}", "warning")
            return
        if mount is None:
            return
        images = getattr(camera.config, "frame_id", mount.child)
        if images != mount.child:
            self._node.complain(
                f"the camera's mount is of frame '{mount.child}', but its images are of '{images}': set its frame_id, "
                "or calibrate with --child",
                "warning",
            )
        self._send(mount)

    def _send(self, mount: calibration_files.Mount) -> None:
        try:
            tf = importlib.import_module("tf2_msgs.msg")
        except ImportError:
            self._node.complain(
                f"the camera's place in {mount.parent} is not published: it needs tf2_msgs, which comes with ROS 2",
                "warning",
            )
            return
        from geometry_msgs.msg import Quaternion, Transform, TransformStamped, Vector3

        if self._publisher is None:
            self._publisher = self._node.create_publisher(tf.TFMessage, TOPIC, topics.LATCHED)
        x, y, z, w = calibration_files.quaternion(mount.pose[:3, :3])
        where = dict(zip("xyz", map(float, mount.pose[:3, 3]), strict=True))
        sent = TransformStamped(child_frame_id=mount.child)
        sent.header.frame_id, sent.header.stamp = mount.parent, self._node.get_clock().now().to_msg()
        sent.transform = Transform(translation=Vector3(**where), rotation=Quaternion(x=x, y=y, z=z, w=w))
        self._publisher.publish(tf.TFMessage(transforms=[sent]))


HUNG_S = 1.0
"""A driver that exceeds its own timeout by more than this is not waited for."""

_LISTENER_S = 1.0
"""How long a recording's first frame waits for a subscriber of images, if the node waited for other nodes."""

_NEXT_FRAME_S = 0.3
"""The frame under way is waited for before a driver is closed while it is read from."""


@dataclass
class _Reading:
    """One thread's own, for a driver that hangs may return when another thread reads already."""

    stop: threading.Event = field(default_factory=threading.Event)
    in_driver: bool = False


@dataclass(frozen=True)
class CameraConfig:
    """Which camera, and what to do when it ends or is lost. The driver's own settings are `<driver>.<setting>`."""

    driver: str = setting("simulated", "Camera driver: a name in actrec.cameras.")
    on_end: str = setting("exit", "At the end of a recording.", choices=("exit", "deactivate", "stay"))
    read_timeout_s: float = setting(
        2.0, "A camera that gives no frame for this long is lost.", unit="s", range=(0.1, 60.0)
    )
    frames_ahead: int = setting(
        2, "Of a recording without a pace: images that may be under way in the graph.", range=(1, 100)
    )
    joints_ahead: int = setting(
        40, "Of a recording without a pace and of joints alone: frames that may be under way.", range=(1, 1000)
    )
    retry_s: float = setting(
        1.0, "Wait before the first attempt to reopen a lost camera; doubled at each.", unit="s", range=(0.01, 60.0)
    )
    retry_max_s: float = setting(30.0, "Longest wait between two attempts.", unit="s", range=(0.01, 3600.0))


class CameraNode(ActrecNode[CameraConfig]):
    """Runs a driver in a thread of its own and publishes its frames."""

    def __init__(self, **node_options: Any):
        super().__init__("camera_node", CameraConfig, **node_options)
        self._camera: Camera | None = None
        self._thread: threading.Thread | None = None
        self._reading = _Reading()
        self._outputs: dict[str, Any] = {}
        self._skipped = 0
        self._flow: FlowControl | None = None
        self._mount = CameraMount(self)

    def figures(self) -> dict[str, float | int]:
        """Return the driver's own."""
        try:
            return self._camera.figures() if self._camera is not None else {}
        except DeviceError:  # not open
            return {}

    def configure(self) -> None:
        """Find the driver, declare its settings and make it; the device is opened by activation."""
        driver = cameras.DRIVERS.get(self.config.driver)
        options = parameters.declare(self, driver.config_class, self.config.driver).read()
        self._camera = driver(**parameters.as_options(options))
        self._camera.prepare()
        for name, kind, profile in (
            (topics.COLOR, Image, topics.IMAGE_PUBLISHER),
            (topics.COLOR_INFO, CameraInfo, topics.IMAGE_PUBLISHER),
            (topics.DEPTH, Image, topics.IMAGE_PUBLISHER),
            (topics.DEPTH_INFO, CameraInfo, topics.IMAGE_PUBLISHER),
            (topics.TRUE_SKELETONS, SkeletonArray, topics.SMALL),
        ):
            self._outputs[name] = self.create_lifecycle_publisher(kind, name, profile)

    def activate(self) -> None:
        """Open the device and start reading.

        Raises:
            DeviceError: There is no such camera or recording.
        """
        assert self._camera is not None
        self._camera.open()
        self._mount.publish(self._camera)
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
                # Wakes who waits for a camera that gives nothing, or a recording's long gap. Where the driver hangs,
                # closing it may hang too.
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

    def _close(self, camera: Camera) -> None:
        try:
            camera.close()
        except Exception as error:  # of any kind: the node reports it and stops
            self.fail(error)

    def cleanup(self) -> None:
        """Forgets the driver."""
        for publisher in self._outputs.values():
            self.destroy_lifecycle_publisher(publisher)
        self._outputs = {}
        self._camera = None

    def publish(self, frame: RgbdFrame) -> None:
        """Publish one frame; every message bears its stamp."""
        head = conversions.header(frame.stamp_ns, frame.frame_id)
        if frame.color is None:
            self._publish_joints(topics.SKELETONS, frame, head)
            return
        frame.check()
        # Color goes last: a subscriber that pairs the two has depth already and starts at once.
        info = conversions.intrinsics_to_info(frame.intrinsics, head)
        self._outputs[topics.COLOR_INFO].publish(info)
        if frame.depth is not None:
            self._outputs[topics.DEPTH_INFO].publish(info)
            self._outputs[topics.DEPTH].publish(conversions.depth_to_image(frame.depth, head))
        self._outputs[topics.COLOR].publish(conversions.color_to_image(frame.color, head))
        if frame.skeletons:
            self._publish_joints(topics.TRUE_SKELETONS, frame, head)

    def _publish_joints(self, topic: str, frame: RgbdFrame, head: Any) -> None:
        if topic not in self._outputs:
            # Only a source of joints alone publishes `skeletons`: with images that is the skeleton node's.
            self._outputs[topic] = self.create_lifecycle_publisher(SkeletonArray, topic, topics.SMALL)
            self._outputs[topic].on_activate(None)
        self._outputs[topic].publish(conversions.bodies_to_message(frame.skeletons, head))

    def _run(self, reading: _Reading) -> None:
        camera = self._camera
        assert camera is not None
        if self.start_after and not camera.live:
            self._await_listener(reading)
        while not reading.stop.is_set():
            try:
                frame = self._read(camera, reading)
            except Exception as error:  # a driver's fault of any kind must not end the thread unseen
                if reading.stop.is_set():
                    return
                if isinstance(error, EndOfStream):
                    self.get_logger().info(f"{error} (on_end: {self.config.on_end})")
                    self._end(0, reading)
                    return
                self.fail(error)
                if camera.live:
                    self._reopen(camera, reading)
                elif not isinstance(error, DeviceError):
                    self._end(1, reading)
                    return
            else:
                if reading.stop.is_set():  # it comes too late
                    return
                late, self._skipped = max(camera.skipped - self._skipped, 0), camera.skipped
                self.statistics.count("received", 1 + late)
                self.statistics.count("dropped", late)
                self._await_graph(joints_alone=frame.color is None)
                self._publish_counted(frame, reading)

    def _read(self, camera: Camera, reading: _Reading) -> RgbdFrame:
        reading.in_driver = True
        try:
            return camera.read(self.config.read_timeout_s)
        finally:
            reading.in_driver = False

    def _await_listener(self, reading: _Reading) -> None:
        """Wait until the subscribers have discovered this node's new publishers."""
        deadline = time.monotonic() + _LISTENER_S
        while not self._outputs[topics.COLOR].get_subscription_count() and time.monotonic() < deadline:
            if reading.stop.wait(0.01):
                return

    def _await_graph(self, joints_alone: bool) -> None:
        if self._flow is None:
            return
        ahead = self.config.joints_ahead if joints_alone else self.config.frames_ahead
        if not self._flow.wait(ahead - 1, joints_alone):
            self.complain("the graph does not answer: is the recognizer active? The recording goes on", "warning")

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
        pause = self.config.retry_s
        while not reading.stop.wait(pause):
            try:
                camera.close()
                camera.open()
            except Exception as error:  # as above
                if reading.stop.is_set():
                    return
                pause = min(2 * pause, self.config.retry_max_s)
                self.fail(DeviceError(f"{error} (next attempt in {pause:g} s)"))
            else:
                if reading.stop.is_set():  # the node has closed it meanwhile, in vain
                    self._close(camera)
                else:
                    self.get_logger().info(f"camera '{self.config.driver}' is back")
                return

    def _end(self, status: int, reading: _Reading) -> None:
        if self.config.on_end == "exit":
            self.finish(status)
        elif self.config.on_end == "deactivate" and self.executor is not None:
            # A recording of a frame or two ends before activation does, and only an active node can be deactivated.
            while not self.is_active and not reading.stop.wait(0.01):
                pass
            # Not from here: deactivation joins this thread.
            self.executor.create_task(self.trigger_deactivate)


def main() -> int:
    """Entry point of the executable `camera_node`."""
    return process.spin(CameraNode)
