"""The packages that ship: each opens and predicts, is as good as stated, and live as offline."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from actrec import inference
from actrec.datasets.nucla import read_nucla_npz
from actrec.datasets.shrec17 import CLASSES as SHREC17
from actrec.datasets.shrec17 import FINGERS, read_shrec17_npz
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


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda folder: folder.name)
def test_shipped_package_opens_predicts_and_has_card(folder: Path) -> None:
    session = inference.load(folder)
    described = session.package
    shape = (described.bodies, described.window.frames, len(LAYOUTS[body_layout(described)]), 3)
    clip = {"bodies": np.random.default_rng(0).normal(size=shape).astype(np.float32)}
    prediction = session.predict(clip)
    assert prediction.probabilities.shape == (len(described.labels),)
    total = prediction.probabilities.sum()  # without the background's share
    assert 0 < total < 1 if described.rejection.background is not None else total == pytest.approx(1.0, abs=1e-4)
    card = (folder / "README.md").read_text()
    assert "research use" in card.lower() and "research use" in described.provenance.license
    assert described.rejection.threshold > 0 and described.rejection.calibrated_on
    assert not list(folder.glob("*.pkl")) + list(folder.glob("*.pt*")), "no pickles ship"


@dataclass(frozen=True)
class Recording:
    """One recorded clip of one body or hand: [T] stamps, [T, V, 3] metres."""

    truth: str
    stamps_ns: np.ndarray
    joints: np.ndarray
    layout: str = "kinect_v2_25"


def nucla(root: Path) -> list[Recording]:
    read = read_nucla_npz(root / "nucla/nucla_skeletons.npz")
    return [Recording(s.meta["label_name"], s.stamps_ns, s.bodies[0]) for s in read if not s.meta["is_train"]][::5]


def utd_mhad(root: Path) -> list[Recording]:
    read = read_utd_mhad_npz(root / "utd_mhad/utd_mhad_skeletons.npz")
    even = [s for s in read if s.meta["subject"] % 2 == 0]
    return [Recording(UTD[(s.label or 0) - 1], s.stamps_ns, s.bodies[0]) for s in even][::4]


def shrec17(root: Path) -> list[Recording]:
    test = [s for s in read_shrec17_npz(root / "shrec17/shrec17_skeletons.npz") if not s.train]
    names = (f"{SHREC17[s.gesture - 1]}, {FINGERS[s.finger]}" for s in test)
    return [Recording(name, s.stamps_ns, s.hands[0], "hand_22") for name, s in zip(names, test, strict=True)][::8]


TESTED = {
    "deepacts_graph_nucla": nucla, "deepacts_graph_motion_nucla": nucla, "deepacts_graph_utd_mhad": utd_mhad,
    "sem_net_utd_mhad": utd_mhad, "sem_net_shrec17": shrec17, "sem_spa_shrec17": shrec17,
    "sem_spa_pair_shrec17": shrec17,
}  # fmt: skip
"""A package to the recordings that it was not trained on, thinned out."""


@pytest.fixture(scope="module", params=TESTED)
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
    return TESTED[session.package.name](data_root)


def offline(session: Session, recording: Recording, stretched: bool = False) -> inference.Prediction:
    window, (start, end) = session.package.window, (int(stamp) for stamp in recording.stamps_ns[[0, -1]])
    if stretched:
        wanted = windows.stretched_stamps(start, end, window.frames)
    else:
        wanted = windows.sample_stamps(end, window.seconds, window.frames)
    return session.predict({"bodies": windows.resample(recording.stamps_ns, recording.joints, wanted)[None]})


def test_shipped_package_reaches_stated_accuracy(session: Session, recordings: list[Recording]) -> None:
    assert {recording.truth for recording in recordings} == set(session.package.labels)
    stated = session.package.provenance.accuracy
    assert stated >= 0.85
    stretched = session.package.provenance.figures.get("clips") == "stretched"
    right = [offline(session, recording, stretched).top(1)[0][0] == recording.truth for recording in recordings]
    spread = 3 * np.sqrt(stated * (1 - stated) / len(right))
    assert np.mean(right) == pytest.approx(stated, abs=spread)


def test_shipped_package_live_equals_offline(session: Session, recordings: list[Recording]) -> None:
    """One recognizer through all recordings one after the other, each body or hand with its own id."""
    recognizer = ActionRecognizer(session, interval_s=0.0, min_seconds=0.0)
    start_ns = 0
    for number, recording in enumerate(recordings[:30]):
        last: list[ActionPrediction] = []
        for index, stamp in enumerate(recording.stamps_ns):
            joints = recording.joints[index]
            nowhere = np.full((len(joints), 2), np.nan, np.float32)
            body = Body(f"body_{number}", recording.layout, joints, nowhere, np.ones(len(joints), np.float32))
            seen = [body] if np.isfinite(joints).any() else []
            last = update(recognizer, start_ns + int(stamp), seen, predict=index == len(recording.stamps_ns) - 1)
        start_ns += int(recording.stamps_ns[-1]) + 2 * NANOSECONDS
        expected = offline(session, recording)
        (live,) = [window for window in last if window.body_id == f"body_{number}"]
        assert (live.label, live.class_id) == (expected.label, expected.class_id)
        assert live.confidence == pytest.approx(expected.confidence, abs=1e-5)


def test_shipped_package_name_equals_folder() -> None:
    assert [package.load(folder).name for folder in PACKAGES] == [folder.name for folder in PACKAGES]
