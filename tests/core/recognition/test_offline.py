"""Recognition of recorded frames without ROS, by models of other streams than skeletons."""

import dataclasses

import pytest

from actrec.cameras.simulated import SimulatedCamera
from actrec.recognition.offline import OfflineRecognizer
from actrec.types import UNKNOWN
from tests import example_scene
from tests.tiny_model import write_any

STREAMS = example_scene.ALL


@pytest.fixture(scope="module")
def frames():
    options = {"realtime": False, "fps": 10.0, "seed": 1}
    with SimulatedCamera(actions=["wave"], **options) as camera:
        return [camera.read() for _ in range(25)]


def test_offline_recognizer_model_of_every_stream_gets_its_inputs(frames, tmp_path) -> None:
    model = str(write_any(tmp_path / "model", STREAMS, example_scene.WINDOW).path)
    with OfflineRecognizer(model, labels="windows", interval_s=0.0) as recognizer:
        labeled = [recognizer.process(frame) for frame in frames]
    predictions = labeled[-1].predictions
    assert [made.body_id for made in predictions] == ["body_1"] == list(labeled[-1].labels)
    assert predictions[0].reason == "" and predictions[0].label != UNKNOWN
    assert labeled[-1].people.hands and labeled[-1].people.faces
    assert recognizer.recognizer.counts.labels > 5


def test_offline_recognizer_person_who_leaves_loses_the_label(frames) -> None:
    with OfflineRecognizer(interval_s=0.0) as recognizer:
        for frame in frames[:15]:
            labeled = recognizer.process(frame)
        assert list(labeled.labels) == ["body_1"]
        for number in range(15):
            empty = frames[0].color * 0
            later = frames[14].stamp_ns + (number + 1) * 100_000_000
            labeled = recognizer.process(dataclasses.replace(frames[0], stamp_ns=later, color=empty, depth=None))
        assert labeled.labels == {} and labeled.people.bodies == []
        assert recognizer.finish() == []
