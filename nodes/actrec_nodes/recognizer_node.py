"""The node `recognizer_node`: the streams that its model package takes to action labels."""

import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from actrec_msgs.msg import ActionEvent, ActionLabel
from actrec_msgs.srv import ListModels, LoadModel
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.parameter import Parameter
from rclpy.task import Future
from std_msgs.msg import String

from actrec import features, inference
from actrec.inference import zoo
from actrec.inference.session import Session
from actrec.inference.tensorrt.libraries import LIBRARIES
from actrec.recognition import ActionEvent as Event
from actrec.recognition import ActionPrediction, ActionRecognizer, Counts, RecognitionConfig
from actrec.recognition.tracks import STREAM_NAMES
from actrec.types import NANOSECONDS
from actrec.utils.config import setting
from actrec.utils.errors import AbortedError, DeviceError
from actrec_nodes.common import conversions, parameters, topics
from actrec_nodes.common.lifecycle import ActrecNode, one_line
from actrec_nodes.common.subscriptions import FOLLOW_S, Publishers
from actrec_nodes.common.tf import WAIT_S, TfPoses
from actrec_nodes.recognition.inputs import Frame, RecognizerInputs
from actrec_nodes.recognition.loading import ModelLoader
from actrec_nodes.recognition.staleness import Heartbeat, elapsed_ns
from actrec_nodes.recognition.wait_for_action import WaitForActionServer

SWAP_S = 1.0  # time of a prediction in progress to end when its model is replaced
DEAD_S = 0.5  # without frames for this long, a publisher whose liveliness is lost is dead

CLEANED_UP = "the recognizer was cleaned up while the model was loading: configure it with this model"

CAPACITY = 5000
"""Length of the queue of frames. A frame in it is only a stamp, and only the newest is labeled."""


@dataclass(frozen=True)
class RecognizerConfig:
    """Parameters of the recognizer node. The settings of a backend are `<backend>.<setting>`."""

    model: str = setting(zoo.DEFAULT, "Model package: a name in `actrec models`, or a folder.")
    backend: str = setting("auto", "Inference backend: onnxruntime, tensorrt, tensorrt_rtx or auto.")
    allow_fallback: bool = setting(False, "Use ONNX Runtime while an engine is built, or if the backend fails.")
    watchdog_s: float = setting(
        2.0, "Without a required stream for this long, report an error; 0 for never.", unit="s", range=(0.0, 3600.0)
    )
    stale_s: float = setting(
        2.0,
        "Frames older than this are not labeled. Without a new frame for this long, each person has one `unknown` with "
        "the reason, and its event ends; 0 for never.",
        unit="s",
        range=(0.0, 3600.0),
    )
    trusted_models: tuple[str, ...] = setting(
        (),
        "Folders from which models may be loaded, also by ~/load_model, with links resolved; empty for any folder.",
        read_only=True,
    )
    target_frame: str = setting(
        "", "Frame in which events have their position too, by TF; empty: in the camera's alone."
    )


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
        self._loader, self._requested = ModelLoader(self), ""
        self._inputs: RecognizerInputs | None = None
        self._skipped = 0
        self._reason = ""
        self._warned: set[tuple[str, str]] = set()
        self._last_counts = Counts()
        self._heartbeat = Heartbeat(RecognizerConfig.stale_s)
        self._publishing, self._publishing_events = threading.Lock(), threading.RLock()
        self._expired, self._stale_since_ns, self._stale_line = 0, 0, ""
        self._inference_s, self._valid_for_s = 0.0, 0.0
        self._configured: dict[str, Any] = {}
        self._predicting_ns = self._slow_ns = 0  # begin of the prediction in progress, and of the last one reported
        self._labels: Any = None
        self._text: Any = None
        self._events: Any = None
        self._tf: TfPoses | None = None
        self._waits = WaitForActionServer(self)
        self._second_publishers = Publishers(self)
        # A service that awaits holds its callback group: in the node's own, inputs would wait for the model, and in
        # an exclusive one the request that ends the load of a wrong model.
        self.create_service(LoadModel, "~/load_model", self._on_load_model, callback_group=ReentrantCallbackGroup())
        self.create_service(
            ListModels, "~/list_models", self._on_list_models, callback_group=MutuallyExclusiveCallbackGroup()
        )

    @classmethod
    def preload(cls, value: Callable[[str], Any]) -> None:
        """Import ONNX Runtime and the installed TensorRT back ends, read the model package, and import its features."""
        for name in (inference.FALLBACK, *(name for name, library in LIBRARIES.items() if library.is_installed)):
            inference.BACKENDS.get(name)
        features.streams(zoo.find(value("model") or RecognizerConfig.model).inputs)

    def configure(self) -> None:
        """Load the model and warm it up."""
        if self.config.target_frame:
            self._tf = TfPoses(self, "parameter target_frame", "leave target_frame empty")
        cleaned, self._requested, configured = self._cleaned, self.config.model, threading.Event()

        def replace(model: str) -> None:
            configured.wait()
            self._load_and_replace(model, None, cleaned)

        try:
            self._session = self._loader.load_first(self.config.model, replace)
            self._configure_recognition(self._session)
        finally:
            configured.set()
        self._log_model(self._session)

    def _configure_recognition(self, session: Session) -> None:
        settings, stale_s = self._recognition.read(), self.config.stale_s
        self._configured = parameters.as_options(settings)
        self._recognizer = ActionRecognizer(session, **self._configured)
        self._valid_for_s = stale_s + settings.interval_s if stale_s else 0.0
        self._labels = self.create_output(ActionLabel, topics.ACTION_LABEL, deadline_s=self._valid_for_s)
        self._text = self.create_output(String, topics.ACTION_LABEL_TEXT)
        self._events = self.create_output(ActionEvent, topics.ACTION_EVENTS)

    def activate(self) -> None:
        """Subscribe and start with empty windows."""
        with self._swap:
            assert self._session is not None
            self._recognizer = ActionRecognizer(self._session, **self._configured)
        self._skipped, self._reason, self._last_counts, self._warned = 0, "", Counts(), set()
        worker = self.start_worker(self._work, lambda frame: frame.stamp_ns, CAPACITY)
        stale_s = self.config.stale_s
        self._stale_since_ns, self._inference_s = 0, 0.0
        self._heartbeat = Heartbeat(stale_s)
        self._inputs = RecognizerInputs(self, self._recognizer, worker, stale_s, self._on_heartbeat)
        self._inputs.open()
        self._waits.start(self._session.package.name, self._session.package.labels)
        self.start_timer(self.config.watchdog_s, self._on_watchdog)
        self.start_timer(self._heartbeat.period_s, self._on_heartbeat)
        self.start_timer(FOLLOW_S, self._inputs.renew_if_deaf)

    def deactivate(self) -> None:
        """Unsubscribe, and end all events."""
        inputs, self._inputs = self._inputs, None
        if inputs is not None:
            inputs.close()
            self._end_events(inputs)
        self._waits.stop()

    def cleanup(self) -> None:
        """Free the model."""
        if self._tf is not None:
            self._tf.close()
            self._tf = None
        self._loader.end_loads(CLEANED_UP)
        with self._swap:
            self._session = self._recognizer = None
            self._cleaned += 1

    def figures(self) -> dict[str, float | str]:
        """Return the model, the device that it runs on, and the rate of its frames."""
        session, recognizer = self._session, self._recognizer
        if session is None or recognizer is None:
            return {}
        why = f" ({self._loader.fallback})" if self._loader.fallback else ""
        rates = {"live_rate_hz": recognizer.live_rate, "model_rate_hz": recognizer.model_rate}
        device = f"{session.backend.device}{why}"
        warning = "; ".join(filter(None, self._warnings(recognizer).values()))
        model = {"model": session.package.name, "package": str(session.package.path), "device": device}
        return {**model, **rates, "warning": warning}

    def close(self) -> None:
        """End the load of a model, or the build of its engine, then close the node."""
        self._loader.close()
        super().close()

    def interrupt(self) -> None:
        """End the prediction in progress."""
        if (session := self._session) is not None:
            session.abort()

    def answer_clients(self) -> None:
        """Abort the goals of clients."""
        self._waits.end()

    def destroy_node(self) -> None:
        """Destroy the action server, which rclpy keeps, and the node."""
        self._waits.destroy()
        super().destroy_node()

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
        self._publish(frame.ended, frame.frame_id)
        if self._tf is not None:
            self._tf.follow(frame.stamp_ns)
        expired, began, labels = self._expired, time.monotonic(), list[ActionLabel]()
        try:
            predictions = self._predict(recognizer, inputs, frame) if frame is inputs.newest else []
            skipped = recognizer.counts.skipped
            self.statistics.count("skipped", skipped - self._skipped)
            self._skipped = skipped
            with self._publishing:
                taken_s = time.monotonic() - began
                if predictions and (expired != self._expired or not self._is_in_time(inputs, frame, taken_s)):
                    predictions = []  # of a frame that is stale by now
                labels = self._publish(predictions, frame.frame_id)
        finally:  # also while the network fails, events end and people leave
            self._waits.add_labels(labels, [prediction.body_id for prediction in frame.ended])
            self._publish_events(recognizer, frame.frame_id)
        if predictions:
            self._reason = next((prediction.reason for prediction in predictions if prediction.reason), "")

    def _predict(self, recognizer: ActionRecognizer, inputs: RecognizerInputs, frame: Frame) -> list[ActionPrediction]:
        """Label the newest frame, unless it is stale already."""
        age_s, stale_s = inputs.ages.known_age_s(frame.arrival, self._heartbeat.paused_within), self.config.stale_s
        if 0 < stale_s < age_s:
            self.statistics.count("stale")
            self.warn(f"frames that are {age_s:.1f} s old are not labeled (stale_s): this or an earlier node was late")
            return []
        self._predicting_ns = began_ns = elapsed_ns()
        try:
            return recognizer.predict()
        except AbortedError:  # the node stops, or the model was replaced
            return []
        finally:
            self._predicting_ns, self._inference_s = 0, (elapsed_ns() - began_ns) / NANOSECONDS

    def _is_in_time(self, inputs: RecognizerInputs, frame: Frame, taken_s: float) -> bool:
        """Return whether a frame is not stale after its prediction, but for a network that is as slow as that."""
        stale_s = self.config.stale_s
        if not stale_s or inputs.ages.known_age_s(frame.arrival, self._heartbeat.paused_within) <= stale_s:
            return True
        if self._heartbeat.paused_within(taken_s):
            self.statistics.count("stale")
            return False
        if taken_s > stale_s:
            self.warn(f"labels come {taken_s:.1f} s after their frames, as the network is slow: their age is stated")
        return True

    def _on_heartbeat(self) -> None:
        """Publish once that the labels are stale, if frames have stopped; and that they come again."""
        inputs, recognizer, stale_s = self._inputs, self._recognizer, self.config.stale_s
        if inputs is None or recognizer is None or not stale_s:
            return
        paused_s = self._heartbeat.beat()
        inputs.follow()
        silence_s, period_s = inputs.silence_s, self._heartbeat.period_s
        if self._stale_since_ns:
            if inputs.advanced_ns > self._stale_since_ns:
                self._end_staleness()
            else:
                self.statistics.error(self._stale_line)
        elif silence_s >= stale_s - period_s or (inputs.have_died and silence_s >= min(DEAD_S, stale_s / 2)):
            paused = f"{self.get_name()} did not run for {paused_s:.1f} s"
            self._expire(recognizer, inputs, paused if paused_s else f"{inputs.why_stopped()} ({silence_s:.1f} s)")
        began_ns = self._predicting_ns
        taken_s = (elapsed_ns() - began_ns) / NANOSECONDS if began_ns not in (0, self._slow_ns) else 0.0
        if taken_s > stale_s + self._inference_s and not self._stale_since_ns:
            self._slow_ns = began_ns
            self._publish_unknown(recognizer, inputs, f"the network has run for {taken_s:.1f} s without a result")

    def _end_staleness(self) -> None:
        """Withdraw the error: frames come again."""
        self._stale_since_ns = 0
        if self.last_error == self._stale_line:
            self.last_error = ""
        self.statistics.clear_error()
        self.get_logger().info("frames come again")
        self.report()

    def _expire(self, recognizer: ActionRecognizer, inputs: RecognizerInputs, reason: str) -> None:
        """Publish one `unknown` for each person, the end of each event, and the error."""
        self._stale_since_ns, self._stale_line = elapsed_ns(), f"labels are unknown: {reason}"
        with self._publishing:
            self._expired += 1  # the label of a prediction in progress is not published after this
        self._publish_unknown(recognizer, inputs, reason)

    def _publish_unknown(self, recognizer: ActionRecognizer, inputs: RecognizerInputs, reason: str) -> None:
        frame_id = inputs.newest.frame_id if inputs.newest is not None else ""
        with self._publishing:
            labels = self._publish(recognizer.expire(reason), frame_id, last=True)
        self._waits.add_labels(labels)
        self._publish_events(recognizer, frame_id)
        self.fail(DeviceError(f"labels are unknown: {reason}"))
        self.report()

    def _publish_events(self, recognizer: ActionRecognizer, frame_id: str) -> None:
        def message(event: Event) -> ActionEvent:
            return conversions.event_to_message(event, frame_id, *self._in_target_frame(event, frame_id))

        with self._publishing_events:  # of two threads, none overtakes the other
            events = recognizer.events()
            self._waits.add_events(events, recognizer.present_events, message)
            for event in events:
                self._events.publish(message(event))

    def _in_target_frame(self, event: Event, frame_id: str) -> tuple[str, Sequence[float]]:
        """Return the target frame and the position of an event in it, m; an empty name if it has none."""
        frame = self.config.target_frame
        if self._tf is None:
            return "", conversions.NOWHERE
        try:
            pose = self._tf.pose(frame, frame_id, event.stamp_ns, WAIT_S, follows=False)
        except DeviceError as error:
            self.warn(f"an event has no position in target_frame, because TF does not have it: {error}")
            return "", conversions.NOWHERE
        return frame, pose[:3, :3] @ event.position + pose[:3, 3]

    def _end_events(self, inputs: RecognizerInputs) -> None:
        """Publish the end of all events, as no more frames come."""
        recognizer, newest = self._recognizer, inputs.newest
        if recognizer is not None and newest is not None:
            recognizer.end_events()
            self._publish_events(recognizer, newest.frame_id)

    def _publish(self, predictions: Sequence[ActionPrediction], frame_id: str, last: bool = False) -> list[ActionLabel]:
        """Publish labels; the `last` ones hold until others come."""
        inputs, valid_for_s = self._inputs, 0.0
        if not last and self._valid_for_s:
            valid_for_s = self._valid_for_s + self._inference_s
        messages = []
        for prediction in predictions:
            age_s = inputs.ages.age_of_stamp_s(prediction.stamp_ns) if inputs is not None else 0.0
            messages.append(conversions.prediction_to_message(prediction, frame_id, age_s, valid_for_s))
        for message in messages:
            self._labels.publish(message)
            self._text.publish(String(data=message.label))
        return messages

    def _on_watchdog(self) -> None:
        inputs, recognizer = self._inputs, self._recognizer
        if inputs is None or recognizer is None:
            return
        needed, silent = recognizer.streams, inputs.silent()
        # The model may have been replaced between the two calls.
        silent = {stream: found for stream, found in silent.items() if stream in needed}
        if recognizer.tracked_stream in silent:
            self._end_events(inputs)
            if self._stale_since_ns:
                del silent[recognizer.tracked_stream]  # reported already
        missing = [found for stream, found in silent.items() if needed[stream]]
        if missing:
            line = f"waiting for {' and for '.join(words for words, _ in missing)}"
            line = f"{line} (no message for {self.config.watchdog_s:g} s; labels are absent or unknown)"
            self.wait_for_input(line, max(waited_s for _, waited_s in missing))
        else:
            self.end_waiting()
            if trouble := self._trouble(recognizer) or (self._reason and f"labels are unknown: {self._reason}"):
                self.fail(DeviceError(trouble))
        for kind, warning in self._warnings(recognizer).items():
            if warning and (once := (kind, recognizer.session.package.name)) not in self._warned:
                self._warned.add(once)
                self.warn(warning)
        for stream, (words, waited_s) in silent.items():
            if not needed[stream] and waited_s >= self.startup_s:
                self.warn(f"working without {words}")

    def _warnings(self, recognizer: ActionRecognizer) -> dict[str, str]:
        """Return warnings about streams that differ from the model's training, and a second graph, by subject."""
        outputs = topics.ACTION_LABEL, topics.HANDS if recognizer.tracked_stream == "hands" else topics.SKELETONS
        second = next(filter(None, map(self._second_publishers.rivals, outputs)), "")
        unleveled = self._inputs.unleveled if self._inputs is not None else ""
        return {
            "rate": recognizer.slow, "scene flow": recognizer.other_flow(), "gravity": unleveled, "publishers": second
        }  # fmt: skip

    def _trouble(self, recognizer: ActionRecognizer) -> str:
        """Return the problem with the stamps received since the last call; empty if there is none."""
        now, before, stream = recognizer.counts, self._last_counts, STREAM_NAMES[recognizer.tracked_stream]
        self._last_counts = dataclasses.replace(now)
        since = Counts(frames=now.frames - before.frames, restarts=now.restarts - before.restarts)
        if since.frames == 0 and now.duplicates > before.duplicates:
            return f"no labels: all {stream} have the same stamp; check the clock of their publisher"
        return since.describe_restarts(recognizer.tracked_stream, recognizer.config.max_gap_s)

    async def _on_load_model(self, request: LoadModel.Request, response: LoadModel.Response) -> LoadModel.Response:
        """Load in another thread, so that frames are still processed. The newest request ends the load of others."""
        if self._session is None:
            response.message = "the recognizer has no model: set its parameter `model`, then configure it"
            return response
        loaded = Future(executor=self.executor)
        if request.package != self._requested:  # a client that asks again must not restart the build of an engine
            self._loader.end_loads(f"a newer request came, for {request.package}")
        self._requested = request.package
        self._loader.submit(self._load_and_replace, request.package, loaded, self._cleaned)
        response.message = await loaded
        response.success = not response.message
        session = self._session
        response.model_name = session.package.name if session else ""
        if response.success:
            self.config = dataclasses.replace(self.config, model=request.package)
            self.set_parameters([Parameter("model", value=request.package)])
            self.report()  # its supervisor starts the node again with this model
        return response

    def _load_and_replace(self, model: str, loaded: Future | None, cleaned: int) -> None:
        """Replace the model unless the node was cleaned up since; set `loaded` to an empty string or the error."""
        problem = ""
        try:
            session = self._loader.load(model)
            with self._swap:
                if self._recognizer is None or cleaned != self._cleaned:
                    raise DeviceError(CLEANED_UP)
                self._recognizer.set_session(session)
                before, self._session = self._session, session
                self._reason = self._loader.fallback = ""
            if before is not None:  # a slow network must not delay the labels of the new one
                abort = threading.Timer(SWAP_S, before.abort)
                abort.daemon = True
                abort.start()
            self._waits.replace_model(session.package.name, session.package.labels)
        except Exception as error:  # the current model stays in use, and the caller gets the error
            problem = one_line(error)
            if loaded is None and cleaned == self._cleaned:
                self._loader.fallback = problem
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
        if not session.package.rejection.threshold and session.package.rejection.background is None:
            self.get_logger().warning(f"model {session.package.name} {session.package.rejection.note}")

    def _loaded(self, problem: str, loaded: Future | None) -> None:
        if self._inputs is not None and not problem:
            self._inputs.open()
        if loaded is not None:
            loaded.set_result(problem)

    async def _on_list_models(self, _request: ListModels.Request, response: ListModels.Response) -> ListModels.Response:
        """Read the packages in another thread: their files are large, and frames are still processed."""
        listed = Future(executor=self.executor)

        def done(entries: list[zoo.InstalledPackage]) -> None:
            if (executor := self.executor) is not None:
                executor.create_task(listed.set_result, entries)

        self._loader.list(done)
        entries = await listed
        response.names = [entry.name for entry in entries]
        response.paths = [str(entry.path) for entry in entries]
        session = self._session
        response.loaded = session.package.name if session else ""
        return response
