"""Windows of several clips: each clip is run once, and labels equal the ones that all clips together give."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from actrec import inference
from actrec.features.specs import WindowSpec
from actrec.inference.session import Session
from actrec.recognition import ActionRecognizer
from actrec.utils.errors import AbortedError
from tests.example_scene import CROP, FLOW, FRAMES, PLACES, Scene
from tests.tiny_model import note_runs, write_any

CLIP, STRIDE, HZ = 8, 4, 10
WINDOW = WindowSpec(FRAMES / HZ, FRAMES, CLIP, STRIDE)
CLIPS = len(WINDOW.starts)
SPECS = [
    replace(CROP, shape=(3, CLIP, 24, 24)),
    replace(FLOW, shape=(3, CLIP, 32, 32)),
    replace(PLACES, shape=(CLIP, 25, 2)),
]
WEIGHTS = np.array([[3.0, -2.0, 1.0], [0.2, 0.1, -0.4], [0.1, 0.05, -0.1]])


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene()


def load(folder: Path, window: WindowSpec = WINDOW) -> Session:
    return inference.load(write_any(folder / "model", SPECS, window, weights=WEIGHTS))


def play(recognizer: ActionRecognizer, scene: Scene, frames: int, step: int = 1) -> list[np.ndarray]:
    """Return the probabilities of the labels of every `step`-th frame, sorted by class name."""
    found = []
    for t in range(frames):
        scene.add_frame(recognizer, t, at=t * 15 / HZ)
        if t % step == step - 1:
            (label,) = recognizer.predict()
            if label.top_labels:
                found.append(
                    np.array([p for _, p in sorted(zip(label.top_labels, label.top_probabilities, strict=True))])
                )
    return found


@pytest.mark.parametrize("step", [1, STRIDE, 2 * STRIDE])
def test_label_of_cached_clips_equals_run_of_all_clips(
    tmp_path: Path, scene: Scene, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    session = load(tmp_path)
    recognizer = ActionRecognizer(session, interval_s=step / HZ)
    runs = note_runs(session, monkeypatch)
    *_, label = play(recognizer, scene, 3 * FRAMES, step)
    cached = {clip.tobytes() for run in runs for clip in run["body_crop"]}
    runs.clear()
    offline = session.predict({**scene.offline(range(2 * FRAMES, 3 * FRAMES)), "size": np.array([320, 240])})
    assert np.array_equal(label, offline.probabilities[np.argsort(offline.labels)])
    assert {clip.tobytes() for run in runs for clip in run["body_crop"]} <= cached


def test_recognizer_window_not_full_runs_first_frame_once_for_all_clips_before(
    tmp_path: Path, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = load(tmp_path)
    runs = note_runs(session, monkeypatch)
    labels = play(ActionRecognizer(session, interval_s=0.0, min_seconds=0.3), scene, 3 * FRAMES)
    assert [len(run["flow_rgb"]) for run in runs] == [2] + [1] * (len(labels) - 1)
    assert [bool((clip == clip[:, :1]).all()) for clip in runs[0]["flow_rgb"]] == [False, True]


def test_recognizer_stamps_jump_back_drops_cached_clips(tmp_path: Path, scene: Scene) -> None:
    recognizer = ActionRecognizer(load(tmp_path), interval_s=0.0)
    first = play(recognizer, scene, FRAMES)
    scene.add_frame(recognizer, 0, at=-3600)
    assert len(first) > CLIP and np.array_equal(first, play(recognizer, scene, FRAMES))


def test_predict_aborted_between_clips_raises_and_caches_none(
    tmp_path: Path, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = load(tmp_path)
    recognizer, expected = (ActionRecognizer(session, interval_s=0.0, min_seconds=0.0) for _ in range(2))
    monkeypatch.setattr(session, "_at_once", 1)  # as for large images
    runs, run = note_runs(session, monkeypatch), session.backend.run

    def run_and_abort(inputs: dict[str, np.ndarray]) -> np.ndarray:
        session.abort()
        return run(inputs)

    for each in (expected, recognizer):
        play(each, scene, CLIP, step=FRAMES)  # without a label
    (label,) = expected.predict()
    assert len(runs) == 2
    runs.clear()
    with monkeypatch.context() as during:
        during.setattr(session.backend, "run", run_and_abort)
        with pytest.raises(AbortedError):
            recognizer.predict()
    assert len(runs) == 1, "the second clip was not begun"
    scene.add_frame(recognizer, CLIP, at=CLIP * 15 / HZ)
    assert recognizer.predict()[0].label and len(runs) == 1 + 2 and label.label
