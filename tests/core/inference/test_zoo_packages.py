"""The shipped packages: each loads, reaches its stated accuracy, and gives the same labels live as offline."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from actrec import datasets, inference
from actrec.datasets.nucla import read_nucla_npz
from actrec.datasets.utd_mhad import CLASSES as UTD
from actrec.datasets.utd_mhad import read_utd_mhad_npz
from actrec.inference import package
from actrec.inference.session import Session, body_layout
from actrec.recognition import ActionPrediction, ActionRecognizer
from actrec.skeleton import windows
from actrec.skeleton.layouts import LAYOUTS
from actrec.types import NANOSECONDS, Body
from tests.example_scene import update

ZOO = Path(__file__).resolve().parents[3] / "models/zoo"
PACKAGES = sorted(path.parent for path in ZOO.glob("*/model.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("folder", PACKAGES, ids=lambda folder: folder.name)
def test_shipped_package_opens_predicts_and_has_card(folder: Path) -> None:
    session = inference.load(folder)
    description = session.package
    shape = (description.bodies, description.window.frames, len(LAYOUTS[body_layout(description)]), 3)
    clip = {"bodies": np.random.default_rng(0).normal(size=shape).astype(np.float32)}
    prediction = session.predict(clip)
    assert prediction.probabilities.shape == (len(description.labels),)
    total = prediction.probabilities.sum()  # without the background's probability
    assert 0 < total < 1 if description.rejection.background is not None else total == pytest.approx(1.0, abs=1e-4)
    card = (folder / "README.md").read_text()
    assert "&&" not in card and all(f"`{command}`" in card for command in description.provenance.recipe)
    is_open = folder.name == "joint_tcn_open"  # trained only on data that may be used for anything
    assert description.provenance.license in card and ("research use" in card.lower()) != is_open
    assert description.rejection.threshold > 0 and description.rejection.calibrated_on
    assert not list(folder.glob("*.pkl")) + list(folder.glob("*.pt*")), "no shipped package has a pickle"


@dataclass(frozen=True)
class Recording:
    """A clip of one body or hand: [T] stamps, [T, V, 3] meters."""

    label: str
    stamps_ns: np.ndarray
    joints: np.ndarray
    layout: str = "kinect_v2_25"


def nucla(root: Path) -> list[Recording]:
    sequences = read_nucla_npz(root / "nucla/nucla_skeletons.npz")
    return [Recording(s.meta["label_name"], s.stamps_ns, s.bodies[0]) for s in sequences if not s.meta["is_train"]][::5]


def utd_mhad(root: Path) -> list[Recording]:
    sequences = read_utd_mhad_npz(root / "utd_mhad/utd_mhad_skeletons.npz")
    test_sequences = [s for s in sequences if s.meta["subject"] % 2 == 0]
    return [Recording(UTD[(s.label or 0) - 1], s.stamps_ns, s.bodies[0]) for s in test_sequences][::4]


def shrec17(root: Path) -> list[Recording]:
    test = datasets.create("shrec17_28", root / "shrec17", part="test")
    clips = (test[index] for index in range(0, len(test), 8))
    return [Recording(test.classes[clip.label], clip.stamps_ns, clip.bodies[0], "hand_22") for clip in clips]


TEST_RECORDINGS = {
    "deepacts_graph_nucla": nucla, "deepacts_graph_motion_nucla": nucla, "deepacts_graph_utd_mhad": utd_mhad,
    "sem_net_utd_mhad": utd_mhad, "sem_net_shrec17": shrec17, "sem_spa_shrec17": shrec17,
    "sem_spa_pair_shrec17": shrec17,
}  # fmt: skip
"""The function of each package that returns a part of its test recordings."""


@pytest.fixture(scope="module", params=TEST_RECORDINGS)
def session(request: pytest.FixtureRequest) -> Session:
    folder = ZOO / request.param
    if not folder.is_dir():
        reason = f"{folder} is not there: train and export it (models/recipes)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return inference.load(folder)


@pytest.fixture(scope="module")
def recordings(session: Session, data_root: Path) -> list[Recording]:
    return TEST_RECORDINGS[session.package.name](data_root)


def offline(session: Session, recording: Recording, stretched: bool = False) -> inference.Prediction:
    window, (start, end) = session.package.window, (int(stamp) for stamp in recording.stamps_ns[[0, -1]])
    if stretched:
        stamps = windows.stretched_stamps(start, end, window.frames)
    else:
        stamps = windows.sample_stamps(end, window.seconds, window.frames)
    return session.predict({"bodies": windows.resample(recording.stamps_ns, recording.joints, stamps)[None]})


@pytest.mark.slow
def test_shipped_package_reaches_stated_accuracy(session: Session, recordings: list[Recording]) -> None:
    assert {recording.label for recording in recordings} == set(session.package.labels)
    stated = session.package.provenance.accuracy
    assert stated >= 0.85
    stretched = session.package.provenance.figures.get("clips") == "stretched"
    correct = [offline(session, recording, stretched).top(1)[0][0] == recording.label for recording in recordings]
    tolerance = 3 * np.sqrt(stated * (1 - stated) / len(correct))
    assert np.mean(correct) == pytest.approx(stated, abs=tolerance)


@pytest.mark.slow
def test_shipped_package_live_equals_offline(session: Session, recordings: list[Recording]) -> None:
    """One recognizer gets all recordings one after the other, each with its own body id."""
    recognizer = ActionRecognizer(session, interval_s=0.0, min_seconds=0.0)
    start_ns = 0
    for number, recording in enumerate(recordings[:30]):
        last: list[ActionPrediction] = []
        for index, stamp in enumerate(recording.stamps_ns):
            joints = recording.joints[index]
            pixels = np.full((len(joints), 2), np.nan, np.float32)
            body = Body(f"body_{number}", recording.layout, joints, pixels, np.ones(len(joints), np.float32))
            bodies = [body] if np.isfinite(joints).any() else []
            last = update(recognizer, start_ns + int(stamp), bodies, predict=index == len(recording.stamps_ns) - 1)
        start_ns += int(recording.stamps_ns[-1]) + 2 * NANOSECONDS
        expected = offline(session, recording)
        (live,) = [window for window in last if window.body_id == f"body_{number}"]
        assert (live.label, live.class_id) == (expected.label, expected.class_id)
        assert live.confidence == pytest.approx(expected.confidence, abs=1e-5)


def test_shipped_package_name_equals_folder() -> None:
    assert [package.load(folder).name for folder in PACKAGES] == [folder.name for folder in PACKAGES]
