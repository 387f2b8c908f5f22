"""The recognizer node with models that need more than skeletons: its subscriptions, and its reports of silence."""

import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from actrec_msgs.msg import ActionLabel

from actrec.features.clips import CAMERA
from actrec.features.specs import InputSpec
from actrec_nodes.common import conversions, topics
from tests.example_scene import ALL, BODY, CROP, FACE, FLOW, HANDS, MOTION, RATE_HZ, WINDOW, Scene
from tests.nodes.recognizer_graph import START_NS, TIMEOUT_S, Graph, Make
from tests.tiny_model import RAW, write_any

pytestmark = pytest.mark.ros

EVERY = (topics.SKELETONS, topics.HANDS, topics.FACE, topics.SCENE_FLOW, topics.COLOR, topics.COLOR_INFO)
NEEDS = {
    "joints": (BODY, {topics.SKELETONS}),
    "hands": (HANDS, {topics.SKELETONS, topics.HANDS}),
    "face": (FACE, {topics.SKELETONS, topics.FACE, topics.COLOR_INFO}),
    "motion": (MOTION, {topics.SKELETONS, topics.SCENE_FLOW, topics.COLOR_INFO}),
    "flow": (FLOW, {topics.SKELETONS, topics.SCENE_FLOW}),
    "crop": (CROP, {topics.SKELETONS, topics.COLOR}),
}


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene()


@pytest.fixture
def package(tmp_path: Path) -> Callable[..., str]:
    """Writes a package of these inputs, called after the first."""
    return lambda *specs: str(write_any(tmp_path / f"of_{specs[0].name}_{len(specs)}", specs, WINDOW).path)


class Feed:
    """Publishes frame after frame of the scene, each stream on its topic, at about the camera's rate."""

    def __init__(self, graph: Graph, scene: Scene, leave_out: tuple[str, ...] = ()):
        self.graph, self.scene, self.leave_out = graph, scene, leave_out
        self._numbers = itertools.count(1000)

    def publish(self) -> int:
        """One frame; its stamp in nanoseconds."""
        number = next(self._numbers)
        t, stamp_ns = number % len(self.scene.clip["color"]), START_NS + round(number * 1e9 / RATE_HZ)
        head = conversions.header(stamp_ns, "camera")
        small = CAMERA.resized(160, 120)
        messages = {
            topics.COLOR_INFO: lambda: conversions.intrinsics_to_info(CAMERA, head),
            topics.COLOR: lambda: conversions.color_to_image(self.scene.clip["color"][t], head),
            topics.SKELETONS: lambda: conversions.bodies_to_message(self.scene.bodies(t), head),
            topics.HANDS: lambda: conversions.hands_to_message(self.scene.hands(t), head),
            topics.FACE: lambda: conversions.faces_to_message(self.scene.faces(t), head),
            topics.SCENE_FLOW_INFO: lambda: conversions.intrinsics_to_info(small, head),
            topics.SCENE_FLOW: lambda: conversions.flow_to_image(self.scene.clip["flow"][t], head),
        }
        for topic, make in messages.items():
            if topic not in self.leave_out:
                self.graph.send(topic, make())
        return stamp_ns

    def until(self, condition: Callable[[], bool]) -> None:
        """Publishes until a condition holds."""
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            assert time.monotonic() < deadline, self.graph.node.last_error or "no error"
            self.publish()
            time.sleep(1 / RATE_HZ / 2)


def judged(graph: Graph, model: str = "", body_id: str = "body_1") -> list[ActionLabel]:
    """The labels for which the network was asked."""
    return [
        label
        for label in list(graph.labels)
        if label.top_labels and label.body_id == body_id and model in ("", label.model_name)
    ]


@pytest.mark.parametrize("need", NEEDS)
def test_recognizer_subscribes_to_the_streams_of_its_model(
    make: Make, scene: Scene, package: Callable[..., str], need: str
) -> None:
    spec, wanted = NEEDS[need]
    graph = make(model=package(spec))
    assert graph.start()
    for topic in EVERY:
        graph.wait_for_subscribers(topic, int(topic in wanted))
    Feed(graph, scene).until(lambda: len(judged(graph)) >= 3)
    assert graph.node.statistics.snapshot().failed == 0


def test_load_model_of_each_family_changes_the_streams(make: Make, scene: Scene, package: Callable[..., str]) -> None:
    graph = make(model=package(BODY))
    assert graph.start()
    feed = Feed(graph, scene)
    for specs in ([CROP], [FLOW, HANDS], ALL, [BODY, HANDS]):
        answer = graph.load_model(package(*specs))
        assert (answer.success, answer.message) == (True, "")
        wanted = set().union(*(topics_of for spec, topics_of in NEEDS.values() if spec in specs))
        if len(specs) == len(ALL):
            wanted = set(EVERY) - {topics.COLOR_INFO}  # the images have their size
        for topic in EVERY:
            graph.wait_for_subscribers(topic, int(topic in wanted))
        feed.until(lambda: len(judged(graph, answer.model_name)) >= 2)  # noqa: B023
    names = [label.model_name for label in judged(graph)]
    assert list(dict.fromkeys(names)) == ["of_body_crop_1", "of_flow_rgb_2", f"of_joints_{len(ALL)}", "of_joints_2"]


@pytest.mark.parametrize(
    ("need", "topic", "words"),
    [
        ("flow", topics.SCENE_FLOW, "waiting for scene flow on /scene_flow: is scene_flow_node active?"),
        ("crop", topics.COLOR, "waiting for color images on /camera/color/image_raw: is camera_node active?"),
    ],
)
def test_recognizer_reports_missing_streams(
    make: Make, scene: Scene, package: Callable[..., str], need: str, topic: str, words: str
) -> None:
    graph = make(model=package(NEEDS[need][0]), watchdog_s=0.5, startup_s=0.0)
    assert graph.start()
    feed = Feed(graph, scene, leave_out=(topic,))
    feed.until(lambda: words in graph.node.last_error and len(graph.labels) > 2)
    said = list(graph.labels)
    assert {label.label for label in said} == {"unknown"} and judged(graph) == []
    assert graph.node.statistics.snapshot().last_error == graph.node.last_error  # what diagnostics publish
    assert "\n" not in graph.node.last_error
    feed.leave_out = ()
    feed.until(lambda: bool(judged(graph)))


def test_recognizer_reports_absent_optional_streams(make: Make, scene: Scene, package: Callable[..., str]) -> None:
    graph = make(model=package(BODY, HANDS), watchdog_s=0.3, startup_s=0.0)
    assert graph.start()
    said: list[str] = []
    graph.node.complain = lambda line, level="error": said.append(line)  # type: ignore[method-assign]
    feed = Feed(graph, scene, leave_out=(topics.HANDS,))
    feed.until(lambda: "working without hands on /hands: is hand_node active?" in said and bool(judged(graph)))


def test_recognizer_streams_of_other_stamps_are_reported(make: Make, scene: Scene, package: Callable[..., str]) -> None:
    """Color images come, but none with a skeleton's stamp."""
    graph = make(model=package(CROP), watchdog_s=0.5, startup_s=0.0)
    assert graph.start()
    feed = Feed(graph, scene, leave_out=(topics.COLOR,))

    def missed() -> bool:
        head = conversions.header(feed.publish() + 20_000_000, "camera")
        graph.send(topics.COLOR, conversions.color_to_image(scene.clip["color"][0], head))
        return "labels are unknown: no color images match the stamps" in graph.node.last_error

    feed.until(missed)


def test_recognizer_bad_message_of_any_stream_is_one_line(
    make: Make, scene: Scene, package: Callable[..., str]
) -> None:
    graph = make(model=package(*ALL))
    assert graph.start()
    feed = Feed(graph, scene)
    feed.until(lambda: bool(judged(graph)))
    head = conversions.header(START_NS, "camera")
    image = conversions.color_to_image(scene.clip["color"][0], head)
    image.encoding = "bayer_rggb8"
    flow = conversions.flow_to_image(scene.clip["flow"][0], head)
    flow.encoding = "16UC1"
    hands = conversions.hands_to_message(scene.hands(0), head)
    hands.hands[0].side = "third"
    faces = conversions.faces_to_message(scene.faces(0), head)
    faces.faces[0].positions = faces.faces[0].positions[:7]
    for number, (topic, message, words) in enumerate(
        [
            (topics.COLOR, image, "image encoding 'bayer_rggb8' is not supported"),
            (topics.SCENE_FLOW, flow, "image encoding '16UC1' is not supported"),
            (topics.HANDS, hands, "expected left or right"),
            (topics.FACE, faces, "'body_1' has 7 positions"),
        ],
        start=1,
    ):
        graph.send(topic, message)
        graph.wait_until(lambda: graph.node.statistics.snapshot().failed == number)  # noqa: B023
        assert words in graph.node.last_error and "\n" not in graph.node.last_error
    before = len(judged(graph))
    feed.until(lambda: len(judged(graph)) > before + 3)


def test_recognizer_flow_without_camera_info_is_reported(make: Make, scene: Scene, package: Callable[..., str]) -> None:
    graph = make(model=package(FLOW))
    assert graph.start()
    feed = Feed(graph, scene, leave_out=(topics.SCENE_FLOW_INFO,))
    words = "scene flow is ignored: no camera_info on /scene_flow/camera_info"
    feed.until(lambda: words in graph.node.last_error)
    feed.leave_out = ()
    feed.until(lambda: bool(judged(graph)))


def test_recognizer_slow_network_takes_the_newest_frame(make: Make, scene: Scene, package: Callable[..., str]) -> None:
    graph = make(model=package(CROP))
    assert graph.start()
    feed = Feed(graph, scene)
    feed.until(lambda: bool(judged(graph)))
    recognizer = graph.node._recognizer
    assert recognizer is not None
    backend = recognizer.session.backend
    running, go, run = threading.Event(), threading.Event(), backend.run

    def slow(inputs: dict[str, np.ndarray]) -> np.ndarray:
        running.set()
        assert go.wait(TIMEOUT_S)
        return run(inputs)

    backend.run = slow  # type: ignore[method-assign]
    try:
        feed.until(running.is_set)
        seen, said = recognizer.counts.frames, len(judged(graph))
        feed.until(lambda: recognizer.counts.frames >= seen + 10)
        assert len(judged(graph)) <= said + 1, "messages in flight when the network stopped"
        last = feed.publish()
        graph.wait_until(lambda: recognizer._newest_ns == last)
    finally:
        go.set()
        backend.run = run  # type: ignore[method-assign]
    graph.wait(lambda: conversions.stamp_to_ns(graph.labels[-1].header.stamp) == last)
    assert recognizer.counts.skipped >= 9 and graph.node.statistics.snapshot().dropped == 0


def test_recognizer_model_of_hands_needs_no_skeletons(make: Make, scene: Scene, package: Callable[..., str]) -> None:
    graph = make(model=package(InputSpec("gesture", "body", "hand_22", (1, 3, WINDOW.frames, 22), "m", RAW)))
    assert graph.node.start()
    graph._thread.start()
    for topic in EVERY:
        graph.wait_for_subscribers(topic, int(topic == topics.HANDS))
    feed = Feed(graph, scene)
    feed.until(lambda: bool(judged(graph, body_id="body_1_left") and judged(graph, body_id="body_1_right")))
