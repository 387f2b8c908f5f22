"""Recognition of the people in recorded frames, as fast as they are read and without ROS."""

import contextlib
import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from actrec import inference, scene_flow
from actrec.inference import zoo
from actrec.perception.pipeline import BodyPerception, FacePerception, HandPerception, People
from actrec.recognition.events import ActionEvent
from actrec.recognition.recognizer import ActionPrediction, ActionRecognizer
from actrec.recognition.tracks import check_without_color
from actrec.recordings import MOUNT_OPTION
from actrec.scene_flow import identity
from actrec.scene_flow.stream import FlowPairs, SceneFlowConfig
from actrec.types import RgbdFrame
from actrec.utils import gravity
from actrec.utils.errors import ConfigError, InputError


@dataclass(frozen=True)
class LabeledFrame:
    """A frame with its people and their labels.

    Attributes:
        frame: The frame.
        people: The tracked bodies, and their hands and faces if the model takes them.
        labels: The newest prediction of each tracked person, by body id; without an id for hands alone.
        predictions: The predictions that were made at this frame, one a person every `interval_s`.
        events: The events that began or ended at this frame.
    """

    frame: RgbdFrame
    people: People
    labels: dict[str, ActionPrediction]
    predictions: list[ActionPrediction]
    events: list[ActionEvent]


class OfflineRecognizer(contextlib.AbstractContextManager["OfflineRecognizer", None]):
    """Perception and recognition of successive frames; a context manager.

    Hands, faces and scene flow are computed for models that take them. Frames without depth
    have joints of the estimator's own size, placed by the intrinsics.

    Args:
        model: Name or folder of a model package.
        backend: Where all networks run, as for `actrec.inference.load`.
        has_depth: Whether frames have depth.
        has_color: Whether frames have color; else they have recorded joints.
        threads: CPU threads of each network of perception.
        mount_option: How the user sets the camera's mounting, for warnings.
        settings: Fields of `RecognitionConfig`.

    Attributes:
        recognizer: Of the labels.
        flow_device: Device of the scene flow in one line, see `scene_flow.device_line`; empty without scene flow.

    Raises:
        ConfigError: A setting is unknown, or the frames lack color or depth that the model requires.
        PackageError: There is no such model, or it is damaged.
    """

    def __init__(
        self,
        model: str = zoo.DEFAULT,
        backend: str = "auto",
        has_depth: bool = True,
        has_color: bool = True,
        threads: int = 1,
        mount_option: str = MOUNT_OPTION,
        **settings: Any,
    ):
        session = inference.load(model, backend)
        self.recognizer = ActionRecognizer(session, **settings)
        streams = self.recognizer.streams
        if not has_color:
            check_without_color(session.package.name, streams)
        if streams.get("flow") and not has_depth:
            raise ConfigError(
                f"model {session.package.name} requires scene flow, which needs depth, and the frames have none: use a "
                f"recording with depth, or another model such as {zoo.DEFAULT}"
            )
        own: dict[str, Any] = {"threads": threads, "backend": backend}
        self._bodies = BodyPerception(mount_option, **own)
        self._hands = HandPerception(**own) if "hands" in streams else None
        self._faces = FacePerception(**own) if "face" in streams else None
        self._takes_color = "color" in streams
        self._flow: FlowPairs | None = None
        self.flow_device = ""
        if "flow" in streams and has_depth:
            trained = session.package.provenance.scene_flow
            config = SceneFlowConfig(**{name: trained[name] for name in identity.SETTINGS if name in trained})
            method = scene_flow.create(config.method)
            self.flow_device = scene_flow.device_line(config.method, method)
            self._flow = FlowPairs(method, config)
            self.recognizer.set_scene_flow(config.identity)
        self._labels: dict[str, ActionPrediction] = {}
        self._slow = self._other_flow = ""
        self._unleveled = 0  # frames with people whose direction of gravity was unknown

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the networks of perception."""
        for part in (self._bodies, self._hands, self._faces):
            if part is not None:
                part.close()

    def find_gravity(self, frames: Iterable[RgbdFrame]) -> None:
        """Estimate the direction of gravity from the first people in a recording, before its frames are processed.

        Otherwise it is unknown for the first seconds, in which the camera counts as level.
        """
        self._bodies.find_gravity(frames)

    def process(self, frame: RgbdFrame) -> LabeledFrame:
        """Return the people in a frame and their labels. A frame without color has its own skeletons as bodies.

        Raises:
            InputError: The frame contradicts its intrinsics, or, with `strict_inputs`, the scene flow the training's.
        """
        recognizer, stamp = self.recognizer, frame.stamp_ns
        people, up = self._find(frame)
        recognizer.set_image_size(frame.intrinsics.width, frame.intrinsics.height)
        if self._takes_color and frame.color is not None:
            recognizer.add_color(stamp, frame.color)
        if self._flow is not None and (flow := self._flow.add(frame)) is not None:
            recognizer.add_scene_flow(flow.stamp_ns, flow.velocity, flow.intrinsics)
            self._other_flow = recognizer.other_flow(identity.PREPARED) or self._other_flow
            if self._other_flow and recognizer.config.strict_inputs:
                raise InputError(self._other_flow)
        ended = []
        if recognizer.tracked_stream == "bodies":
            ended = recognizer.add_skeletons(stamp, people.bodies, up)
        if "hands" in recognizer.streams:
            ended += recognizer.add_hands(stamp, people.hands, up)
        if "face" in recognizer.streams:
            recognizer.add_faces(stamp, people.faces)
        self._unleveled += up is None and bool(people.bodies or people.hands)
        predictions = recognizer.predict()
        if predictions:
            self._slow = recognizer.slow or self._slow
        for lost in ended:
            self._labels.pop(lost.body_id, None)
        self._labels.update((made.body_id, made) for made in predictions if made.body_id)
        frame = dataclasses.replace(frame, up=up)  # as estimated
        return LabeledFrame(frame, people, dict(self._labels), predictions, recognizer.events())

    def _find(self, frame: RgbdFrame) -> tuple[People, np.ndarray | None]:
        """Return the people in a frame, and its direction of gravity [3] if that is known."""
        if frame.color is None:
            up = self._bodies.gravity.known(frame)
            self._bodies.gravity.update(frame, frame.skeletons)
            return People(frame.skeletons, [], []), up
        bodies = self._bodies.process(frame)
        frame = dataclasses.replace(frame, up=self._bodies.up)
        hands = self._hands.process(frame, bodies) if self._hands is not None else []
        faces = self._faces.process(frame, bodies) if self._faces is not None and bodies else []
        return People(bodies, hands, faces), frame.up

    @property
    def warning(self) -> str:
        """Warning, with a remedy, about frames or scene flow that differ from the model's training; empty if none."""
        found, unleveled = self._bodies.gravity.up, ""
        takes_level = self.recognizer.session.package.window.gravity != "camera"
        if self._unleveled and takes_level and (found is None or not gravity.is_level(found)):
            unleveled = (
                f"the camera counts as level in {self._unleveled} frame(s) with people, because the direction of "
                f"gravity is unknown: set {MOUNT_OPTION}level, or how the camera was mounted"
            )
        restarts = self.recognizer.counts.describe_restarts(
            self.recognizer.tracked_stream, self.recognizer.config.max_gap_s
        )
        return "; ".join(filter(None, (restarts, self._slow, self._other_flow, unleveled)))

    @property
    def depth_is_refused(self) -> bool:
        """Whether depth is not used, because its unit must be another: places are estimated."""
        return self._bodies.sizes.is_refused

    def finish(self) -> list[ActionEvent]:
        """Return the ends of the events that go on, after the last frame."""
        self.recognizer.end_events()
        return self.recognizer.events()
