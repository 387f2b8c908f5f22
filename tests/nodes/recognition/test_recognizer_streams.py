"""The recognizer node with models of more streams: subscriptions, and reports of missing streams."""

import argparse
import itertools
import shlex
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from actrec_msgs.msg import ActionLabel
from rclpy.parameter import Parameter

from actrec.cli import run as run_command
from actrec.features.clips import CAMERA
from actrec.features.specs import InputSpec, WindowSpec
from actrec.inference.package import load, write
from actrec.types import NANOSECONDS, Hand
from actrec.utils import gravity
from actrec_nodes.bringup.processes import Host, ros
from actrec_nodes.common import conversions, topics
from actrec_nodes.perception_nodes import SkeletonNode
from actrec_nodes.recognition.inputs import RecognizerInputs
from actrec_nodes.recognizer_node import RecognizerNode
from actrec_nodes.scene_flow_node import SceneFlowNode
from tests.example_scene import ALL, BODY, CROP, FACE, FLOW, HANDS, MOTION, RATE_HZ, WINDOW, Scene
from tests.nodes.recognizer_graph import START_NS, TIMEOUT_S, Graph, Make, body
from tests.tiny_model import RAW, write_any, write_tiny

pytestmark = pytest.mark.ros

EVERY = (topics.SKELETONS, topics.HANDS, topics.FACE, topics.SCENE_FLOW, topics.COLOR, topics.COLOR_INFO)
NEEDS = {
    "joints": (BODY, {topics.SKELETONS}),
    "hands": (HANDS, {topics.SKELETONS, topics.HANDS, topics.COLOR_INFO}),
    "face": (FACE, {topics.SKELETONS, topics.FACE, topics.COLOR_INFO}),
    "motion": (MOTION, {topics.SKELETONS, topics.SCENE_FLOW, topics.COLOR_INFO}),
    "flow": (FLOW, {topics.SKELETONS, topics.SCENE_FLOW}),
    "crop": (CROP, {topics.SKELETONS, topics.COLOR}),
}
GESTURE = InputSpec("gesture", "body", "hand_22", (1, 3, WINDOW.frames, 22), "m", RAW)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene()


@pytest.fixture
def package(tmp_path: Path) -> Callable[..., str]:
    """Return a function that writes a package of given inputs."""
    return lambda *specs: str(write_any(tmp_path / f"of_{specs[0].name}_{len(specs)}", specs, WINDOW).path)


class Feed:
    """A publisher of the scene's frames, at about the camera's rate, with a topic for each stream."""

    def __init__(self, graph: Graph, scene: Scene, without: tuple[str, ...] = ()):
        self.graph, self.scene, self.without = graph, scene, without
        self._numbers = itertools.count(1000)

    def publish(self) -> int:
        """Publish one frame and return its stamp in nanoseconds."""
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
            if topic not in self.without:
                self.graph.send(topic, make())
        return stamp_ns

    def until(self, condition: Callable[[], bool]) -> None:
        """Publish frames until a condition holds."""
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            assert time.monotonic() < deadline, self.graph.node.last_error or "no error"
            self.publish()
            time.sleep(1 / RATE_HZ / 2)


def predicted(graph: Graph, model: str = "", body_id: str = "body_1") -> list[ActionLabel]:
    """Return the labels with a prediction of the network."""
    return [
        label
        for label in list(graph.labels)
        if label.top_labels and label.body_id == body_id and model in ("", label.model_name)
    ]


@pytest.mark.parametrize("stream", NEEDS)
def test_recognizer_subscribes_to_the_streams_of_its_model(
    make: Make, scene: Scene, package: Callable[..., str], stream: str
) -> None:
    spec, expected = NEEDS[stream]
    graph = make(model=package(spec))
    assert graph.start()
    for topic in EVERY:
        graph.wait_for_subscribers(topic, int(topic in expected))
    Feed(graph, scene).until(lambda: len(predicted(graph)) >= 3)
    assert graph.node.statistics.snapshot().failed == 0


def test_load_model_of_each_family_changes_the_streams(make: Make, scene: Scene, package: Callable[..., str]) -> None:
    graph = make(model=package(BODY))
    assert graph.start()
    feed = Feed(graph, scene)
    for specs in ([CROP], [FLOW, HANDS], ALL, [BODY, HANDS]):
        response = graph.load_model(package(*specs))
        assert (response.success, response.message) == (True, "")
        expected = set().union(*(topics_of for spec, topics_of in NEEDS.values() if spec in specs))
        if len(specs) == len(ALL):
            expected = set(EVERY) - {topics.COLOR_INFO}  # the images give the size
        for topic in EVERY:
            graph.wait_for_subscribers(topic, int(topic in expected))
        feed.until(lambda: len(predicted(graph, response.model_name)) >= 2)  # noqa: B023
    names = [label.model_name for label in predicted(graph)]
    assert list(dict.fromkeys(names)) == ["of_body_crop_1", "of_flow_rgb_2", f"of_joints_{len(ALL)}", "of_joints_2"]


@pytest.mark.parametrize(
    ("stream", "topic", "error"),
    [
        (
            "flow",
            topics.SCENE_FLOW,
            "waiting for scene flow on /scene_flow: it has no publisher: start it: actrec run --nodes scene_flow",
        ),
        (
            "crop",
            topics.COLOR,
            "waiting for color images on /camera/color/image_raw: it has no publisher: is camera_node active?",
        ),
    ],
)
def test_recognizer_reports_missing_streams(
    make: Make, scene: Scene, package: Callable[..., str], stream: str, topic: str, error: str
) -> None:
    graph = make(model=package(NEEDS[stream][0]), watchdog_s=0.5, startup_s=0.0)
    assert graph.start()
    feed = Feed(graph, scene, without=(topic,))
    feed.until(lambda: error in graph.node.last_error and len(graph.labels) > 2)
    labels = list(graph.labels)
    assert {label.label for label in labels} == {"unknown"} and predicted(graph) == []
    assert graph.node.statistics.snapshot().last_error == graph.node.last_error  # the text of diagnostics
    assert "\n" not in graph.node.last_error
    feed.without = ()
    feed.until(lambda: bool(predicted(graph)))


@pytest.mark.slow
def test_recognizer_scene_flow_of_another_method_warns_until_the_remedy(
    make: Make, package: Callable[..., str], tmp_path: Path, host: Any, add: Any, capfd: Any
) -> None:
    """The parameters that the warning names, given to the real node of scene flow, end it."""
    with_flow = load(package(FLOW))
    trained = replace(with_flow.provenance, scene_flow={"method": "pd_flow", "height": 120})
    described = replace(with_flow, provenance=trained)
    graph = make(model=str(write(tmp_path / "flow", described, with_flow.read_onnx()).path), watchdog_s=0.1)
    assert graph.start()
    node = add(SceneFlowNode, statistics_period_s=0.1)
    assert host.start() is None
    read: list[str] = []

    def warnings() -> list[str]:
        read.append(capfd.readouterr().err)
        return [line for line in "".join(read).splitlines() if "trained with" in line]

    graph.wait_until(lambda: bool(warnings()))
    (line,) = warnings()
    assert "model flow: scene flow has method dis, trained with pd_flow and height 240, trained with 120" in line
    assert graph.node.figures()["warning"] in line
    node.close()
    with ros(line[line.index("--ros-args") :].split()) as context, Host(context) as other:
        other.add(SceneFlowNode(context=context, parameter_overrides=[Parameter("statistics_period_s", value=0.1)]))
        assert other.start() is None
        graph.wait_until(lambda: graph.node.figures()["warning"] == "")


def test_recognizer_warns_of_images_slower_than_the_models(make: Make, scene: Scene, tmp_path: Path) -> None:
    """Once, with both rates and the remedy, which holds: a package for this rate gives no warning."""
    fast = WindowSpec(WINDOW.seconds / 2, WINDOW.frames)
    graph = make(model=str(write_any(tmp_path / "fast", [CROP], fast).path), watchdog_s=0.1)
    lines: list[str] = []
    graph.node.warn = lines.append  # type: ignore[method-assign,assignment]
    assert graph.start()
    feed = Feed(graph, scene)
    feed.until(lambda: any("images differ" in line for line in lines))
    warned = next(line for line in lines if "images differ" in line)
    assert warned.startswith(f"model fast: frames come at {RATE_HZ:g} Hz, but the network takes images at"), warned
    assert f"only {WINDOW.frames // 2} of its {WINDOW.frames} images differ; use a source of" in warned
    feed.until(lambda: len(predicted(graph)) >= 3)
    assert sum("images differ" in line for line in lines) == 1
    response = graph.load_model(str(write_any(tmp_path / "right", [CROP], WINDOW).path))
    assert response.success
    feed.until(lambda: len(predicted(graph, response.model_name)) >= 3)
    assert sum("images differ" in line for line in lines) == 1


@pytest.mark.slow
def test_recognizer_strict_inputs_refuses_scene_flow_of_another_method_until_the_remedy(
    make: Make, scene: Scene, package: Callable[..., str], tmp_path: Path, host: Any, add: Any
) -> None:
    """No labels and an error with both values; with the method that it names, the same images are labeled."""
    with_flow = load(package(FLOW))
    trained = replace(with_flow.provenance, scene_flow={"method": "pd_flow", "height": 120, "rate": float(RATE_HZ)})
    described = replace(with_flow, provenance=trained)
    model = str(write(tmp_path / "flow", described, with_flow.read_onnx()).path)
    graph = make(model=model, watchdog_s=0.1, strict_inputs=True)
    assert graph.start()
    node = add(SceneFlowNode, statistics_period_s=0.1, height=120)
    assert host.start() is None
    feed = Feed(graph, scene)
    feed.until(lambda: "labels are unknown: model flow: scene flow has method dis" in graph.node.last_error)
    count = len(graph.labels)
    feed.until(lambda: len(graph.labels) > count + 3)
    assert {(label.label, len(label.top_labels)) for label in graph.labels[count:]} == {("unknown", 0)}
    assert "trained with pd_flow; start with --ros-args -p scene_flow_node:method:=pd_flow" in graph.node.last_error
    assert graph.node.statistics.snapshot().last_error == graph.node.last_error  # the text of diagnostics
    node.close()
    words = graph.node.last_error[graph.node.last_error.index("--ros-args") :].split()
    with ros([*words, "-p", "scene_flow_node:height:=120"]) as context, Host(context) as other:
        other.add(SceneFlowNode(context=context, parameter_overrides=[Parameter("statistics_period_s", value=0.1)]))
        assert other.start() is None
        count = len(predicted(graph))
        feed.until(lambda: len(predicted(graph)) > count + 3)


def test_recognizer_remedy_starts_the_node_with_the_recognizer_s_topics(context: Any, host: Any) -> None:
    remaps = ["-r", "__ns:=/robot", "-r", f"{topics.COLOR}:=/lens/image", "-r", f"{topics.SKELETONS}:=people"]
    recognizer = RecognizerNode(context=context, cli_args=["--ros-args", *remaps])
    host.add(recognizer)
    inputs = RecognizerInputs(recognizer, None, None)  # type: ignore[arg-type]
    remedy = inputs._remedy("hand_node")
    parser = argparse.ArgumentParser()
    run_command.add_arguments(parser)
    planned = run_command.plan(parser.parse_args(shlex.split(remedy.removeprefix("start it: actrec run"))))
    (spec,) = planned.specs
    hand = spec.load()(context=context, cli_args=["--ros-args", *planned.ros_args])
    host.add(hand)
    assert hand.get_fully_qualified_name() == "/robot/hand_node"
    for name in (topics.COLOR, topics.DEPTH, topics.SKELETONS, topics.HANDS):
        assert hand.resolve_topic_name(name) == recognizer.resolve_topic_name(name)
    assert inputs._remedy("hand_node") == "is hand_node active?"


def test_recognizer_reports_absent_optional_streams(make: Make, scene: Scene, package: Callable[..., str]) -> None:
    graph = make(model=package(BODY, HANDS), watchdog_s=0.3, startup_s=0.0)
    assert graph.start()
    lines: list[str] = []
    graph.node.complain = lambda line, level="error": lines.append(line)  # type: ignore[method-assign]
    feed = Feed(graph, scene, without=(topics.HANDS,))
    feed.until(
        lambda: (
            "working without hands on /hands: it has no publisher: start it: actrec run --nodes hand" in lines
            and bool(predicted(graph))
        )
    )


def test_recognizer_streams_of_other_stamps_are_reported(make: Make, scene: Scene, package: Callable[..., str]) -> None:
    """Color images arrive, but with other stamps than the skeletons."""
    graph = make(model=package(CROP), watchdog_s=0.5, startup_s=0.0)
    assert graph.start()
    feed = Feed(graph, scene, without=(topics.COLOR,))

    def send_other_stamp() -> bool:
        head = conversions.header(feed.publish() + 20_000_000, "camera")
        graph.send(topics.COLOR, conversions.color_to_image(scene.clip["color"][0], head))
        return "labels are unknown: no color images match the stamps" in graph.node.last_error

    feed.until(send_other_stamp)


def test_recognizer_bad_message_of_any_stream_is_one_line(
    make: Make, scene: Scene, package: Callable[..., str]
) -> None:
    graph = make(model=package(*ALL))
    assert graph.start()
    feed = Feed(graph, scene)
    feed.until(lambda: bool(predicted(graph)))
    head = conversions.header(START_NS, "camera")
    image = conversions.color_to_image(scene.clip["color"][0], head)
    image.encoding = "bayer_rggb8"
    flow = conversions.flow_to_image(scene.clip["flow"][0], head)
    flow.encoding = "16UC1"
    hands = conversions.hands_to_message(scene.hands(0), head)
    hands.hands[0].side = "third"
    faces = conversions.faces_to_message(scene.faces(0), head)
    faces.faces[0].positions = faces.faces[0].positions[:7]
    for number, (topic, message, error) in enumerate(
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
        assert error in graph.node.last_error and "\n" not in graph.node.last_error
    count = len(predicted(graph))
    feed.until(lambda: len(predicted(graph)) > count + 3)


def test_recognizer_flow_without_camera_info_is_reported(make: Make, scene: Scene, package: Callable[..., str]) -> None:
    graph = make(model=package(FLOW))
    assert graph.start()
    feed = Feed(graph, scene, without=(topics.SCENE_FLOW_INFO,))
    error = "scene flow is ignored: no camera_info on /scene_flow/camera_info"
    feed.until(lambda: error in graph.node.last_error)
    feed.without = ()
    feed.until(lambda: bool(predicted(graph)))


def test_recognizer_slow_network_takes_the_newest_frame(make: Make, scene: Scene, package: Callable[..., str]) -> None:
    graph = make(model=package(CROP))
    assert graph.start()
    feed = Feed(graph, scene)
    feed.until(lambda: bool(predicted(graph)))
    recognizer = graph.node._recognizer
    assert recognizer is not None
    backend = recognizer.session.backend
    running, resume, run = threading.Event(), threading.Event(), backend.run

    def run_blocked(inputs: dict[str, np.ndarray]) -> np.ndarray:
        running.set()
        assert resume.wait(TIMEOUT_S)
        return run(inputs)

    backend.run = run_blocked  # type: ignore[method-assign]
    try:
        feed.until(running.is_set)
        frame_count, label_count = recognizer.counts.frames, len(predicted(graph))
        feed.until(lambda: recognizer.counts.frames >= frame_count + 10)
        assert len(predicted(graph)) <= label_count + 1, "messages in flight when the network stopped"
        last = feed.publish()
        graph.wait_until(lambda: recognizer._newest_ns == last)
    finally:
        resume.set()
        backend.run = run  # type: ignore[method-assign]
    graph.wait(lambda: conversions.stamp_to_ns(graph.labels[-1].header.stamp) == last)
    assert recognizer.counts.skipped >= 9 and graph.node.statistics.snapshot().dropped == 0


def test_recognizer_model_of_hands_needs_no_skeletons(make: Make, scene: Scene, package: Callable[..., str]) -> None:
    graph = make(model=package(GESTURE))
    assert graph.node.start()
    graph._thread.start()
    for topic in EVERY:
        graph.wait_for_subscribers(topic, int(topic == topics.HANDS))
    feed = Feed(graph, scene)
    feed.until(lambda: bool(predicted(graph, body_id="body_1_left") and predicted(graph, body_id="body_1_right")))


def test_recognizer_people_without_a_direction_of_gravity_warns_until_it_is_known(make: Make, tmp_path: Path) -> None:
    graph = make(model=str(write_tiny(tmp_path / "tiny").path), watchdog_s=0.1)
    assert graph.start()

    def send(second: int, up: np.ndarray | None) -> str:
        head = conversions.header(START_NS + second * NANOSECONDS, "camera")
        graph.send(topics.SKELETONS, conversions.bodies_to_message([body(1.0)] if second else [], head, up))
        graph.wait_until(lambda: graph.node._inputs.newest is not None)
        graph.wait_until(lambda: graph.node._inputs.newest.stamp_ns == START_NS + second * NANOSECONDS)
        return str(graph.node.figures()["warning"])

    assert not any("as before a level camera" in send(second, None) for second in range(12))
    assert "-p skeleton_node:mount:=level" in send(12, None)
    assert send(13, gravity.parse_mount("level")) == ""


def test_recognizer_hands_without_a_direction_of_gravity_warns_until_the_remedy(
    make: Make, scene: Scene, package: Callable[..., str], capfd: Any
) -> None:
    """A person in view gives the direction within 10 s; the parameter that the warning names gives it to skeletons."""
    graph = make(model=package(GESTURE), watchdog_s=0.1)
    assert graph.node.start()
    graph._thread.start()
    graph.wait_for_subscribers(topics.HANDS, 1)
    seconds = itertools.count()

    def send(up: np.ndarray | None, hands: Sequence[Hand] = scene.hands(0)) -> int:
        number = next(seconds)
        head = conversions.header(START_NS + number * NANOSECONDS, "camera")
        graph.send(topics.HANDS, conversions.hands_to_message(hands, head, up))
        graph.wait_until(lambda: graph.node._inputs.newest is not None)
        graph.wait_until(lambda: graph.node._inputs.newest.stamp_ns == START_NS + number * NANOSECONDS)
        return number

    while send(None) < 10:
        assert graph.node._inputs.unleveled == ""
    assert send(None, []) == 11 and graph.node._inputs.unleveled == "", "no hands, nothing to label"
    send(None)
    lines: list[str] = []

    def is_logged() -> bool:  # which comes after `_warned`
        lines.extend(line for line in capfd.readouterr().err.splitlines() if "hands are labeled as before" in line)
        return bool(lines)

    graph.wait_until(is_logged)
    (line,) = lines
    assert graph.node.figures()["warning"] in line
    arguments = shlex.split(line[line.index("--ros-args") : line.index(", or with")])
    with ros(arguments) as context, Host(context) as other:
        other.add(node := SkeletonNode(context=context))
        assert other.start() is None
        assert node._perception.gravity.source == "setting"
        send(node._perception.gravity.up)
    assert graph.node.figures()["warning"] == ""
