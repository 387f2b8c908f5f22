"""MediaPipe detects the actor's pose, face and hands."""

import numpy as np
import pytest

from actrec import cameras
from actrec.simulation.actions import CYCLE
from actrec.skeleton.layouts import KINECT_V2_25, MEDIAPIPE_33

JOINTS = [f"{j}_{s}" for j in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle") for s in ("left", "right")]
ACTOR_JOINTS = [KINECT_V2_25.index[j] for j in JOINTS]
LANDMARKS = [MEDIAPIPE_33.index[j] for j in JOINTS]
# A walking actor turns its back, where MediaPipe detects no face and not every limb.
FACING = [name for name in CYCLE if name != "walk"]


def simulated_frames(action: str, count: int, seconds: float = 3.2):
    options = {"actions": [action], "realtime": False, "fps": count / seconds, "duration": seconds, "seed": 3}
    with cameras.create("simulated", **options) as camera:
        return [camera.read() for _ in range(count)]


def crop(image: np.ndarray, center: np.ndarray, radius: float) -> np.ndarray:
    v, u = int(center[1]), int(center[0])
    r = int(radius)
    padded = np.pad(image, ((r, r), (r, r), (0, 0)), mode="edge")
    return np.ascontiguousarray(padded[v : v + 2 * r, u : u + 2 * r])


@pytest.fixture(scope="module")
def pose():
    mediapipe = pytest.importorskip("mediapipe")
    with mediapipe.solutions.pose.Pose(static_image_mode=True, model_complexity=1) as estimator:
        yield estimator


@pytest.mark.parametrize("action", FACING)
def test_mediapipe_pose_matches_actor_joints(pose, action) -> None:
    errors = []
    for frame in simulated_frames(action, 4):
        result = pose.process(frame.color)
        assert result.pose_landmarks is not None
        landmarks = np.array([(p.x * 640, p.y * 480) for p in result.pose_landmarks.landmark])
        errors.append(np.linalg.norm(landmarks[LANDMARKS] - frame.skeletons[0].pixels[ACTOR_JOINTS], axis=1))
    assert np.median(errors) < 6
    assert (np.array(errors) < 12).mean() > 0.9


def test_mediapipe_detects_face_and_hands() -> None:
    solutions = pytest.importorskip("mediapipe").solutions
    faces, hands = [], []
    with (
        solutions.face_mesh.FaceMesh(static_image_mode=True, min_detection_confidence=0.3) as face,
        solutions.hands.Hands(static_image_mode=True, min_detection_confidence=0.3) as hand,
    ):
        for frame in [*simulated_frames("wave", 5), *simulated_frames("idle", 3)]:
            pixels = frame.skeletons[0].pixels
            head = crop(frame.color, pixels[KINECT_V2_25.index["head"]], 45)
            faces.append(face.process(np.repeat(np.repeat(head, 3, 0), 3, 1)).multi_face_landmarks is not None)
            for side in ("left", "right"):
                image = crop(frame.color, pixels[KINECT_V2_25.index[f"hand_{side}"]], 45)
                result = hand.process(np.repeat(np.repeat(image, 3, 0), 3, 1))
                hands.append(result.multi_hand_landmarks is not None)
    assert np.mean(faces) > 0.85
    assert np.mean(hands) > 0.7
