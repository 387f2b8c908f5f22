"""`actrec explain`: the joints that a label rests on, the values inside networks, and the figures."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from actrec import inference
from actrec.cli import main
from actrec.explanation import attention, figures, occlusion
from actrec.explanation.attention import Reader
from actrec.features.clips import each_clip, example_clip
from actrec.inference import package
from actrec.inference.session import Session
from actrec.skeleton.layouts import KINECT_V2_25
from tests.tiny_model import FRAMES, LABELS, person_at, tiny_description, write_tiny

pytest.importorskip("matplotlib")
pytest.importorskip("onnx")


@pytest.fixture
def tiny(tmp_path: Path) -> Session:
    return inference.load(write_tiny(tmp_path / "tiny"))


def left_by_one_joint(joint: str, frames: range = range(FRAMES)) -> dict[str, np.ndarray]:
    """Return a window of a person in the middle, but for one joint far to the left in some frames."""
    bodies = np.stack([np.stack([person_at(0.0, 4.0)] * FRAMES)])
    bodies[0, frames.start : frames.stop, KINECT_V2_25.index[joint], 0] = -10.0
    return {"bodies": bodies}


def test_importance_is_of_joint_and_time_that_decide(tiny: Session) -> None:
    clip = left_by_one_joint("hand_tip_right", range(4, 5))
    found = occlusion.importance(tiny, clip, LABELS.index("left"))
    assert found is not None and found.values.shape == (25, occlusion.SEGMENTS)
    at = np.unravel_index(int(found.values.argmax()), found.values.shape)
    assert (found.names[at[0]], at[1]) == ("hand_tip_right", 4) and found.whole.argmax() == at[0]
    others = np.delete(found.whole, [0, at[0]])  # a missing root moves to the origin
    assert np.abs(others).max() < 1e-5 < found.whole[at[0]], "the other joints are where the rest of the body is"
    assert found.whole[at[0]] == pytest.approx(found.values[at], abs=1e-5)


def test_importance_is_of_published_probability(tiny: Session) -> None:
    """It has a temperature and a background class, beside which the label may lose without any other label."""
    rejection = package.Rejection(0.5, temperature=2.0, background=1.5)
    session = Session(replace(tiny.package, rejection=rejection), tiny.backend)
    clip, label = left_by_one_joint("hand_tip_right"), LABELS.index("left")
    found = occlusion.importance(session, clip, label)
    joint = KINECT_V2_25.index["hand_tip_right"]
    hidden = {"bodies": clip["bodies"].copy()}
    hidden["bodies"][0, :, joint] = np.nan
    seen, unseen = session.probabilities([clip, hidden])[:, label]
    assert found is not None and found.whole[joint] == pytest.approx(np.log(seen / unseen), abs=1e-5)


def test_importance_slow_network_hides_limbs_and_then_nothing(tiny: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(np.arange(0.0, 100.0, 1.0))
    monkeypatch.setattr(occlusion.time, "monotonic", lambda: next(now))  # a prediction takes a second
    limbs = occlusion.importance(tiny, left_by_one_joint("elbow_left"), 0, budget_s=60.0)
    assert limbs is not None and limbs.names == occlusion.LIMBS and limbs.names[limbs.whole.argmax()] == "left arm"
    assert sorted(joint for members in limbs.members for joint in members) == list(range(25))
    assert occlusion.importance(tiny, left_by_one_joint("elbow_left"), 0, budget_s=5.0) is None


def test_dynamicity_is_of_change_in_shape_alone() -> None:
    pose = np.random.default_rng(0).normal(size=(25, 3))
    moved = np.stack([pose, pose + 0.3, 2 * pose])
    assert attention.dynamicity(moved) == pytest.approx(0, abs=1e-12)
    assert attention.dynamicity(np.stack([pose, pose[::-1]])) > 0.1 and np.isnan(attention.dynamicity(pose[None]))


def test_dynamicity_held_poses_before_recording_not_counted() -> None:
    poses = np.random.default_rng(0).normal(size=(4, 25, 3))
    held = np.concatenate([poses[:1], poses[:1], poses[:1], poses])
    assert 0 < attention.dynamicity(held) == pytest.approx(attention.dynamicity(poses))
    assert attention.dynamicity(held[:4]) == pytest.approx(0, abs=1e-12), "nothing moves"


def test_reader_values_equal_network(tmp_path: Path) -> None:
    """`tests/nodes/test_every_family_live.py` reads the graphs of all other families."""
    torch = pytest.importorskip("torch")
    from actrec_models.export.onnx_graph import trace
    from actrec_models.layers.res_tcn import informativeness
    from actrec_models.networks import create
    from tests.models.small import SMALL

    torch.manual_seed(0)
    network = create("res_tcn_bjcn", num_classes=3, **SMALL["res_tcn_bjcn"]).eval()
    specs = tuple(network.input_specs)
    description = replace(tiny_description(2), family="res_tcn_bjcn", window=network.window, inputs=specs)
    made = package.write(tmp_path / "model", description, trace(network))
    clip = example_clip(specs, made.window.frames, made.bodies)
    (inputs,) = each_clip(clip, specs, made.window)
    found = Reader(made, made.read_onnx("float32"), "model.onnx").read(inputs, clip)
    with torch.inference_mode():
        x0 = torch.from_numpy(inputs["joint_map"])[None]
        layers = network.skeleton.joints(x0)
    own = found.joints["informativeness (Eq. 2)"]
    np.testing.assert_allclose(own, informativeness(layers, "sum", x0)[0][:25].numpy(), atol=1e-5)
    assert found.filters is not None and found.filters.shape == (attention.TOP_FILTERS, 25)
    logits = inference.load(made, threads=1).last_logits([clip])[0]
    np.testing.assert_allclose(np.log(found.probabilities), logits - np.logaddexp.reduce(logits), atol=1e-4)


@pytest.mark.slow
def test_explain_subsequences_are_of_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """P-I3D takes recorded frames, and poses of the whole recording, which are no window of the live recognizer."""
    torch = pytest.importorskip("torch")
    from actrec import datasets
    from actrec_models.evaluation import scoring
    from actrec_models.export.onnx_graph import trace
    from actrec_models.networks import create
    from tests.models.small import SMALL

    torch.manual_seed(0)
    network = create("p_i3d", num_classes=2, **{**SMALL["p_i3d"], "clips": 2}).eval()
    with torch.no_grad():
        network.attention.w_s.weight.normal_(std=20.0)  # an untrained attention is nearly equal for all poses
    options = {"actions": ["wave", "throw"], "actors": 2, "held_out": 1, "takes": 1}
    settings = {"clips": "subsequences", "dataset_options": options}
    own = tiny_description(1)
    made = replace(own.provenance, dataset="rendered", split="cross_actor", settings=settings)
    specs = tuple(network.input_specs)
    description = replace(
        own, family="p_i3d", labels=("wave", "throw"), window=network.window, inputs=specs, provenance=made
    )
    model = package.write(tmp_path / "model", description, trace(network))
    clip = datasets.create("rendered", tmp_path, split="cross_actor", part="test", **options)[0]
    inputs = list(scoring.clip_inputs(clip, model, "subsequences"))
    assert len(inputs) == 2
    with torch.inference_mode():
        tensors = {name: torch.from_numpy(np.stack([each[name] for each in inputs])) for name in inputs[0]}
        alpha = network.attend(tensors["pose"])[-1].tolist()
        probabilities = network(**tensors).mean(dim=0).softmax(0).tolist()
    command = ["explain", str(model.path), clip.name, "--data", str(tmp_path), "--out", str(tmp_path / "why"), "--json"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["attention"].values()) == pytest.approx(alpha, abs=2e-3)
    assert [found["probabilities"][name] for name in ("wave", "throw")] == pytest.approx(probabilities, abs=1e-3)
    assert (tmp_path / "why/attention.png").is_file() and "importance" not in found
    assert main([*command[:2], *command[3:], "--per-class", "1"]) == 0
    assert (tmp_path / "why/attention_by_class.png").is_file()


def test_explain_missing_recording_without_torch_names_the_recording(
    tmp_path: Path, tiny: Session, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["explain", str(tiny.package.path), "wav.mp4", "--out", str(tmp_path / "why")]) == 1
    assert "there is no recording 'wav.mp4': check the path" in capsys.readouterr().err


def test_write_replaces_the_figures_of_an_earlier_explanation(tmp_path: Path) -> None:
    (tmp_path / "mine.png").touch()
    for names in (("attention", "importance"), ("importance",)):
        figures.write(tmp_path, ((name, figures.pyplot().figure()) for name in names))
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["importance.png", "mine.png"]


def test_explain_recording_writes_figures_or_names_cause(
    tmp_path: Path, tiny: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    recording = tmp_path / "left.npz"
    positions = example_clip([tiny.package.inputs[0]], 4 * FRAMES)["bodies"] - np.float32([0.2, 0, 0])
    stamps = np.arange(4 * FRAMES) * 100_000_000
    np.savez(recording, positions=positions, stamps_ns=stamps, layout="kinect_v2_25")
    model, out = str(tiny.package.path), tmp_path / "why"
    assert main(["explain", model, str(recording), "--at", "2.5", "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert next(iter(found["probabilities"])) == "left" and len(found["importance"]) == 5
    assert found["written"] == [str(out / "importance.png")] and (out / "importance.png").stat().st_size > 10_000
    assert main(["explain", model, str(recording), "--out", str(out), "--person", "body_9"]) == 1
    assert "no person body_9 at that time; there are" in capsys.readouterr().err
    assert main(["explain", model, str(recording), "--out", str(out), "--at", "99"]) == 1
    assert "lasts" in capsys.readouterr().err
    assert main(["explain", model, str(recording), "--out", str(recording)]) == 1
    assert "it is a file" in capsys.readouterr().err
    for arguments, message in (
        ([str(recording), "--dataset", "nucla", "--split", "view"], "--dataset, --split cannot be used with a record"),
        (["--at", "1", "--person", "body_1", "--label", "left"], "--at, --person, --label cannot be used without CLIP"),
        (["a clip", "--at", "1"], "--at cannot be used with the dataset's clip a clip"),
    ):
        assert main(["explain", model, *arguments, "--out", str(out)]) == 2
        assert message in capsys.readouterr().err
    assert main(["explain", "run/last.ckpt", str(recording), "--out", str(out)]) == 2
    assert "actrec export run/last.ckpt" in capsys.readouterr().err
