"""From a RealSense in software to the label: the same as from the simulated camera that it looks through."""

import time

import pyrealsense2 as rs
import pytest
from actrec_msgs.msg import ActionLabel, SkeletonArray

from actrec.capture import realsense
from actrec.capture.simulated import SimulatedCamera
from actrec.frames import Intrinsics
from actrec_nodes import conversions, topics
from actrec_nodes.camera_node import CameraNode
from actrec_nodes.recognizer_node import RecognizerNode
from actrec_nodes.skeleton_node import SkeletonNode
from tests.core.capture.software_realsense import SoftwareRealSense
from tests.core.capture.two_views import TwoViews

pytestmark = pytest.mark.ros

FPS, SECONDS = 16, 7.0
START_NS = 1_700_000_000_000_000_000
STEP_NS = 1_000_000_000 // FPS
ACTION = "pick_up"
SIZES = {"realsense__width": 320, "realsense__height": 240, "realsense__depth_width": 424}


def frame_of(message) -> int:
    """The number of the frame that a message is about; librealsense's stamps are good to a quarter of a microsecond."""
    return round((conversions.stamp_to_ns(message.header.stamp) - START_NS) / STEP_NS)


@pytest.fixture
def labelled(ears, add):
    """Runs camera, skeleton and recognizer node; gives the labels by stamp and what waits for a frame's skeletons."""
    ears.listen(ActionLabel, topics.ACTION_LABEL)
    ears.listen(SkeletonArray, topics.SKELETONS)

    def run(feed, **camera):
        nodes = [add(RecognizerNode, model="deepacts_graph_nucla", interval_s=0.0), add(SkeletonNode)]
        nodes.append(add(CameraNode, on_end="stay", **camera))
        assert all(node.start() for node in nodes)
        ears.wait_for_subscribers(topics.COLOUR, 1)

        def seen(frame):
            return any(frame_of(message) == frame for message in ears.heard[topics.SKELETONS])

        feed(lambda frame: ears.wait(lambda: seen(frame)))
        last = int(FPS * SECONDS) - 1
        assert ears.wait(lambda: any(frame_of(message) == last for message in ears.heard[topics.ACTION_LABEL]))
        labels = {frame_of(message): message.label for message in ears.heard[topics.ACTION_LABEL]}
        for node in nodes:
            node.close()
        for heard in ears.heard.values():
            heard.clear()
        return labels

    return run


def test_the_same_labels_as_from_the_simulated_camera(labelled, monkeypatch):
    simulated = SimulatedCamera(width=320, height=240)
    views = TwoViews(
        simulated.intrinsics, Intrinsics(424, 240, 213.0, 213.5, 211.2, 121.7), actions=(ACTION,), distance=2.9
    )
    context = rs.context()
    monkeypatch.setattr(realsense, "open_context", lambda: context)
    device = SoftwareRealSense(views=views, fps=FPS)
    device.plug_into(context)

    def feed(wait):
        time.sleep(0.5)
        for k in range(int(FPS * SECONDS)):
            colour, _, depth = views.at(k / FPS)
            device.give(colour, depth, (START_NS + k * STEP_NS) / 1e6)
            assert wait(k), f"frame {k} got lost"

    ours = labelled(feed, driver="realsense", realsense__fps=FPS, read_timeout_s=10.0, **SIZES)
    theirs = labelled(
        lambda wait: None,
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
    shared = sorted(set(ours) & set(theirs))
    assert len(shared) > 0.9 * FPS * SECONDS
    same = [ours[k] == theirs[k] for k in shared]
    assert sum(same) >= 0.95 * len(same), "111 of 112 when it was written; depth is registered, and in steps"
    assert {"pick up with one hand", "pick up with two hands"} & set(ours.values())
