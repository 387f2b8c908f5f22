"""The action recognizer: tracked bodies, their windows, and labels of the newest frame."""

import dataclasses
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from actrec.features import rates
from actrec.features.leveling import JOINTS, PIXELS, level_view
from actrec.features.specs import BodyView
from actrec.inference.session import Session
from actrec.recognition import clip_scores
from actrec.recognition.events import ActionEvent, EventDetector, middle
from actrec.recognition.predictions import ActionPrediction
from actrec.recognition.recognition_config import RecognitionConfig
from actrec.recognition.tracks import (
    ANOTHER,
    STREAM_NAMES,
    BodyJoints,
    BodyTrack,
    Counts,
    ModelInputs,
    PendingFrame,
    StreamBuffers,
    due_windows,
    faces_by_id,
    hands_by_id,
    is_complete,
    is_per_body,
    joints_by_id,
    make_clips,
)
from actrec.scene_flow import identity
from actrec.skeleton.layouts import HANDS
from actrec.types import NANOSECONDS, UNKNOWN, Body, Face, Hand, Intrinsics, Prediction
from actrec.utils import config, gravity
from actrec.utils.geometry import motion_at_joints

TURNED_COSINE = 0.94
"""Cosine of 20°: a direction of gravity that changes by more means a camera that was turned."""

TOLERANCE_S = 1 / 120  # messages whose stamps differ by less belong to the same frame

RATE_S = 1.0  # time over which the rate of frames is measured, at least


class ActionRecognizer:
    """Recognizer of the actions of tracked bodies: a window and stream buffers for each, labeled by one network.

    A frame without bodies gives one `unknown` with an empty body id. A body without a detection for `lost_after_s` ends
    with one `unknown`; if it returns later, its window restarts. If stamps jump back (a recording that loops), all
    windows restart. For a model of M > 1 bodies, a clip holds the body itself first, then the nearest other bodies.

    Messages are matched by stamp, in any order; none is waited for. While a required stream is missing, bodies are
    labeled `unknown` with a reason. If an optional stream is missing, its features are zero.
    A hand model labels each hand as a body of its own; its frames come from `add_hands`.

    Thread-safe: messages can be added while another thread is in `predict`. `settings` are fields of
    `RecognitionConfig`.

    Raises:
        PackageError: The model takes a layout other than kinect_v2_25 or a hand's, or full images.
    """

    def __init__(self, session: Session, **settings: Any):
        self.config = config.build(RecognitionConfig, settings)
        self.counts = Counts()
        self._lock = threading.RLock()
        self._session, self._inputs = session, ModelInputs.of(session, self.config.max_gap_s)
        self._tracks: dict[str, BodyTrack] = {}
        self._buffers = StreamBuffers(self._inputs.frame_series(per_body=False), self.config.stream_timeout_s)
        self._newest_ns: int | None = None
        self._empty_since_ns: int | None = None
        self._is_other = False  # the next frame is of another stream, with stamps of its own
        self._pending: PendingFrame | None = None
        self._events: list[ActionEvent] = []
        self._detector = EventDetector(session.package, self.config.events)

    @property
    def session(self) -> Session:
        """The model in use."""
        return self._session

    def set_session(self, session: Session) -> None:
        """Replace the model; tracks are kept, but their windows restart. Raises as the constructor."""
        inputs = ModelInputs.of(session, self.config.max_gap_s)
        buffers = StreamBuffers(inputs.frame_series(per_body=False), self.config.stream_timeout_s)
        with self._lock:
            self._is_other ^= (inputs.layout in HANDS) != (self.tracked_stream == "hands")
            if inputs.layout != self._inputs.layout:
                self._skip_pending()
            buffers.image_size, buffers.flow_settings = self._buffers.image_size, self._buffers.flow_settings
            buffers.newest_ns = {k: v for k, v in self._buffers.newest_ns.items() if k == "bodies"}  # it may be pending
            if inputs.window.gravity != "camera":
                buffers.up, buffers.newest_up = self._buffers.up, self._buffers.newest_up
            tracks = {body_id: inputs.new_track() for body_id in self._tracks}
            for body_id, old in self._tracks.items():
                tracks[body_id].last_seen_ns = old.last_seen_ns
                if self._pending is not None and body_id in self._pending.joints:
                    tracks[body_id].window.add(old.window.end_ns, old.window.newest)
            self._session, self._inputs, self._tracks, self._buffers = session, inputs, tracks, buffers
            self.end_events()
            self._detector = EventDetector(session.package, self.config.events, self._detector.next_id)

    @property
    def labels_events(self) -> bool:
        """Whether labels are of events, by the setting `labels` and the model."""
        return self.config.labels_events(self._session.package)

    @property
    def tracked_stream(self) -> str:
        """The stream whose frames are labeled: "hands" for a hand model, else "bodies"."""
        return "hands" if self._inputs.layout in HANDS else "bodies"

    @property
    def streams(self) -> dict[str, bool]:
        """The streams that the model takes, and whether it requires them; see `actrec.features.streams`."""
        return {**{s: needed for s, needed in self._inputs.streams.items() if s != "bodies"}, self.tracked_stream: True}

    @property
    def needs_image_size(self) -> bool:
        """Whether `set_image_size` must be called because no color images are added."""
        return "color" not in self._inputs.streams and bool(self._inputs.keys & {"size", "motion", *PIXELS})

    @property
    def missing(self) -> dict[str, str]:
        """The streams that are missing now, required or optional, each with a message."""
        with self._lock:
            tracked = self.tracked_stream
            found = {stream: self._buffers.missing(stream) for stream in self.streams if stream != tracked}
            if self._newest_ns is None or self._is_other:
                found[tracked] = f"no {STREAM_NAMES[tracked]} so far"
        return {stream: message for stream, message in found.items() if message}

    @property
    def live_rate(self) -> float:
        """Mean rate in Hz of the frames in a body's window, of images if the model takes any; 0 in the first second."""
        with self._lock:
            track = max(self._tracks.values(), key=lambda track: track.window.duration_s, default=None)
            stacks = [*self._buffers.frames.values(), *(track.frames.values() if track else ())]
            stamps = [each.stamps_ns for each in stacks or ([track.window] if track else [])]
        return rates.slowest_rate(stamps, min(RATE_S, self._inputs.window.seconds))

    @property
    def model_rate(self) -> float:
        """Rate in Hz at which the model takes images, or else of its training recordings; 0 if unknown."""
        package = self._session.package
        return rates.image_rate(package.inputs, package.window) or min(package.provenance.frame_rates, default=0.0)

    @property
    def slow(self) -> str:
        """Warning, with a remedy, about frames that come too slowly for the model; empty if there is none."""
        package = self._session.package
        warning = rates.describe_rate(package.inputs, package.window, self.live_rate)
        return warning and f"model {package.name}: {warning}"

    def other_flow(self, remedy: identity.Remedy = identity.LIVE) -> str:
        """Return how the scene flow differs from the training's, with the remedy; empty if it does not."""
        with self._lock:
            package, made = self._session.package, self._buffers.scene_flow
        differs = identity.describe(package.provenance.scene_flow, made, remedy)
        return differs and f"model {package.name}: {differs}"

    def add_skeletons(
        self, stamp_ns: int, bodies: Sequence[Body], up: np.ndarray | None = None
    ) -> list[ActionPrediction]:
        """Add one frame's tracked bodies, in any layout that converts to kinect_v2_25, to their windows.

        Args:
            bodies: The frame's, of `stamp_ns`.
            up: [3] unit vector against gravity in the optical frame; None if unknown.

        Returns:
            One last `unknown` for each body whose track has ended.

        Raises:
            InputError: A body has no id, a duplicate id, an unknown layout, a wrong shape, or infinite coordinates, or
                `up` is no direction; the frame is then ignored.
        """
        with self._lock:
            return self._add_frame(stamp_ns, bodies, up)

    def add_hands(self, stamp_ns: int, hands: Sequence[Hand], up: np.ndarray | None = None) -> list[ActionPrediction]:
        """Add one frame's hands, as a frame of a hand model (see `add_skeletons`) or beside the skeletons.

        Raises `InputError` for a wrong shape or infinite coordinates.
        """
        with self._lock:
            if self.tracked_stream == "hands":
                return self._add_frame(stamp_ns, hands, up)
            self._buffers.newest_ns["hands"] = stamp_ns
            self._add_points(stamp_ns, hands_by_id(hands), up)
            self._match(stamp_ns, new_hands=True)
        return []

    def add_faces(self, stamp_ns: int, faces: Sequence[Face]) -> None:
        """Add one frame's faces; raise `InputError` for a wrong shape or infinite coordinates."""
        with self._lock:
            self._buffers.newest_ns["face"] = stamp_ns
            self._add_points(stamp_ns, faces_by_id(faces), self._buffers.newest_up)

    def add_scene_flow(self, stamp_ns: int, flow: np.ndarray, intrinsics: Intrinsics) -> None:
        """Add scene flow [h, w, 3] m/s with the stamp of its pair's first frame, and the intrinsics of its pixels."""
        with self._lock:
            self._buffers.newest_ns["flow"] = stamp_ns
            self._buffers.flow.add(stamp_ns, (flow, intrinsics))
            self._match(stamp_ns)

    def set_scene_flow(self, settings: Mapping[str, Any]) -> None:
        """Set method and height of the scene flow, as its node states them."""
        with self._lock:
            self._buffers.flow_settings = {name: settings[name] for name in identity.SETTINGS if settings.get(name)}

    def add_color(self, stamp_ns: int, color: np.ndarray) -> None:
        """Add a color image [H, W, 3] uint8 RGB. The array is not copied and must not change afterwards."""
        with self._lock:
            self._buffers.image_size = (color.shape[1], color.shape[0])
            self._buffers.newest_ns["color"] = stamp_ns
            self._buffers.color.add(stamp_ns, color)
            self._match(stamp_ns)

    def set_image_size(self, width: int, height: int) -> None:
        """Set the size of the color image that pixels refer to."""
        with self._lock:
            self._buffers.image_size = (width, height)

    def _add_frame(self, stamp_ns: int, bodies: Sequence[Body], up: np.ndarray | None) -> list[ActionPrediction]:
        found = joints_by_id(bodies, self._inputs.layout, self._inputs.needs_pixels)
        up = None if up is None else gravity.check_up(up)
        self._newest_ns, self._is_other = None if self._is_other else self._newest_ns, False
        if stamp_ns == self._newest_ns:
            self.counts.duplicates += 1
            return []
        if up is not None and self._inputs.window.gravity != "camera":
            self._set_up(up)
        self.counts.frames += 1
        self._skip_pending()
        before = list(self._tracks)
        if self._newest_ns is not None and stamp_ns < self._newest_ns:
            self.counts.restarts += 1
            self._tracks.clear()
            self._buffers.rewind(stamp_ns, self._inputs)
            self._events += self._detector.end_all(stamp_ns)
            self._empty_since_ns = None
        self._newest_ns = stamp_ns
        limit = stamp_ns - int(self.config.lost_after_s * NANOSECONDS)
        self._tracks = {b: t for b, t in self._tracks.items() if b in found or t.last_seen_ns > limit}
        self._update_tracks(stamp_ns, found, up)
        shown = {b: found[b] for b in self._tracks if b in found}
        self._pending = PendingFrame(stamp_ns, shown, not found, self._detector.endings)
        # A body that is detected but found no room after the stamps jumped back has ended, too.
        ended = [body_id for body_id in before if body_id not in self._tracks]
        self._events += [event for body_id in ended for event in self._detector.end(body_id, stamp_ns)]
        return [self._unknown(body_id, stamp_ns) for body_id in ended]

    def _set_up(self, up: np.ndarray) -> None:
        """Keep the direction of gravity.

        Windows are in the axes of a camera with the `up` of their buffers. They restart if the camera is turned at
        once or, if the model takes pixels, by another quarter turn. A slow tilt is compensated frame by frame.
        """
        buffers = self._buffers
        reference = np.array(gravity.LEVEL) if buffers.up is None else buffers.up
        newest, buffers.newest_up = reference if buffers.newest_up is None else buffers.newest_up, up
        turns = gravity.quarter_turns(reference)
        in_image = self._inputs.needs_pixels or self._inputs.keys & {*PIXELS}
        turned = newest @ up < TURNED_COSINE or (in_image and gravity.quarter_turns(up, turns) != turns)
        if turned and self._tracks:
            self.counts.restarts += 1
            for track in self._tracks.values():
                track.window = self._inputs.new_track().window
                self._inputs.restart(track)
            self._detector.restart()
        if turned or buffers.up is None or not self._tracks:
            buffers.up = up

    def _steady(self, positions: np.ndarray, up: np.ndarray | None) -> np.ndarray:
        """Return positions [..., 3] of a frame with this `up` in the axes of the windows."""
        if up is None or self._buffers.up is None or up @ self._buffers.up > 1 - 1e-7:
            return positions
        return (positions @ gravity.rotation_between(up, self._buffers.up).T).astype(np.float32)

    def _update_tracks(self, stamp_ns: int, found: Mapping[str, BodyJoints], up: np.ndarray | None) -> None:
        self._detector.give_back({body_id: found[body_id].positions for body_id in found.keys() & self._tracks.keys()})
        new = [body_id for body_id in found if body_id not in self._tracks]
        lost = self._tracks.keys() - found.keys()
        renamed = self._detector.rename({body_id: found[body_id].positions for body_id in new}, lost)
        if len(self._tracks) + len(new) > self.config.max_bodies:  # a person with a new id needs no more room
            self._tracks = {name: track for name, track in self._tracks.items() if name not in renamed.values()}
        new.sort(key=lambda body_id: (body_id not in renamed, float(np.nanmedian(found[body_id].positions[:, 2]))))
        room = max(self.config.max_bodies - len(self._tracks), 0)
        self.counts.over_limit += len(new[room:])
        self._tracks |= {body_id: self._inputs.new_track() for body_id in new[:room]}
        restarted = []
        for body_id in [name for name in self._tracks if name in found]:
            why = self._tracks[body_id].add(stamp_ns, self._steady(found[body_id].positions, up), self._inputs)
            if why == ANOTHER:
                self._events += self._detector.end(body_id, stamp_ns)
            restarted += [body_id] if why else []
        self._detector.restart(restarted)
        self.counts.restarts += bool(restarted)  # once for all bodies, as for stamps that jump back
        self._buffers.newest_ns["bodies"] = stamp_ns
        self._buffers.skeletons.add(stamp_ns, (dict(found), up))
        self._add_points(stamp_ns, {body_id: {"pixels": joints.pixels} for body_id, joints in found.items()})
        self._match(stamp_ns)

    def _add_points(
        self, stamp_ns: int, found: Mapping[str, Mapping[str, np.ndarray | None]], up: np.ndarray | None = None
    ) -> None:
        """Keep the points of tracked bodies that the model takes, in the axes of the windows."""
        for body_id in found.keys() & self._tracks.keys():
            kept = self._tracks[body_id].points
            for key, value in found[body_id].items():
                if key in kept and value is not None:
                    kept[key].add(stamp_ns, self._steady(value, up) if key in JOINTS else value)

    def _match(self, stamp_ns: int, new_hands: bool = False) -> None:
        """Compute the features of the messages with this stamp; again if its hands are new."""
        size = self._buffers.image_size
        color = self._buffers.color.at(stamp_ns, TOLERANCE_S)
        flow_message = self._buffers.flow.at(stamp_ns, TOLERANCE_S)
        flow = flow_message[0] if flow_message else None
        shown = size if size or not flow_message else flow_message[1].square_size
        complete = [each for each in self._inputs.frame_inputs if is_complete(each[1], color, flow)]
        # The images are turned once, for all bodies.
        bodies, up = self._buffers.skeletons.at(stamp_ns, TOLERANCE_S) or ({}, None)
        up = self._buffers.up if up is None or self._buffers.up is None else up
        scene = level_view(BodyView(size=shown, color=color, flow=flow), up if complete else None, self._buffers.up)
        for spec, feature in complete:
            if not is_per_body(feature) and self._buffers.frames[spec.name].accepts(stamp_ns):
                self._buffers.frames[spec.name].add(stamp_ns, feature.observe(scene, spec))
        for body_id, joints in bodies.items():
            track = self._tracks.get(body_id)
            if track is None:
                continue
            hands = track.points["hand_pixels"].at(stamp_ns, TOLERANCE_S) if "hand_pixels" in track.points else None
            view = level_view(BodyView(joints.positions, joints.pixels, hands, size), up, self._buffers.up)
            view = dataclasses.replace(view, color=scene.color, flow=scene.flow)
            for spec, feature in complete:
                if not is_per_body(feature):
                    continue
                frames = track.frames[spec.name]
                if frames.accepts(stamp_ns):
                    frames.add(stamp_ns, feature.observe(view, spec))
                elif new_hands and hands is not None and "hands" in feature.streams:
                    frames.replace(stamp_ns, feature.observe(view, spec))
            if "motion" in track.points and flow_message and size is not None and joints.pixels is not None:
                motion = motion_at_joints(flow_message[0], joints.positions, joints.pixels, size, flow_message[1])
                track.points["motion"].add(stamp_ns, motion)

    def predict(self) -> list[ActionPrediction]:
        """Label the bodies of the newest frame for which `interval_s` has passed; each frame is labeled once.

        All bodies go through the network together if their inputs are small enough. Bodies that are too new or whose
        required streams are missing are `unknown`.
        """
        with self._lock:
            frame, self._pending = self._pending, None
            if frame is None:
                return []
            if frame.is_empty:
                if not self._is_due(self._empty_since_ns, frame.stamp_ns):
                    return []
                self._empty_since_ns = frame.stamp_ns
                return [self._unknown("", frame.stamp_ns)]
            self._empty_since_ns = None
            session, known = self._session, dict(self._tracks)
            predictions, ready = self._select(frame)
            tracks = [self._tracks[body_id] for body_id in ready]
            of_all = self._tracks, self._buffers, self._inputs
            windows = due_windows(ready, frame.stamp_ns, self.config.interval_s, *of_all)
        try:
            results = clip_scores.predict(session, windows)
        except Exception:  # no evidence: present events end while the network fails
            with self._lock:
                for body_id, track in zip(ready, tracks, strict=True):
                    if session is self._session and self._tracks.get(body_id) is track:
                        self._add_evidence(body_id, frame, None)
            raise
        with self._lock:
            for body_id, track, window, result in zip(ready, tracks, windows, results, strict=True):
                result = self._accumulate(session, body_id, track, frame, result)
                top = result.top(self.config.top_k)
                labels, probabilities = tuple(label for label, _ in top), tuple(value for _, value in top)
                best = body_id, result.label, result.class_id, result.confidence, labels, probabilities
                predictions.append(ActionPrediction(*best, window.start_ns, frame.stamp_ns, session.package.name))
            return [self._located(prediction, frame, known) for prediction in predictions]

    def windows(self) -> dict[str, Mapping[str, Any]]:
        """Return the window of each tracked body at the newest frame, as the model takes it, by body id."""
        with self._lock:
            observed = {b: t for b, t in self._tracks.items() if len(t.window)}  # since the windows restarted
            ready = [b for b, t in observed.items() if not self._buffers.missing_inputs(t, self._inputs)]
            clips = make_clips(ready, self._newest_ns or 0, self._tracks, self._buffers, self._inputs)
            return dict(zip(ready, clips, strict=True))

    def _located(self, made: ActionPrediction, frame: PendingFrame, known: Mapping[str, BodyTrack]) -> ActionPrediction:
        """Return a prediction with the place of its body, and for how long the body has had this label."""
        joints, track = frame.joints[made.body_id].positions, self._tracks.get(made.body_id)
        place = middle(joints[np.isfinite(joints).all(axis=-1)])
        if track is None or track is not known.get(made.body_id):  # it has ended in the meantime
            return dataclasses.replace(made, position=place)
        if track.label != made.label:
            track.label, track.since_ns = made.label, frame.stamp_ns
        event = self._detector.present_events.get(made.body_id) if self.labels_events else None
        since_ns = track.since_ns if event is None or event.label != made.label else event.start_ns
        return dataclasses.replace(made, position=place, duration_s=(frame.stamp_ns - since_ns) / NANOSECONDS)

    @property
    def present_events(self) -> list[ActionEvent]:
        """The events that go on, with the highest confidence so far."""
        with self._lock:
            return list(self._detector.present_events.values())

    def events(self) -> list[ActionEvent]:
        """Return the events since the last call; a body has one at a time, with one begin and one end."""
        with self._lock:
            found, self._events = self._events, []
            return found

    def end_events(self) -> None:
        """End the events of all bodies, because no frames follow or none for a long time."""
        with self._lock:
            self._events += self._detector.end_all(self._newest_ns or 0)

    def expire(self, reason: str) -> list[ActionPrediction]:
        """End all events, and return one `unknown` with this reason for each tracked body, or with an empty body id.

        For an input that has stopped. The windows go on if frames follow whose stamps leave no gap.
        """
        with self._lock:
            if self._newest_ns is None:
                return []
            self._skip_pending()
            self.end_events()
            for track in self._tracks.values():
                track.label, track.since_ns = UNKNOWN, self._newest_ns
            return [self._unknown(body_id, self._newest_ns, reason=reason) for body_id in [*self._tracks] or [""]]

    def _accumulate(
        self, session: Session, body_id: str, track: BodyTrack, frame: PendingFrame, result: Prediction
    ) -> Prediction:
        """Add a prediction to its body's events; return the present event as a prediction, if labels are of events.

        If the network returned NaN, the prediction itself is returned. A track that has ended meanwhile has no event.
        """
        average, event = result.probabilities, None
        if session is self._session and self._tracks.get(body_id) is track and frame.endings == self._detector.endings:
            self._add_evidence(body_id, frame, result.probabilities)
            average, event = self._detector.present(body_id)
        if not self.config.labels_events(session.package) or np.isnan(result.probabilities).any():
            return result
        best = (UNKNOWN, -1, float(average.max())) if event is None else (event.label, event.class_id, event.confidence)
        return Prediction(*best, average, result.labels)

    def _add_evidence(self, body_id: str, frame: PendingFrame, probabilities: np.ndarray | None) -> None:
        joints, tracked_s = frame.joints[body_id], self._tracks[body_id].window.duration_s
        about = joints.positions, tracked_s, joints.in_view
        self._events += self._detector.update(body_id, frame.stamp_ns, probabilities, *about)

    def _skip_pending(self) -> None:
        if self._pending is not None:
            self.counts.skipped += len(self._due_bodies(self._pending))
            self._pending = None

    def _is_due(self, predicted_ns: int | None, stamp_ns: int) -> bool:
        return predicted_ns is None or stamp_ns - predicted_ns >= self.config.interval_s * NANOSECONDS

    def _due_bodies(self, frame: PendingFrame) -> list[str]:
        tracked = (body_id for body_id in frame.joints if body_id in self._tracks)
        return [body_id for body_id in tracked if self._is_due(self._tracks[body_id].predicted_ns, frame.stamp_ns)]

    def _unknown(self, body_id: str, stamp_ns: int, start_ns: int | None = None, reason: str = "") -> ActionPrediction:
        start = stamp_ns if start_ns is None else start_ns
        return ActionPrediction(body_id, UNKNOWN, -1, 0.0, (), (), start, stamp_ns, self._session.package.name, reason)

    def _select(self, frame: PendingFrame) -> tuple[list[ActionPrediction], list[str]]:
        """Return predictions for the due bodies that cannot be labeled yet, and the ids of the others."""
        predictions, ready, refused = [], [], self.other_flow() if self.config.strict_inputs else ""
        for body_id in self._due_bodies(frame):
            track = self._tracks[body_id]
            track.predicted_ns = frame.stamp_ns
            is_new = track.window.duration_s < min(self.config.min_seconds, track.window.seconds) - 1e-6
            reason = "" if is_new else self._buffers.missing_inputs(track, self._inputs) or refused
            self.counts.missing_input += bool(reason)
            if is_new or reason:
                self._add_evidence(body_id, frame, None)
                prediction = self._unknown(body_id, frame.stamp_ns, track.window.start_ns, reason)
                event = self._detector.present(body_id)[1]
                if self.labels_events and event is not None and not reason:  # goes on while the window fills again
                    prediction = dataclasses.replace(
                        prediction, label=event.label, class_id=event.class_id, confidence=event.confidence
                    )
                predictions.append(prediction)
            else:
                ready.append(body_id)
        self.counts.labels += len(ready)
        return predictions, ready
