"""The recognizer with cameras in any mounting, whose direction of gravity is known."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from actrec import inference
from actrec.features.clips import example_clip
from actrec.features.specs import InputSpec
from actrec.inference.session import Session
from actrec.recognition import ActionPrediction, ActionRecognizer
from actrec.types import Body, Hand
from actrec.utils import gravity
from actrec.utils.errors import InputError
from tests.core.recognition.test_recognizer import body, stamp

FRAMES = 75
PERIOD_NS = 1_000_000_000 // 15


@pytest.fixture(scope="module", params=["deepacts_graph_nucla", "sem_net_shrec17"])
def session(request: pytest.FixtureRequest) -> Session:
    return inference.load(request.param)


def predict(session: Session, joints: np.ndarray, ups: Sequence[np.ndarray | None]) -> ActionPrediction:
    """Return the prediction at the last of the frames [T, V, 3] of joints, each with its direction of gravity."""
    recognizer = ActionRecognizer(session, interval_s=0.0, min_seconds=0.1, top_k=3)
    for t, (positions, up) in enumerate(zip(joints, ups, strict=True)):
        pixels, scores = np.full((len(positions), 2), np.nan, np.float32), np.ones(len(positions), np.float32)
        if recognizer.tracked_stream == "hands":
            recognizer.add_hands(t * PERIOD_NS, [Hand("body_1", "hand_22", positions, pixels, scores)], up)
        else:
            recognizer.add_skeletons(t * PERIOD_NS, [Body("body_1", "kinect_v2_25", positions, pixels, scores)], up)
    return recognizer.predict()[-1]


@pytest.mark.parametrize("roll, pitch", [(90, 0), (180, 0), (-90, 0), (30, -30), (150, 30)])
def test_predict_any_mounting_gives_label_of_level_camera(session: Session, roll: float, pitch: float) -> None:
    layout = session.package.inputs[0].layout
    spec = InputSpec("body", "body", layout, (1, 3, FRAMES, 22 if layout == "hand_22" else 25))
    joints = example_clip([spec], FRAMES)["bodies"][0]
    expected = predict(session, joints, [None] * FRAMES)
    up = gravity.up_from_angles(roll, pitch)
    found = predict(session, (joints @ gravity.level_rotation(up)).astype(np.float32), [up] * FRAMES)
    assert found.top_labels == expected.top_labels
    np.testing.assert_allclose(found.top_probabilities, expected.top_probabilities, atol=1e-3)


def test_predict_package_in_the_cameras_axes_ignores_the_mounting(session: Session) -> None:
    """Live, and from a clip; leveled is the default."""
    window = session.package.window
    assert window.gravity == "leveled"
    package = dataclasses.replace(session.package, window=dataclasses.replace(window, gravity="camera"))
    in_camera = Session(package, session.backend)
    layout = session.package.inputs[0].layout
    spec = InputSpec("body", "body", layout, (1, 3, FRAMES, 22 if layout == "hand_22" else 25))
    joints, up = example_clip([spec], FRAMES)["bodies"][0], gravity.up_from_angles(180, 0)
    expected = predict(session, joints, [None] * FRAMES)
    np.testing.assert_allclose(
        predict(in_camera, joints, [up] * FRAMES).top_probabilities, expected.top_probabilities, atol=1e-5
    )
    assert predict(session, joints, [up] * FRAMES).top_probabilities != expected.top_probabilities
    spec = InputSpec("body", "body", layout, (1, 3, window.frames, spec.shape[-1]))
    clip = {"bodies": example_clip([spec], window.frames)["bodies"]}
    plain, leveled, ignored = (
        made.logits([{**clip, **gravity_of}])
        for made, gravity_of in ((session, {}), (session, {"up": up}), (in_camera, {"up": up}))
    )
    np.testing.assert_allclose(ignored, plain, atol=1e-5)
    assert np.abs(leveled - plain).max() > 0.1


def test_predict_nodding_camera_gives_the_label_of_a_still_one(session: Session) -> None:
    """A head nods by 40° and rolls by 20° during the window; frames with unknown `up` are as the ones before."""
    layout = session.package.inputs[0].layout
    spec = InputSpec("body", "body", layout, (1, 3, FRAMES, 22 if layout == "hand_22" else 25))
    joints = example_clip([spec], FRAMES)["bodies"][0]
    ups = [gravity.up_from_angles(20 * np.sin(t / 9), 40 * np.sin(t / 12)) for t in range(FRAMES)]
    seen = np.stack([frame @ gravity.level_rotation(up) for frame, up in zip(joints, ups, strict=True)])
    expected, found = predict(session, joints, [None] * FRAMES), predict(session, seen, ups)
    assert found.top_labels == expected.top_labels
    np.testing.assert_allclose(found.top_probabilities, expected.top_probabilities, atol=1e-3)


@pytest.mark.parametrize("with_pixels", [False, True])
def test_add_skeletons_turned_camera_restarts_windows(with_pixels: bool) -> None:
    """At once, or slowly beyond the next quarter turn of the image if the model takes pixels."""
    recognizer = ActionRecognizer(inference.load("deepacts_graph_nucla"), interval_s=0.0)
    if with_pixels:
        recognizer._inputs = dataclasses.replace(recognizer._inputs, keys=frozenset({"pixels", "size"}))
        recognizer.set_image_size(640, 480)
    for frame in range(20):
        recognizer.add_skeletons(stamp(frame), [body(0.0)], gravity.up_from_angles(0, frame / 5))
    (before,) = recognizer.predict()
    recognizer.add_skeletons(stamp(20), [body(0.0)], gravity.up_from_angles(90, 0))
    (after,) = recognizer.predict()
    assert before.window_start_ns == stamp(0) and after.window_start_ns == stamp(20)
    for frame in range(21, 61):
        recognizer.add_skeletons(stamp(frame), [body(0.0)], gravity.up_from_angles(90 + 2 * (frame - 20), 0))
    (rolled,) = recognizer.predict()
    assert (stamp(40) < rolled.window_start_ns < stamp(50)) == with_pixels
    assert recognizer.counts.restarts == 1 + with_pixels


def test_body_without_an_observation_since_its_window_restarted_has_no_window() -> None:
    """It was hidden when the camera was turned, or the model replaced."""
    recognizer = ActionRecognizer(inference.load("deepacts_graph_nucla"), interval_s=0.0)
    seen, hidden = body(0.0), body(1.0, "hidden")
    for frame in range(20):
        recognizer.add_skeletons(stamp(frame), [seen, hidden], gravity.up_from_angles(0, 0))
    for frame in (20, 22):
        for k in (frame, frame + 1):
            recognizer.add_skeletons(stamp(k), [seen], gravity.up_from_angles(90, 0))
        assert recognizer.live_rate == 0.0, "less than a second"
        assert set(recognizer.windows()) == {"body_1"}
        recognizer.set_session(inference.load("deepacts_graph_utd_mhad"))
    recognizer.add_skeletons(stamp(24), [seen, hidden], gravity.up_from_angles(90, 0))
    assert [each.window_start_ns for each in recognizer.predict()] == [stamp(23), stamp(24)]
    assert set(recognizer.windows()) == {"body_1", "hidden"}


def test_add_skeletons_invalid_up_raises_and_skips_frame() -> None:
    recognizer = ActionRecognizer(inference.load("deepacts_graph_nucla"))
    with pytest.raises(InputError, match="up is"):
        recognizer.add_skeletons(stamp(0), [dataclasses.replace(body(0.0))], np.zeros(3))
    assert recognizer.predict() == []
