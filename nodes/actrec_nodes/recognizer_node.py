"""Labels what tracked people do: `skeletons` and whatever else its model needs in, `action_label` out.

The recognizer's ears: it subscribes to what its model needs, and knows which of it is silent.
"""

import dataclasses
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from actrec_msgs.msg import ActionLabel, FaceArray, HandArray, SkeletonArray
from actrec_msgs.srv import ListModels, LoadModel
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.task import Future
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String

from actrec import inference
from actrec.inference import zoo
from actrec.inference.session import Session
from actrec.recognition.labels import Counts, LabeledWindow, RecognitionConfig
from actrec.recognition.recognizer import Recognizer
from actrec.recognition.streams import WORDS
from actrec.types import Body, Intrinsics
from actrec.utils.config import setting
from actrec.utils.errors import ActrecError, DeviceError, InputError
from actrec_nodes.bringup import process
from actrec_nodes.common import conversions, parameters, topics
from actrec_nodes.common.lifecycle import ActrecNode, one_line
from actrec_nodes.common.worker import Worker


@dataclass(frozen=True)
class Frame:
    """One frame that is in the windows.

    Attributes:
        stamp_ns, frame_id: Of its message.
        endings: What is to be said of bodies that have left.
    """

    stamp_ns: int
    frame_id: str
    endings: list[LabeledWindow]


SOURCES: dict[str, tuple[str, str]] = {
    "bodies": (topics.SKELETONS, "skeleton_node"),
    "hands": (topics.HANDS, "hand_node"),
    "face": (topics.FACE, "face_node"),
    "flow": (topics.SCENE_FLOW, "scene_flow_node"),
    "color": (topics.COLOR, "camera_node"),
}
"""Stream to its topic and the node that publishes it."""


class Inputs:
    """Subscriptions to the streams that a recognizer needs; what comes is given to it at once, in the callback.

    Args:
        node: Holds the subscriptions.
        recognizer: Is given what comes.
        on_frame: Called with each frame that is to be labeled.
        on_error: Called with what went wrong with a message.
    """

    def __init__(
        self,
        node: Node,
        recognizer: Recognizer,
        on_frame: Callable[[Frame], None],
        on_error: Callable[[Exception], None],
    ):
        self._node, self._recognizer = node, recognizer
        self._on_frame, self._on_error = on_frame, on_error
        self._subscriptions: dict[str, Any] = {}
        self._opened: dict[str, float] = {}
        self._heard: set[str] = set()
        self._ever_heard: set[str] = set()
        self._intrinsics: Intrinsics | None = None

    # -- subscriptions -------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Subscribes to what the model needs and is not subscribed yet; drops what it does not need."""
        wanted = {name: entry for stream in self._recognizer.streams for name, entry in self._entries(stream).items()}
        if self._recognizer.needs_size:
            wanted[topics.COLOR_INFO] = (CameraInfo, self._on_size, topics.IMAGE_SUBSCRIBER)
        for name in [name for name in self._subscriptions if name not in wanted]:
            self._node.destroy_subscription(self._subscriptions.pop(name))
        for name, (kind, callback, profile) in wanted.items():
            if name not in self._subscriptions:
                self._opened[name] = time.monotonic()
                self._ever_heard.discard(name)
                self._subscriptions[name] = self._node.create_subscription(
                    kind, name, self._guarded(name, callback), profile
                )

    def close(self) -> None:
        """Unsubscribes from everything."""
        for subscription in self._subscriptions.values():
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()

    def _entries(self, stream: str) -> dict[str, tuple[type, Callable[[Any], None], Any]]:
        """Topic to message type, callback and quality of service."""
        subject = stream == self._recognizer.subject
        profile = topics.WINDOW_SUBSCRIBER if subject else topics.SMALL
        if stream == "bodies":
            return {topics.SKELETONS: (SkeletonArray, self._on_skeletons, profile)}
        if stream == "hands":
            return {topics.HANDS: (HandArray, self._on_hands, profile)}
        if stream == "face":
            return {topics.FACE: (FaceArray, self._on_faces, profile)}
        if stream == "color":
            return {topics.COLOR: (Image, self._on_color, topics.IMAGE_SUBSCRIBER)}
        return {
            topics.SCENE_FLOW_INFO: (CameraInfo, self._on_flow_info, topics.IMAGE_SUBSCRIBER),
            topics.SCENE_FLOW: (Image, self._on_flow, topics.IMAGE_SUBSCRIBER),
        }

    def _guarded(self, name: str, callback: Callable[[Any], None]) -> Callable[[Any], None]:
        def receive(message: Any) -> None:
            self._heard.add(name)
            self._ever_heard.add(name)
            try:
                callback(message)
            except Exception as error:  # one bad message must not silence the node, which reports it
                self._on_error(error)

        return receive

    # -- callbacks -----------------------------------------------------------------------------------------------------

    def _on_skeletons(self, message: SkeletonArray) -> None:
        self._frame(message, conversions.message_to_bodies(message))

    def _on_hands(self, message: HandArray) -> None:
        hands = conversions.message_to_hands(message)
        if self._recognizer.subject == "hands":
            self._frame(message, hands)
        else:
            self._recognizer.add_hands(conversions.stamp_to_ns(message.header.stamp), hands)

    def _frame(self, message: SkeletonArray | HandArray, bodies: list[Any]) -> None:
        found: list[Body] = bodies
        stamp_ns = conversions.stamp_to_ns(message.header.stamp)
        endings = self._recognizer.observe(stamp_ns, found)
        self._on_frame(Frame(stamp_ns, message.header.frame_id, endings))

    def _on_faces(self, message: FaceArray) -> None:
        faces = conversions.message_to_faces(message)
        self._recognizer.add_faces(conversions.stamp_to_ns(message.header.stamp), faces)

    def _on_color(self, message: Image) -> None:
        color = conversions.image_to_color(message)
        self._recognizer.add_color(conversions.stamp_to_ns(message.header.stamp), color)

    def _on_flow(self, message: Image) -> None:
        if self._intrinsics is None:
            raise InputError(f"scene flow without its camera_info on {self._name(topics.SCENE_FLOW_INFO)} is left out")
        flow = conversions.image_to_flow(message)
        self._recognizer.add_flow(conversions.stamp_to_ns(message.header.stamp), flow, self._intrinsics)

    def _on_flow_info(self, message: CameraInfo) -> None:
        self._intrinsics = conversions.info_to_intrinsics(message)

    def _on_size(self, message: CameraInfo) -> None:
        self._recognizer.set_size(message.width, message.height)

    # -- silence -------------------------------------------------------------------------------------------------------

    def silent(self, startup_s: float) -> dict[str, str]:
        """What has not been heard since the last call, in words, by stream.

        Args:
            startup_s: How long a stream's first message may take after subscribing.
        """
        now, found = time.monotonic(), {}
        for stream in self._recognizer.streams:
            topic, publisher = SOURCES[stream]
            starting = topic not in self._ever_heard and now - self._opened.get(topic, now) < startup_s
            if topic not in self._heard and not starting:
                found[stream] = f"{WORDS[stream]} on {self._name(topic)}: is {publisher} active?"
        self._heard.clear()
        return found

    def _name(self, topic: str) -> str:
        return str(self._node.resolve_topic_name(topic))


FALLBACK = "onnxruntime"
"""The backend that runs anywhere."""

CAPACITY = 5000
"""Frames that may wait to be labeled; each is but a stamp, and all but the newest are passed over."""


@dataclass(frozen=True)
class RecognizerConfig:
    """Which model, run by what. The backend's own settings are `<backend>.<setting>`."""

    model: str = setting("deepacts_graph_nucla", "Model package: the name of an installed one, or its folder.")
    backend: str = setting("auto", "What runs the network: a name in actrec.inference, or auto.")
    allow_fallback: bool = setting(
        False, "Run in ONNX Runtime while the backend's engine is built, and where the backend cannot be used."
    )
    watchdog_s: float = setting(
        2.0,
        "Report an error when something that the model needs does not come for this long; 0 for never.",
        unit="s",
        range=(0.0, 3600.0),
    )
    startup_s: float = setting(
        10.0, "How long the first message of an input may take: estimators load.", unit="s", range=(0.0, 600.0)
    )


class RecognizerNode(ActrecNode[RecognizerConfig]):
    """Feeds what comes to a `Recognizer` at once, and publishes what it says from a thread of its own.

    When frames come faster than the network runs, each still enters its window, but only the newest is judged.
    """

    def __init__(self, **node_options: Any):
        super().__init__("recognizer_node", RecognizerConfig, **node_options)
        self._recognition = parameters.declare(self, RecognitionConfig)
        self._session: Session | None = None
        self._recognizer: Recognizer | None = None
        self._swap = threading.Lock()
        self._cleaned = 0
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load_model")
        self._inputs: Inputs | None = None
        self._newest: Frame | None = None
        self._skipped = 0
        self._reason = ""
        self._told = Counts()
        self._fallback = ""
        self._closing = False
        self._worker: Worker[Frame] | None = None
        self._watchdog: Any = None
        self._labels: Any = None
        self._text: Any = None
        self.create_service(LoadModel, "~/load_model", self._on_load_model)
        self.create_service(ListModels, "~/list_models", self._on_list_models)

    def configure(self) -> None:
        """Loads the model and warms it up."""
        self._fallback = ""
        self._session = self._first(self.config.model)
        self._recognizer = Recognizer(self._session, **dataclasses.asdict(self._recognition.read()))
        self._labels = self.create_lifecycle_publisher(ActionLabel, topics.ACTION_LABEL, topics.SMALL)
        self._text = self.create_lifecycle_publisher(String, topics.ACTION_LABEL_TEXT, topics.SMALL)
        self._tell(self._session)

    def activate(self) -> None:
        """Subscribes, with windows that start anew."""
        with self._swap:
            assert self._session is not None
            self._recognizer = Recognizer(self._session, **dataclasses.asdict(self._recognition.read()))
        self._skipped, self._reason, self._told = 0, "", Counts()
        self._worker = Worker(self._work, self.fail, self.statistics, CAPACITY, age=lambda f: self.age(f.stamp_ns))
        self._worker.start(self.get_name())
        self._inputs = Inputs(self, self._recognizer, self._on_frame, self._on_bad_message)
        self._inputs.open()
        if self.config.watchdog_s > 0:
            # A steady clock: it guards this machine's graph, whatever the simulated clock does.
            steady = Clock(clock_type=ClockType.STEADY_TIME)
            self._watchdog = self.create_timer(self.config.watchdog_s, self._on_watchdog, clock=steady)

    def deactivate(self) -> None:
        """Unsubscribes and stops the thread."""
        if self._watchdog is not None:
            self.destroy_timer(self._watchdog)
            self._watchdog = None
        if self._inputs is not None:
            self._inputs.close()
            self._inputs = None
        if self._worker is not None:
            self._worker.stop()
            self._worker = None
        self._newest = None

    def cleanup(self) -> None:
        """Frees the model."""
        for publisher in (self._labels, self._text):
            if publisher is not None:
                self.destroy_lifecycle_publisher(publisher)
        self._labels = self._text = None
        with self._swap:
            self._session = self._recognizer = None
            self._cleaned += 1

    def figures(self) -> dict[str, str]:
        """Which model runs on what."""
        session = self._session
        if session is None:
            return {}
        why = f" ({self._fallback})" if self._fallback else ""
        return {"model": session.package.name, "device": f"{session.backend.device}{why}"}

    def wait_idle(self, timeout_s: float) -> bool:
        """As the base says."""
        worker = self._worker
        return worker is None or worker.wait_idle(timeout_s)

    def close(self) -> None:
        """Waits for a model that is being loaded, ends an engine's build, then stops and frees the rest."""
        self._closing = True
        self._loader.shutdown(wait=True, cancel_futures=True)
        super().close()

    def report(self) -> None:
        """Logs the recognizer's own figures beside the node's."""
        super().report()
        recognizer = self._recognizer
        if recognizer is not None and recognizer.counts.frames:
            counts = ", ".join(f"{name} {count}" for name, count in dataclasses.asdict(recognizer.counts).items())
            self.get_logger().info(f"model {recognizer.session.package.name}: {counts}")

    # -- frames to labels ----------------------------------------------------------------------------------------------

    def _on_frame(self, frame: Frame) -> None:
        self._newest = frame
        if self._worker is not None:
            self._worker.put(frame)

    def _on_bad_message(self, error: Exception) -> None:
        self.statistics.count("received")
        self.statistics.count("failed")
        self.fail(error)

    def _work(self, frame: Frame) -> None:
        recognizer = self._recognizer
        if recognizer is None:
            return
        # First those that have left: whatever becomes of the others, nobody is to believe their last label any more.
        for window in frame.endings:
            self._publish(window, frame.frame_id)
        windows = recognizer.judge() if frame is self._newest else []
        skipped = recognizer.counts.skipped
        self.statistics.count("skipped", skipped - self._skipped)
        self._skipped = skipped
        for window in windows:
            self._publish(window, frame.frame_id)
        if windows:
            self._reason = next((window.reason for window in windows if window.reason), "")

    def _publish(self, window: LabeledWindow, frame_id: str) -> None:
        self._labels.publish(
            ActionLabel(
                header=conversions.header(window.stamp_ns, frame_id),
                body_id=window.body_id,
                label=window.label,
                class_id=window.class_id,
                confidence=window.confidence,
                top_labels=list(window.top_labels),
                top_probabilities=list(window.top_probabilities),
                window_start=conversions.ns_to_stamp(window.window_start_ns),
                model_name=window.model_name,
            )
        )
        self._text.publish(String(data=window.label))

    def _on_watchdog(self) -> None:
        inputs, recognizer = self._inputs, self._recognizer
        if inputs is None or recognizer is None:
            return
        needed, silent = recognizer.streams, inputs.silent(self.config.startup_s)
        # A model that was exchanged between the two needs others.
        silent = {stream: words for stream, words in silent.items() if stream in needed}
        missing = [words for stream, words in silent.items() if needed[stream]]
        if missing:
            line = f"waiting for {' and for '.join(missing)}"
            self.fail(DeviceError(f"{line} (nothing for {self.config.watchdog_s:g} s: no labels, or unknown ones)"))
        elif trouble := self._trouble(recognizer) or (self._reason and f"labels are unknown: {self._reason}"):
            self.fail(DeviceError(trouble))
        for stream, words in silent.items():
            if not needed[stream]:
                self.complain(f"working without {words}", "warning")

    def _trouble(self, recognizer: Recognizer) -> str:
        """What is wrong with the stamps that came since the last call, in words; empty for nothing."""
        now, before, words = recognizer.counts, self._told, WORDS[recognizer.subject]
        self._told = dataclasses.replace(now)
        frames, restarts = now.frames - before.frames, now.restarts - before.restarts
        if frames == 0 and now.duplicates > before.duplicates:
            return f"no labels: {words} come, but all with one stamp: does the clock of their publisher run?"
        if restarts > 1 and 3 * restarts > frames:
            return (
                f"windows start anew again and again, too short to judge: {words} come more than max_gap_s "
                f"({recognizer.config.max_gap_s:g} s) apart, or stamps jump back (two publishers?)"
            )
        return ""

    # -- models --------------------------------------------------------------------------------------------------------

    def _first(self, model: str) -> Session:
        """The model on the backend; with `allow_fallback` on another one at once, if this one would take minutes."""
        name = self._backend(model)
        kind = inference.BACKENDS.get(name)
        if not self.config.allow_fallback or name == FALLBACK or not hasattr(kind, "ready"):
            return self._load(model)
        try:
            if kind.ready(zoo.find(model), **self._options(name)):
                return self._load(model)
        except ActrecError as error:
            self._fallback = f"{name} cannot be used, {FALLBACK} goes on: {one_line(error)}"
            self.complain(self._fallback, "warning")
            return self._load(model, FALLBACK)
        self.get_logger().info(f"{name} builds its engine; until then {FALLBACK} labels")
        self._loader.submit(self._replace, model, None, self._cleaned)
        return self._load(model, FALLBACK)

    def _load(self, model: str, name: str = "") -> Session:
        name = name or self._backend(model)
        options = self._options(name)
        if not hasattr(inference.BACKENDS.get(name), "ready"):
            return inference.load(model, name, **options)
        began, told = time.monotonic(), float("-inf")

        def building(phase: str, step: int, steps: int) -> None:
            nonlocal told
            if self._closing:
                raise DeviceError("the node ends")
            now = time.monotonic()
            self.busy = f"BUILDING an engine for {model}: {phase} {step}/{steps}, {now - began:.0f} s"
            if now - told >= 1.0:  # while the node is configured, its own timer stands still
                told = now
                self.report()
            self.complain(f"building an engine for {model}, this takes minutes, once", "warning")

        try:
            return inference.load(model, name, progress=building, **options)
        finally:
            self.busy = ""

    def _backend(self, model: str) -> str:
        return inference.resolve(self.config.backend, zoo.find(model))

    def _options(self, backend: str) -> dict[str, Any]:
        settings = parameters.declare(self, inference.BACKENDS.get(backend).config_class, backend).read()
        return dataclasses.asdict(settings)

    async def _on_load_model(self, request: LoadModel.Request, response: LoadModel.Response) -> LoadModel.Response:
        """Loads in another thread, so that frames keep flowing; the executor returns here when it is done."""
        if self._session is None:
            response.message = "the recognizer has no model yet: set its parameter `model`, then configure it"
            return response
        loaded = Future(executor=self.executor)
        self._loader.submit(self._replace, request.package, loaded, self._cleaned)
        response.message = await loaded
        response.success = not response.message
        session = self._session
        response.model_name = session.package.name if session else ""
        if response.success:
            self.config = dataclasses.replace(self.config, model=request.package)
            self.set_parameters([Parameter("model", value=request.package)])
        return response

    def _replace(self, model: str, loaded: Future | None, cleaned: int) -> None:
        """Loads `model` and swaps it in; `loaded` becomes an empty text or what went wrong, where anybody waits.

        A node that has been cleaned up since, more often than `cleaned` times, may be configured with another model.
        """
        problem = ""
        try:
            session = self._load(model)
            with self._swap:
                if self._recognizer is None or cleaned != self._cleaned:
                    raise DeviceError("the recognizer was cleaned up meanwhile: configure it with this model")
                self._recognizer.use(session)
                self._session = session
                self._reason = self._fallback = ""
        except Exception as error:  # whatever it is, the old model goes on and the caller is told
            problem = one_line(error)
            if loaded is None and cleaned == self._cleaned:
                self._fallback = problem
            self.complain(f"the loaded model stays: {problem}")
        else:
            self._tell(session)
        if self.executor is not None:
            # Through the executor, which it wakes, and whose thread alone may change subscriptions.
            self.executor.create_task(self._loaded, problem, loaded)

    def _tell(self, session: Session) -> None:
        self.get_logger().info(f"model {session.package.name} on {session.backend.device}")
        provenance = session.package.provenance
        if provenance.live_note and provenance.figures["live_accuracy"] < provenance.accuracy:
            self.get_logger().warning(f"model {session.package.name} was judged on {provenance.live_note}")
        if not session.package.rejection.threshold:
            self.get_logger().warning(f"model {session.package.name} {session.package.rejection.note}")

    def _loaded(self, problem: str, loaded: Future | None) -> None:
        if self._inputs is not None and not problem:
            self._inputs.open()
        if loaded is not None:
            loaded.set_result(problem)

    def _on_list_models(self, _request: ListModels.Request, response: ListModels.Response) -> ListModels.Response:
        entries = [entry for entry in zoo.list_packages() if entry.package is not None]
        response.names = [entry.name for entry in entries]
        response.paths = [str(entry.path) for entry in entries]
        session = self._session
        response.loaded = session.package.name if session else ""
        return response


def main() -> int:
    """Entry point of the executable `recognizer_node`."""
    return process.spin(RecognizerNode)
