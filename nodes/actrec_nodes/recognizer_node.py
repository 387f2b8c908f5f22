"""The node `recognizer_node`: the streams that its model package takes to action labels."""

import dataclasses
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from actrec_msgs.msg import ActionEvent, ActionLabel, FaceArray, HandArray, SkeletonArray
from actrec_msgs.srv import ListModels, LoadModel
from rclpy.parameter import Parameter
from rclpy.task import Future
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String

from actrec import inference
from actrec.inference import zoo
from actrec.inference.session import Session
from actrec.recognition import ActionPrediction, ActionRecognizer, Counts, RecognitionConfig
from actrec.recognition.tracks import STREAM_NAMES
from actrec.types import NANOSECONDS, Intrinsics
from actrec.utils import gravity
from actrec.utils.config import setting
from actrec.utils.errors import ActrecError, DeviceError, InputError
from actrec_nodes.bringup.graph import GRAPH, find
from actrec_nodes.common import conversions, parameters, topics
from actrec_nodes.common.lifecycle import ActrecNode, Worker, one_line
from actrec_nodes.common.subscriptions import NO_PUBLISHER, Subscription, why_silent

FALLBACK = "onnxruntime"  # the backend that runs anywhere

CAPACITY = 5000
"""Length of the queue of frames. A frame in it is only a stamp, and only the newest is labeled."""

PUBLISHERS = {spec.stream: spec.name for spec in GRAPH if spec.stream} | {
    "bodies": "skeleton_node",
    "color": "camera_node",
}
"""Node that publishes each stream."""


@dataclass(frozen=True)
class RecognizerConfig:
    """Parameters of the recognizer node. The settings of a backend are `<backend>.<setting>`."""

    model: str = setting("joint_tcn_everyday", "Model package: a name in `actrec models`, or a folder.")
    backend: str = setting("auto", "Inference backend: onnxruntime, tensorrt or auto.")
    allow_fallback: bool = setting(False, "Use ONNX Runtime while an engine is built, or if the backend fails.")
    watchdog_s: float = setting(
        2.0, "Without a required stream for this long, report an error; 0 for never.", unit="s", range=(0.0, 3600.0)
    )
    startup_s: float = setting(
        10.0, "Time for the first message of a stream, while its publisher loads.", unit="s", range=(0.0, 600.0)
    )


@dataclass(frozen=True)
class Frame:
    """A frame that was added to the windows, with the last predictions of the tracks that ended."""

    stamp_ns: int
    frame_id: str
    ended: list[ActionPrediction]


class RecognizerInputs:
    """Subscriptions to the streams that a recognizer takes.

    Args:
        node: Owns the subscriptions and reports errors.
        recognizer: Receives the messages, in the callbacks.
        worker: Receives each frame that is to be labeled.

    Attributes:
        newest: The newest frame.
        scene_flow: Statistics of `scene_flow_node`, with the flow's method and height; empty until they arrive.
    """

    def __init__(self, node: ActrecNode[Any], recognizer: ActionRecognizer, worker: Worker[Frame]):
        self._node, self._recognizer, self._worker = node, recognizer, worker
        self._subscriptions: dict[str, Subscription] = {}
        self._opened: dict[str, float] = {}
        self._received: set[str] = set()
        self._ever_received: set[str] = set()
        self._intrinsics: Intrinsics | None = None
        self.scene_flow: dict[str, Any] = {}
        self._jumped = False
        self.newest: Frame | None = None

    def open(self) -> None:
        """Subscribe to the streams that the model takes, and unsubscribe from all others."""
        wanted = {name: entry for stream in self._recognizer.streams for name, entry in self._entries(stream).items()}
        if self._recognizer.needs_image_size:
            wanted[topics.COLOR_INFO] = (CameraInfo, self._on_color_info, topics.INFO_SUBSCRIBER)
        for name in [name for name in self._subscriptions if name not in wanted]:
            self._subscriptions.pop(name).close()
        for name, (kind, callback, profile) in wanted.items():
            if name not in self._subscriptions:
                self._opened[name] = time.monotonic()
                self._ever_received.discard(name)
                self._subscriptions[name] = Subscription(
                    self._node, kind, name, self._guarded(name, callback), profile, self._node.warn
                )

    def close(self) -> None:
        """Unsubscribe from everything."""
        while self._subscriptions:
            self._subscriptions.popitem()[1].close()

    def _entries(self, stream: str) -> dict[str, tuple[type, Callable[[Any], None], Any]]:
        """Return the message type, callback and QoS of each topic of a stream."""
        profile = topics.WINDOW_SUBSCRIBER if stream == self._recognizer.tracked_stream else topics.SMALL
        streams: dict[str, dict[str, tuple[type, Callable[[Any], None], Any]]] = {
            "bodies": {topics.SKELETONS: (SkeletonArray, self._on_skeletons, profile)},
            "hands": {topics.HANDS: (HandArray, self._on_hands, profile)},
            "face": {topics.FACE: (FaceArray, self._on_faces, profile)},
            "color": {topics.COLOR: (Image, self._on_color, topics.IMAGE_SUBSCRIBER)},
            "flow": {
                topics.SCENE_FLOW_STATISTICS: (String, self._on_flow_statistics, topics.LATCHED),
                topics.SCENE_FLOW_INFO: (CameraInfo, self._on_flow_info, topics.INFO_SUBSCRIBER),
                topics.SCENE_FLOW: (Image, self._on_flow, topics.IMAGE_SUBSCRIBER),
            },
        }
        return streams[stream]

    def _guarded(self, name: str, callback: Callable[[Any], None]) -> Callable[[Any], None]:
        def receive(message: Any) -> None:
            self._received.add(name)
            self._ever_received.add(name)
            try:
                callback(message)
            except Exception as error:  # one bad message must not stop the node, which reports it
                self._node.statistics.count("received")
                self._node.statistics.count("failed")
                self._node.fail(error)

        return receive

    def _on_skeletons(self, message: SkeletonArray) -> None:
        bodies, up = conversions.message_to_bodies(message), gravity.up_from_vector(message.up)
        self._put(message, self._recognizer.add_skeletons(_stamp_ns(message), bodies, up))

    def _on_hands(self, message: HandArray) -> None:
        hands, up = conversions.message_to_hands(message), gravity.up_from_vector(message.up)
        ended = self._recognizer.add_hands(_stamp_ns(message), hands, up)
        if self._recognizer.tracked_stream == "hands":
            self._put(message, ended)

    def _put(self, message: SkeletonArray | HandArray, ended: list[ActionPrediction]) -> None:
        back = 0 if self.newest is None else self.newest.stamp_ns - _stamp_ns(message)
        if back > 0 and not self._jumped:
            self._jumped = True  # warn once: a recording that loops does this again and again
            self._node.warn(
                f"stamps of {STREAM_NAMES[self._recognizer.tracked_stream]} jumped back by {back / NANOSECONDS:.1f} s "
                "(a recording that starts again, simulated time, or a clock that was set): windows restart"
            )
        self.newest = Frame(_stamp_ns(message), message.header.frame_id, ended)
        self._worker.put(self.newest)

    def _on_faces(self, message: FaceArray) -> None:
        self._recognizer.add_faces(_stamp_ns(message), conversions.message_to_faces(message))

    def _on_color(self, message: Image) -> None:
        self._recognizer.add_color(_stamp_ns(message), conversions.image_to_color(message))

    def _on_color_info(self, message: CameraInfo) -> None:
        self._recognizer.set_image_size(message.width, message.height)

    def _on_flow(self, message: Image) -> None:
        if self._intrinsics is None:
            topic = self._topic(topics.SCENE_FLOW_INFO)
            raise InputError(f"scene flow is ignored: no camera_info on {topic} so far; check its publisher")
        flow = conversions.image_to_flow(message)
        self._recognizer.add_scene_flow(_stamp_ns(message), flow, self._intrinsics)

    def _on_flow_statistics(self, message: String) -> None:
        self.scene_flow = json.loads(message.data)

    def _on_flow_info(self, message: CameraInfo) -> None:
        self._intrinsics = conversions.info_to_intrinsics(message)

    def silent(self, startup_s: float) -> dict[str, str]:
        """Return the streams without a message since the last call, each with a hint; `startup_s` for the first one."""
        now, found = time.monotonic(), {}
        for stream in self._recognizer.streams:
            topic, (kind, *_) = [*self._entries(stream).items()][-1]
            starting = topic not in self._ever_received and now - self._opened.get(topic, now) < startup_s
            if topic not in self._received and not starting:
                why = why_silent(self._node, self._topic(topic), kind)
                if why == NO_PUBLISHER or PUBLISHERS[stream] in why:
                    why = f"{why}: {self._remedy(PUBLISHERS[stream])}"
                found[stream] = f"{STREAM_NAMES[stream]} on {self._topic(topic)}: {why}"
        self._received.clear()
        return found

    def _remedy(self, publisher: str) -> str:
        """Return how to start the node that publishes a stream, or a question if it runs or is one of several."""
        if publisher == "camera_node" or publisher in self._node.get_node_names():
            return f"is {publisher} active?"
        space = self._node.get_namespace().rstrip("/")
        names = (*topics.CAMERA_TOPICS, topics.SKELETONS, *find(publisher).topics)
        remaps = {name: self._topic(name) for name in names if self._topic(name) != f"{space}/{name}"}
        remaps |= {"__ns": space} if space else {}
        words = "".join(f" -r {name}:={full}" for name, full in remaps.items())
        return f"start it: actrec run --nodes {find(publisher).switch}{words and f' --ros-args{words}'}"

    def _topic(self, topic: str) -> str:
        return str(self._node.resolve_topic_name(topic))


def _stamp_ns(message: Any) -> int:
    return conversions.stamp_to_ns(message.header.stamp)


class RecognizerNode(ActrecNode[RecognizerConfig]):
    """Adds messages to an `ActionRecognizer` in the callbacks and publishes its predictions from a worker thread.

    If frames arrive faster than the network runs, all of them enter the windows, but only the newest is labeled.
    """

    config_class = RecognizerConfig

    def __init__(self, **node_options: Any):
        super().__init__("recognizer_node", RecognizerConfig, **node_options)
        self._recognition = parameters.Parameters(self, RecognitionConfig)
        self._session: Session | None = None
        self._recognizer: ActionRecognizer | None = None
        self._swap = threading.Lock()
        self._cleaned = 0
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load_model")
        self._inputs: RecognizerInputs | None = None
        self._skipped = 0
        self._reason = ""
        self._warned: set[tuple[str, str]] = set()
        self._last_counts = Counts()
        self._fallback = ""
        self._closing = False
        self._labels: Any = None
        self._text: Any = None
        self._events: Any = None
        self.create_service(LoadModel, "~/load_model", self._on_load_model)
        self.create_service(ListModels, "~/list_models", self._on_list_models)

    def configure(self) -> None:
        """Load the model and warm it up."""
        self._fallback = ""
        self._session = self._load_first(self.config.model)
        self._recognizer = ActionRecognizer(self._session, **parameters.as_options(self._recognition.read()))
        self._labels = self.create_output(ActionLabel, topics.ACTION_LABEL)
        self._text = self.create_output(String, topics.ACTION_LABEL_TEXT)
        self._events = self.create_output(ActionEvent, topics.ACTION_EVENTS)
        self._log_model(self._session)

    def activate(self) -> None:
        """Subscribe and start with empty windows."""
        with self._swap:
            assert self._session is not None
            self._recognizer = ActionRecognizer(self._session, **parameters.as_options(self._recognition.read()))
        self._skipped, self._reason, self._last_counts, self._warned = 0, "", Counts(), set()
        worker = self.start_worker(self._work, lambda frame: frame.stamp_ns, CAPACITY)
        self._inputs = RecognizerInputs(self, self._recognizer, worker)
        self._inputs.open()
        self.start_timer(self.config.watchdog_s, self._on_watchdog)

    def deactivate(self) -> None:
        """Unsubscribe, and end all events."""
        inputs, self._inputs = self._inputs, None
        if inputs is not None:
            inputs.close()
            self._end_events(inputs)

    def cleanup(self) -> None:
        """Free the model."""
        with self._swap:
            self._session = self._recognizer = None
            self._cleaned += 1

    def figures(self) -> dict[str, float | str]:
        """Return the model, the device that it runs on, and the rate of its frames."""
        session, recognizer = self._session, self._recognizer
        if session is None or recognizer is None:
            return {}
        why = f" ({self._fallback})" if self._fallback else ""
        rates = {"live_rate_hz": recognizer.live_rate, "model_rate_hz": recognizer.model_rate}
        device = f"{session.backend.device}{why}"
        warning = "; ".join(filter(None, self._warnings(recognizer).values()))
        model = {"model": session.package.name, "package": str(session.package.path), "device": device}
        return {**model, **rates, "warning": warning}

    def close(self) -> None:
        """Wait for a model that is being loaded, or stop the build of its engine, then close the node."""
        self._closing = True
        self._loader.shutdown(wait=True, cancel_futures=True)
        super().close()

    def report(self) -> None:
        """Log the node's statistics and the recognizer's counters."""
        super().report()
        recognizer = self._recognizer
        if recognizer is not None and recognizer.counts.frames:
            counts = ", ".join(f"{name} {count}" for name, count in dataclasses.asdict(recognizer.counts).items())
            self.get_logger().info(f"model {recognizer.session.package.name}: {counts}")

    def _work(self, frame: Frame) -> None:
        recognizer, inputs = self._recognizer, self._inputs
        if recognizer is None or inputs is None:
            return
        # Ended tracks first: their last label must not stay valid even if the network fails.
        for prediction in frame.ended:
            self._publish(prediction, frame.frame_id)
        predictions = recognizer.predict() if frame is inputs.newest else []
        skipped = recognizer.counts.skipped
        self.statistics.count("skipped", skipped - self._skipped)
        self._skipped = skipped
        for prediction in predictions:
            self._publish(prediction, frame.frame_id)
        self._publish_events(recognizer, frame.frame_id)
        if predictions:
            self._reason = next((prediction.reason for prediction in predictions if prediction.reason), "")

    def _publish_events(self, recognizer: ActionRecognizer, frame_id: str) -> None:
        for event in recognizer.events():
            self._events.publish(conversions.event_to_message(event, frame_id))

    def _end_events(self, inputs: RecognizerInputs) -> None:
        """Publish the end of all events, as no more frames come."""
        recognizer, newest = self._recognizer, inputs.newest
        if recognizer is not None and newest is not None:
            recognizer.end_events()
            self._publish_events(recognizer, newest.frame_id)

    def _publish(self, prediction: ActionPrediction, frame_id: str) -> None:
        self._labels.publish(conversions.prediction_to_message(prediction, frame_id))
        self._text.publish(String(data=prediction.label))

    def _on_watchdog(self) -> None:
        inputs, recognizer = self._inputs, self._recognizer
        if inputs is None or recognizer is None:
            return
        needed, silent = recognizer.streams, inputs.silent(self.config.startup_s)
        # The model may have been replaced between the two calls.
        silent = {stream: words for stream, words in silent.items() if stream in needed}
        missing = [words for stream, words in silent.items() if needed[stream]]
        if recognizer.tracked_stream in silent:
            self._end_events(inputs)
        if missing:
            line = f"waiting for {' and for '.join(missing)}"
            self.fail(
                DeviceError(f"{line} (no message for {self.config.watchdog_s:g} s; labels are absent or unknown)")
            )
        elif trouble := self._trouble(recognizer) or (self._reason and f"labels are unknown: {self._reason}"):
            self.fail(DeviceError(trouble))
        for kind, warning in self._warnings(recognizer).items():
            if warning and (once := (kind, recognizer.session.package.name)) not in self._warned:
                self._warned.add(once)
                self.warn(warning)
        for stream, words in silent.items():
            if not needed[stream]:
                self.warn(f"working without {words}")

    def _warnings(self, recognizer: ActionRecognizer) -> dict[str, str]:
        """Return warnings about streams that differ from the model's training, empty if there are none, by subject."""
        inputs = self._inputs  # `deactivate` may run in another thread
        made = inputs.scene_flow if inputs is not None else {}
        package = recognizer.session.package
        other = package.provenance.other_flow(made)
        differ = " and ".join(f"{name} {made[name]}, trained with {value}" for name, value in other.items())
        remedy = " ".join(f"-p scene_flow_node:{name}:={value}" for name, value in other.items())
        flow = differ and f"model {package.name}: scene flow has {differ}; start with --ros-args {remedy}"
        return {"rate": recognizer.slow, "scene flow": flow}

    def _trouble(self, recognizer: ActionRecognizer) -> str:
        """Return the problem with the stamps received since the last call; empty if there is none."""
        now, before, stream = recognizer.counts, self._last_counts, STREAM_NAMES[recognizer.tracked_stream]
        self._last_counts = dataclasses.replace(now)
        frames, restarts = now.frames - before.frames, now.restarts - before.restarts
        if frames == 0 and now.duplicates > before.duplicates:
            return f"no labels: all {stream} have the same stamp; check the clock of their publisher"
        if restarts > 1 and 3 * restarts > frames:
            return (
                f"windows restart too often to be labeled: {stream} are more than max_gap_s "
                f"({recognizer.config.max_gap_s:g} s) apart, or stamps jump back (two publishers?)"
            )
        return ""

    def _load_first(self, model: str) -> Session:
        """Load the model; with `allow_fallback`, in ONNX Runtime until the backend has built its engine."""
        name = self._backend(model)
        kind = inference.BACKENDS.get(name)
        if not self.config.allow_fallback or name == FALLBACK or not hasattr(kind, "ready"):
            return self._load(model)
        try:
            if kind.ready(zoo.find(model), **self._options(name)):
                return self._load(model)
        except ActrecError as error:
            self._fallback = f"{name} cannot be used, {FALLBACK} runs instead: {one_line(error)}"
            self.warn(self._fallback)
            return self._load(model, FALLBACK)
        self.get_logger().info(f"{name} is building an engine; {FALLBACK} runs until it is ready")
        self._loader.submit(self._load_and_replace, model, None, self._cleaned)
        return self._load(model, FALLBACK)

    def _load(self, model: str, name: str = "") -> Session:
        name = name or self._backend(model)
        options = self._options(name)
        if not hasattr(inference.BACKENDS.get(name), "ready"):
            return inference.load(model, name, **options)
        began, reported = time.monotonic(), float("-inf")

        def building(phase: str, step: int, steps: int) -> None:
            nonlocal reported
            if self._closing:
                raise DeviceError("the node is shutting down")
            now = time.monotonic()
            self.busy = f"BUILDING an engine for {model}: {phase} {step}/{steps}, {now - began:.0f} s"
            if now - reported >= 1.0:  # the timer of the node does not run while it is configured
                reported = now
                self.report()
            self.warn(f"building an engine for {model}; this takes minutes, but only once")

        try:
            return inference.load(model, name, progress=building, **options)
        finally:
            self.busy = ""

    def _backend(self, model: str) -> str:
        return inference.resolve(self.config.backend, zoo.find(model))

    def _options(self, backend: str) -> dict[str, Any]:
        settings = parameters.Parameters(self, inference.BACKENDS.get(backend).config_class, backend).read()
        return dataclasses.asdict(settings)

    async def _on_load_model(self, request: LoadModel.Request, response: LoadModel.Response) -> LoadModel.Response:
        """Load in another thread, so that frames are still processed."""
        if self._session is None:
            response.message = "the recognizer has no model: set its parameter `model`, then configure it"
            return response
        loaded = Future(executor=self.executor)
        self._loader.submit(self._load_and_replace, request.package, loaded, self._cleaned)
        response.message = await loaded
        response.success = not response.message
        session = self._session
        response.model_name = session.package.name if session else ""
        if response.success:
            self.config = dataclasses.replace(self.config, model=request.package)
            self.set_parameters([Parameter("model", value=request.package)])
        return response

    def _load_and_replace(self, model: str, loaded: Future | None, cleaned: int) -> None:
        """Replace the model unless the node was cleaned up since; set `loaded` to an empty string or the error."""
        problem = ""
        try:
            session = self._load(model)
            with self._swap:
                if self._recognizer is None or cleaned != self._cleaned:
                    raise DeviceError(
                        "the recognizer was cleaned up while the model was loading: configure it with this model"
                    )
                self._recognizer.set_session(session)
                self._session = session
                self._reason = self._fallback = ""
        except Exception as error:  # the current model stays in use, and the caller gets the error
            problem = one_line(error)
            if loaded is None and cleaned == self._cleaned:
                self._fallback = problem
            self.complain(f"the model was not replaced: {problem}")
        else:
            self._log_model(session)
        if self.executor is not None:
            # Only the thread of the executor may change subscriptions.
            self.executor.create_task(self._loaded, problem, loaded)

    def _log_model(self, session: Session) -> None:
        recognizer = self._recognizer
        kind = "events" if recognizer is not None and recognizer.labels_events else "windows"
        self.get_logger().info(f"model {session.package.name} on {session.backend.device}, labels of {kind}")
        provenance = session.package.provenance
        if provenance.live_note and provenance.figures["live_accuracy"] < provenance.accuracy:
            self.get_logger().warning(f"model {session.package.name} was evaluated on {provenance.live_note}")
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
