"""The estimators detect the actor's pose, face and hands."""

import numpy as np
import pytest

from actrec import cameras, perception
from actrec.perception.pipeline import Pipeline
from actrec.simulation.actions import CYCLE
from actrec.skeleton.layouts import KINECT_V2_25, MEDIAPIPE_33

JOINTS = [f"{j}_{s}" for j in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle") for s in ("left", "right")]
ACTOR_JOINTS = [KINECT_V2_25.index[j] for j in JOINTS]
LANDMARKS = [MEDIAPIPE_33.index[j] for j in JOINTS]
# A walking actor turns its back, where the estimators detect no face and not every limb.
FACING = [name for name in CYCLE if name != "walk"]


def simulated_frames(action: str, count: int, seconds: float = 3.2):
    options = {"actions": [action], "realtime": False, "fps": count / seconds, "duration": seconds, "seed": 3}
    with cameras.create("simulated", **options) as camera:
        return [camera.read() for _ in range(count)]


@pytest.fixture(scope="module")
def people():
    with Pipeline(min_hits=1, detect_every=1) as pipeline:
        yield pipeline


@pytest.mark.parametrize("action", FACING)
def test_body_estimator_matches_actor_joints(action) -> None:
    errors = []
    body = perception.create("body", num_poses=1)
    for frame in simulated_frames(action, 4):
        body.reset()  # each frame by itself
        (found,) = body.estimate(frame)
        errors.append(np.linalg.norm(found.pixels[LANDMARKS] - frame.skeletons[0].pixels[ACTOR_JOINTS], axis=1))
    assert np.median(errors) < 6
    assert (np.array(errors) < 12).mean() > 0.9


def test_hand_and_face_estimators_detect_face_and_hands(people) -> None:
    faces, hands = [], []
    for frame in [*simulated_frames("wave", 5), *simulated_frames("idle", 3)]:
        people.reset()
        found = people.process(frame)
        faces.append(len(found.faces) == 1)
        hands.append(len(found.hands) / 2)
    assert np.mean(faces) > 0.85
    assert np.mean(hands) > 0.7
