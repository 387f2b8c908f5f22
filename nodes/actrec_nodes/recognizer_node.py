"""Labels what tracked people do: `skeletons` in, `action_label` out."""

import dataclasses
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from actrec_msgs.msg import ActionLabel, SkeletonArray
from actrec_msgs.srv import ListModels, LoadModel
from rclpy.clock import Clock, ClockType
from rclpy.parameter import Parameter
from rclpy.task import Future
from std_msgs.msg import String

from actrec import inference, zoo
from actrec.config import setting
from actrec.errors import DeviceError
from actrec.inference import Session
from actrec.recognition import LabelledWindow, RecognitionConfig, Recognizer
from actrec_nodes import conversions, params, process, qos, topics
from actrec_nodes.lifecycle import ActrecNode, one_line
from actrec_nodes.worker import Worker

CAPACITY = 5000
"""Messages that may wait: minutes of them, since feeding a window takes well under a millisecond."""


@dataclass(frozen=True)
class RecognizerConfig:
    """Which model, run by what. The backend's own settings are `<backend>.<setting>`."""

    model: str = setting("deepacts_graph_nucla", "Model package: the name of an installed one, or its folder.")
    backend: str = setting("auto", "What runs the network: a name in actrec.inference, or auto.")
    watchdog_s: float = setting(
        2.0, "Report an error when no skeletons come for this long; 0 for never.", unit="s", range=(0.0, 3600.0)
    )
    startup_s: float = setting(
        10.0, "After activation, how long the skeletons' first may take: estimators load.", unit="s", range=(0.0, 600.0)
    )


class RecognizerNode(ActrecNode[RecognizerConfig]):
    """Feeds every frame's skeletons to a `Recognizer` in a thread of its own and publishes what it says.

    When frames come faster than the network runs, each still enters its window, but only the newest is judged.
    """

    def __init__(self, **node_options: Any):
        super().__init__("recognizer_node", RecognizerConfig, **node_options)
        self._recognition = params.declare(self, RecognitionConfig)
        self._session: Session | None = None
        self._recognizer: Recognizer | None = None
        self._swap = threading.Lock()
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load_model")
        self._newest: SkeletonArray | None = None
        self._skipped = 0
        self._heard = False
        self._activated = 0.0
        self._worker: Worker[SkeletonArray] | None = None
        self._subscription: Any = None
        self._watchdog: Any = None
        self._labels: Any = None
        self._text: Any = None
        self.create_service(LoadModel, "~/load_model", self._on_load_model)
        self.create_service(ListModels, "~/list_models", self._on_list_models)

    def configure(self) -> None:
        """Loads the model and warms it up."""
        self._session = self._load(self.config.model)
        self._recognizer = Recognizer(self._session, **dataclasses.asdict(self._recognition.read()))
        self._labels = self.create_lifecycle_publisher(ActionLabel, topics.ACTION_LABEL, qos.SMALL)
        self._text = self.create_lifecycle_publisher(String, topics.ACTION_LABEL_TEXT, qos.SMALL)
        self.get_logger().info(f"model {self._session.package.name} on {self._session.backend.device}")

    def activate(self) -> None:
        """Subscribes, with windows that start anew."""
        with self._swap:
            assert self._session is not None
            self._recognizer = Recognizer(self._session, **dataclasses.asdict(self._recognition.read()))
        self._heard, self._skipped, self._activated = False, 0, time.monotonic()
        self._worker = Worker(self._work, self.fail, self.statistics, CAPACITY, age=self._age)
        self._worker.start(self.get_name())
        profile = qos.WINDOW_SUBSCRIBER
        self._subscription = self.create_subscription(SkeletonArray, topics.SKELETONS, self._on_skeletons, profile)
        if self.config.watchdog_s > 0:
            # A steady clock: it guards this machine's graph, whatever the simulated clock does.
            steady = Clock(clock_type=ClockType.STEADY_TIME)
            self._watchdog = self.create_timer(self.config.watchdog_s, self._on_watchdog, clock=steady)

    def deactivate(self) -> None:
        """Unsubscribes and stops the thread."""
        if self._watchdog is not None:
            self.destroy_timer(self._watchdog)
            self._watchdog = None
        if self._subscription is not None:
            self.destroy_subscription(self._subscription)
            self._subscription = None
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

    def wait_idle(self, timeout_s: float) -> bool:
        """As the base says."""
        worker = self._worker
        return worker is None or worker.wait_idle(timeout_s)

    def close(self) -> None:
        """Waits for a model that is being loaded, then stops and frees the rest."""
        self._loader.shutdown(wait=True, cancel_futures=True)
        super().close()

    def report(self) -> None:
        """Logs the recognizer's own figures beside the node's."""
        super().report()
        recognizer = self._recognizer
        if recognizer is not None and recognizer.counts.frames:
            counts = ", ".join(f"{name} {count}" for name, count in dataclasses.asdict(recognizer.counts).items())
            self.get_logger().info(f"model {recognizer.session.package.name}: {counts}")

    # -- skeletons to labels -------------------------------------------------------------------------------------------

    def _on_skeletons(self, message: SkeletonArray) -> None:
        self._heard = True
        self._newest = message
        if self._worker is not None:
            self._worker.put(message)

    def _work(self, message: SkeletonArray) -> None:
        stamp_ns = conversions.stamp_to_ns(message.header.stamp)
        bodies = conversions.message_to_bodies(message)
        with self._swap:
            if self._recognizer is None:
                return
            windows = self._recognizer.update(stamp_ns, bodies, predict=message is self._newest)
            skipped = self._recognizer.counts.skipped
        self.statistics.count("skipped", skipped - self._skipped)
        self._skipped = skipped
        for window in windows:
            self._publish(window, message.header.frame_id)

    def _publish(self, window: LabelledWindow, frame_id: str) -> None:
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

    def _age(self, message: SkeletonArray) -> float:
        return self.age(conversions.stamp_to_ns(message.header.stamp))

    def _on_watchdog(self) -> None:
        starting = (
            not self.statistics.snapshot().received and time.monotonic() - self._activated < self.config.startup_s
        )
        if not self._heard and not starting:
            topic = self.resolve_topic_name(topics.SKELETONS)
            self.fail(
                DeviceError(
                    f"no skeletons on {topic} for {self.config.watchdog_s:g} s, so there are no labels: "
                    "is skeleton_node active, and is the topic remapped right?"
                )
            )
        self._heard = False

    # -- models --------------------------------------------------------------------------------------------------------

    def _load(self, model: str) -> Session:
        name = inference.resolve(self.config.backend)
        settings = params.declare(self, inference.BACKENDS.get(name).config_class, name).read()
        return inference.load(model, name, **dataclasses.asdict(settings))

    async def _on_load_model(self, request: LoadModel.Request, response: LoadModel.Response) -> LoadModel.Response:
        """Loads in another thread, so that frames keep flowing; the executor returns here when it is done."""
        if self._session is None:
            response.message = "the recognizer has no model yet: set its parameter `model`, then configure it"
            return response
        loaded = Future(executor=self.executor)
        self._loader.submit(self._replace, request.package, loaded)
        response.message = await loaded
        response.success = not response.message
        session = self._session
        response.model_name = session.package.name if session else ""
        if response.success:
            self.set_parameters([Parameter("model", value=request.package)])
        return response

    def _replace(self, model: str, loaded: Future) -> None:
        """Loads `model` and swaps it in; `loaded` becomes an empty text or what went wrong."""
        problem = ""
        try:
            session = self._load(model)
            with self._swap:
                if self._recognizer is None:
                    raise DeviceError("the recognizer was cleaned up meanwhile: configure it with this model")
                self._recognizer.use(session)
                self._session = session
        except Exception as error:  # whatever it is, the old model goes on and the caller is told
            problem = one_line(error)
            self.complain(f"the loaded model stays: {problem}")
        else:
            self.get_logger().info(f"model {session.package.name} on {session.backend.device}")
        if self.executor is not None:
            # Through the executor, which it wakes.
            self.executor.create_task(loaded.set_result, problem)

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
