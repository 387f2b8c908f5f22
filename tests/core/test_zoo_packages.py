"""The packages that ship: each opens and predicts; the N-UCLA one is as good as stated, live as offline."""

import os
from pathlib import Path

import numpy as np
import pytest

from actrec import inference, package, windows
from actrec.frames import NANOSECONDS
from actrec.inference import Session
from actrec.inference.clips import body_layout
from actrec.recognition import LabelledWindow, Recognizer
from actrec.recordings.nucla import CLASSES, read_nucla_npz
from actrec.recordings.sequence import SkeletonSequence
from actrec.skeleton.layouts import LAYOUTS

ZOO = Path(__file__).resolve().parents[2] / "models/zoo"
PACKAGES = sorted(path.parent for path in ZOO.glob("*/model.yaml"))


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda folder: folder.name)
def test_it_opens_predicts_and_has_a_card(folder: Path) -> None:
    session = inference.load(folder)
    described = session.package
    shape = (described.bodies, described.window.frames, len(LAYOUTS[body_layout(described)]), 3)
    clip = {"bodies": np.random.default_rng(0).normal(size=shape).astype(np.float32)}
    prediction = session.predict(clip)
    assert prediction.probabilities.shape == (len(described.labels),)
    total = prediction.probabilities.sum()  # the background's share is left out
    assert 0 < total < 1 if described.rejection.background is not None else total == pytest.approx(1.0, abs=1e-4)
    card = (folder / "README.md").read_text()
    assert "research use" in card.lower() and "research use" in described.provenance.licence
    assert described.rejection.threshold > 0 and described.rejection.calibrated_on
    assert not list(folder.glob("*.pkl")) + list(folder.glob("*.pt*")), "no pickles ship"


@pytest.fixture(scope="module")
def session() -> Session:
    folder = ZOO / "deepacts_graph_nucla"
    if not folder.is_dir():
        reason = f"{folder} is not there: train and export it (models/recipes)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return inference.load(folder)


@pytest.fixture(scope="module")
def sequences(data_root: Path) -> list[SkeletonSequence]:
    """Every fifth sequence of the test part."""
    return [s for s in read_nucla_npz(data_root / "nucla/nucla_skeletons.npz") if not s.meta["is_train"]][::5]


def offline(session: Session, sequence: SkeletonSequence) -> inference.Prediction:
    window = session.package.window
    wanted = windows.sample_stamps(int(sequence.stamps_ns[-1]), window.seconds, window.frames)
    return session.predict({"bodies": windows.resample(sequence.stamps_ns, sequence.bodies[0], wanted)[None]})


def test_classes_and_accuracy_are_as_stated(session: Session, sequences: list[SkeletonSequence]) -> None:
    assert session.package.labels == CLASSES
    stated = session.package.provenance.accuracy
    assert stated >= 0.88
    right = [offline(session, sequence).top(1)[0][0] == sequence.meta["label_name"] for sequence in sequences]
    spread = 3 * np.sqrt(stated * (1 - stated) / len(right))
    assert np.mean(right) == pytest.approx(stated, abs=spread)


def test_live_is_offline(session: Session, sequences: list[SkeletonSequence]) -> None:
    """One recognizer through all sequences one after the other, each body with its own id."""
    recognizer = Recognizer(session, interval_s=0.0, min_seconds=0.0)
    start_ns = 0
    for number, sequence in enumerate(sequences[:30]):
        last: list[LabelledWindow] = []
        for index, stamp in enumerate(sequence.stamps_ns):
            bodies = sequence.bodies_at(index)
            for body in bodies:
                body.body_id = f"body_{number}"
            last = recognizer.update(start_ns + int(stamp), bodies, predict=index == len(sequence) - 1)
        start_ns += int(sequence.stamps_ns[-1]) + 2 * NANOSECONDS
        expected = offline(session, sequence)
        (live,) = [window for window in last if window.body_id == f"body_{number}"]
        assert (live.label, live.class_id) == (expected.label, expected.class_id)
        assert live.confidence == pytest.approx(expected.confidence, abs=1e-5)


def test_names_of_packages_are_those_of_their_folders() -> None:
    assert [package.load(folder).name for folder in PACKAGES] == [folder.name for folder in PACKAGES]
