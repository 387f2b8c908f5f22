"""Labels of a software RealSense equal the labels of the simulated camera that renders its images."""

import itertools
import threading
import time

import pyrealsense2 as rs
import pytest
from actrec_msgs.msg import ActionLabel

from actrec.cameras.realsense import device as realsense_device
from actrec.cameras.simulated import SimulatedCamera
from actrec.types import Intrinsics
from actrec_nodes.camera_node import CameraNode
from actrec_nodes.common import conversions, topics
from actrec_nodes.perception_nodes import SkeletonNode
from actrec_nodes.recognizer_node import RecognizerNode
from tests.core.cameras.software_realsense import SoftwareRealSense
from tests.core.cameras.two_views import TwoViews

pytestmark = pytest.mark.ros

FPS, SECONDS = 16, 4.0
FRAMES = int(FPS * SECONDS)
START_NS = 1_700_000_000_000_000_000
STEP_NS = 1_000_000_000 // FPS
ACTION = "pick_up"
SIZES = {"realsense__width": 320, "realsense__height": 240, "realsense__depth_width": 424}


def frame_of(message) -> int:
    """Return the frame number of a message; librealsense's stamps have a resolution of 0.25 μs."""
    return round((conversions.stamp_to_ns(message.header.stamp) - START_NS) / STEP_NS)


class FrameByFrame:
    """A patch of a camera's `read`: each frame waits for the label of the frame before."""

    def __init__(self):
        self._started = threading.Event()
        self._wait = lambda frame: False

    def begin(self, wait):
        """Release the first frame; `wait` waits for the label of a frame."""
        self._wait = wait
        self._started.set()

    def read(self, original):
        """Return the replacement of the camera's method `read`."""
        numbers = itertools.count()

        def read(camera, timeout_s):
            number = next(numbers)
            assert self._started.wait(60.0) and (not number or self._wait(number - 1)), f"frame {number - 1} got lost"
            return original(camera, timeout_s)

        return read


@pytest.fixture
def labeled(peer, add):
    """Run camera, skeleton and recognizer node, and return the labels by frame.

    `feed` gets a function that waits for a frame's label, because a busy recognizer skips frames. So the
    frames run one by one.
    """
    peer.subscribe(ActionLabel, topics.ACTION_LABEL)

    def run(feed, **camera):
        nodes = [add(RecognizerNode, model="deepacts_graph_nucla", interval_s=0.0), add(SkeletonNode)]
        nodes.append(add(CameraNode, on_end="stay", **camera))
        assert all(node.start() for node in nodes)
        peer.wait_for_subscribers(topics.COLOR, 1)

        def has_label(frame):
            return any(frame_of(message) == frame for message in peer.received[topics.ACTION_LABEL])

        feed(lambda frame: peer.wait(lambda: has_label(frame)))
        assert peer.wait(lambda: has_label(FRAMES - 1))
        labels = {frame_of(message): message.label for message in peer.received[topics.ACTION_LABEL]}
        for node in nodes:
            node.close()
        peer.received[topics.ACTION_LABEL].clear()
        return labels

    return run


@pytest.mark.slow
def test_realsense_labels_equal_the_labels_of_the_simulated_camera(labeled, monkeypatch):
    simulated = SimulatedCamera(width=320, height=240)
    views = TwoViews(
        simulated.intrinsics, Intrinsics(424, 240, 213.0, 213.5, 211.2, 121.7), actions=(ACTION,), distance=2.9
    )
    context = rs.context()
    monkeypatch.setattr(realsense_device, "open_context", lambda: context)
    device = SoftwareRealSense(views=views, fps=FPS)
    device.plug_into(context)

    def feed(wait):
        time.sleep(0.5)
        for k in range(FRAMES):
            color, _, depth = views.at(k / FPS)
            device.send(color, depth, (START_NS + k * STEP_NS) / 1e6)
            assert wait(k), f"frame {k} got lost"

    labels = labeled(feed, driver="realsense", realsense__fps=FPS, read_timeout_s=10.0, **SIZES)
    frame_by_frame = FrameByFrame()
    monkeypatch.setattr(SimulatedCamera, "read", frame_by_frame.read(SimulatedCamera.read))
    simulated_labels = labeled(
        frame_by_frame.begin,
        driver="simulated",
        simulated__actions=[ACTION],
        simulated__fps=float(FPS),
        simulated__width=320,
        simulated__height=240,
        simulated__noise=False,
        simulated__realtime=False,
        simulated__duration=SECONDS,
        simulated__start_stamp_ns=START_NS,
    )
    common = sorted(set(labels) & set(simulated_labels))
    assert len(common) > 0.9 * FRAMES
    # The actor picks up with one hand close to the other: which of the two classes wins is a matter of millimeters.
    alike = dict.fromkeys(("pick up with one hand", "pick up with two hands"), "pick up")
    equal = [alike.get(labels[k], labels[k]) == alike.get(simulated_labels[k], simulated_labels[k]) for k in common]
    assert sum(equal) >= 0.95 * len(equal), "depth is registered and quantized"
    assert set(alike) & set(labels.values())
