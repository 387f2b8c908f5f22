"""`actrec bench nucla-live` and `simulated-nucla`."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from actrec import inference
from actrec.datasets.nucla import CLASSES
from actrec.skeleton.layouts import KINECT_V2_25
from actrec.types import Body
from actrec.utils.errors import DeviceError, InputError
from actrec_nodes.bringup.processes import Host, ros
from benchmarks import live_accuracy
from benchmarks.live_accuracy import SimulatedOutcome, _is_swapped, _nearest
from tests.tiny_model import person_at, write_tiny


@pytest.mark.slow
@pytest.mark.ros
def test_nucla_live_predictions_are_offline_predictions(data_root: Path, tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "tiny", labels=CLASSES, seconds=5.0, frames=60, threshold=0.6)
    where = ["--model", str(model.path), "--data", str(data_root), "--out", str(tmp_path / "o.csv")]
    figures = live_accuracy.live([*where, "--limit", "12"])
    assert figures["sequences"] == figures["sequences that agree"] == 12
    assert figures["messages sent"] == figures["messages received"] > 200
    assert figures["sequences without a label"] == figures["messages lost"] == 0
    assert figures["top-1 live"] == figures["top-1 offline"]
    assert figures["largest difference of confidence"] < 1e-6
    rows = (tmp_path / "o.csv").read_text().splitlines()
    assert len(rows) == 13 and rows[0].startswith("name,truth,live_top")


@pytest.mark.ros
def test_nucla_live_node_that_does_not_start_raises_device_error(data_root: Path, tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "tiny", labels=CLASSES)
    namespace = "actrec_test_bench"
    parameters = {"model": model.path, "onnxruntime.device": "tpu"}
    with live_accuracy.node_process("recognizer_node", namespace, parameters) as child:
        child.wait(60)
        with ros(["--ros-args", "-r", f"__ns:=/{namespace}"]) as context, Host(context) as host:
            peer = live_accuracy.Peer(context=context)
            host.add(peer)
            with pytest.raises(DeviceError, match="ended with status 1"):
                peer.connect(child)


def test_check_classes_of_another_model_raises_input_error(data_root: Path, tmp_path: Path) -> None:
    session = inference.load(write_tiny(tmp_path / "tiny"))
    with pytest.raises(InputError, match="does not know .*carry"):
        live_accuracy.check_classes(session, live_accuracy.test_sequences(data_root))


def test_choose_samples_each_class_equally_with_a_fixed_seed(data_root: Path) -> None:
    sequences = live_accuracy.test_sequences(data_root)
    assert len(sequences) == 464
    drawn = live_accuracy.choose(sequences, 4)
    assert Counter(sequence.meta["label_name"] for sequence in drawn) == dict.fromkeys(CLASSES, 4)
    assert len({sequence.name for sequence in drawn}) == 40
    assert all(sequence.meta["view"] == 3 and len(sequence) >= 12 for sequence in drawn)
    assert [s.name for s in live_accuracy.choose(sequences, 4)] == [s.name for s in drawn]


def body(positions: np.ndarray) -> Body:
    return Body("body_1", "kinect_v2_25", positions, np.zeros((25, 2), np.float32), np.ones(25, np.float32))


def test_nearest_ignores_a_false_detection() -> None:
    truth, near, far = body(person_at(0.0)), body(person_at(0.1)), body(person_at(2.0))
    assert _nearest([far, near], truth) is near


def test_is_swapped_detects_exchanged_sides() -> None:
    rng = np.random.default_rng(0)
    truth = body(rng.normal(size=(25, 3)).astype(np.float32))
    swapped = body(truth.positions[list(KINECT_V2_25.mirror)])
    assert _is_swapped(swapped, truth) and not _is_swapped(truth, truth)


def test_figures_of_two_sequences_are_shares_and_millimetres() -> None:
    errors = np.full((4, 25), 0.05)
    errors[:, 0] = np.nan
    parts = {"left hand": 2, "right hand": 1, "any hand": 3, "face": 4}
    seen = (10, 8, 5, 4, 4, 1, parts, errors)
    outcomes = [
        SimulatedOutcome("a", "carry", *seen, "carry", "carry", 0.9, "carry", "carry"),
        SimulatedOutcome("b", "throw", *seen, "carry", "unknown", 0.3, "throw", "unknown"),
    ]
    figures = live_accuracy.figures(outcomes)
    assert figures["top-1 from pixels"] == 0.5 and figures["unknown from pixels"] == 0.5
    assert figures["top-1 of the recorded joints"] == 1.0
    assert figures["frames with a skeleton, of processed frames"] == 0.5
    assert figures["frames with any hand, of processed frames"] == 0.6
    assert figures["joint error, median mm"] == 50.0
    assert figures["by joint"][0]["found"] == 0.0 and figures["by joint"][1]["median mm"] == 50.0
