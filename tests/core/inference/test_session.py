"""Sessions: predictions of a network with known outputs, and refused inputs."""

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actrec import inference
from actrec.features.clips import example_clip
from actrec.features.specs import InputSpec, WindowSpec
from actrec.inference import package
from actrec.inference import session as inference_session
from actrec.inference import session as sessions
from actrec.inference.onnxruntime_backend import OnnxRuntimeBackend
from actrec.inference.package import ModelPackage, Rejection
from actrec.inference.session import Session
from actrec.utils.errors import ConfigError, DeviceError, InputError, MissingLibraryError, PackageError
from tests.tiny_model import (
    FRAMES,
    LABELS,
    RAW,
    averaging_onnx,
    note_runs,
    person_at,
    tiny_description,
    tiny_onnx,
    write_any,
    write_tiny,
)


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return inference.load(write_tiny(tmp_path / "tiny"))


def clip_at(x: float, z: float = 2.0, frames: int = FRAMES) -> dict[str, np.ndarray]:
    return {"bodies": np.tile(person_at(x, z), (1, frames, 1, 1))}


def test_predict_probabilities_are_softmax_of_logits(session: Session) -> None:
    prediction = session.predict(clip_at(0.1, 4.05))
    logits = np.array([-0.8, 0.8, 0.4])
    expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(prediction.probabilities, expected, atol=1e-4)
    assert prediction.probabilities.dtype == np.float32
    assert prediction.labels == LABELS
    assert (prediction.label, prediction.class_id) == ("right", 1)
    assert prediction.confidence == pytest.approx(expected[1], abs=1e-4)


def test_softmax_temperature_flattens(tmp_path: Path) -> None:
    description = tiny_description(threshold=0.0)
    description = replace(description, rejection=replace(description.rejection, temperature=4.0))
    package.write(tmp_path / "warm", description, tiny_onnx())
    logits = np.array([-0.8, 0.8, 0.4]) / 4
    probabilities = inference.load(tmp_path / "warm").predict(clip_at(0.1, 4.05)).probabilities
    np.testing.assert_allclose(probabilities, np.exp(logits) / np.exp(logits).sum(), atol=1e-4)


def test_predict_below_threshold_is_unknown_with_top_labels(session: Session) -> None:
    prediction = session.predict(clip_at(0.0, 4.0))
    assert (prediction.label, prediction.class_id) == ("unknown", -1)
    assert prediction.confidence == pytest.approx(1 / 3, abs=1e-4)
    assert [label for label, _ in prediction.top(2)] == ["left", "right"]


def test_predict_many_equals_single_predictions(session: Session) -> None:
    rng = np.random.default_rng(0)
    clips = [clip_at(*rng.uniform((-0.2, 3.9), (0.2, 4.1))) for _ in range(7)]
    predictions = session.predict_many(clips)
    for clip, prediction in zip(clips, predictions, strict=True):
        np.testing.assert_allclose(session.predict(clip).probabilities, prediction.probabilities, atol=1e-6)
    assert session.predict_many([]) == []


def test_run_results_share_no_memory(session: Session) -> None:
    """Each run returns its own array of logits, for any batch size, strides and thread."""
    runtime = session.backend
    assert isinstance(runtime, OnnxRuntimeBackend)
    rng = np.random.default_rng(0)
    batches = [rng.normal(0, 1, (n, 1, 3, FRAMES, 25)).astype(np.float32) for n in (1, 4, 1, 3)] * 20
    expected = [runtime._session.run(None, {"body": batch})[0] for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda batch: runtime.run({"body": batch}), batches))
    for logits, reference in zip(results, expected, strict=True):
        np.testing.assert_array_equal(logits, reference)
    fortran_order = np.asfortranarray(batches[1])
    np.testing.assert_array_equal(runtime.run({"body": fortran_order}), expected[1])
    for inputs in ({}, {"other": batches[0]}, {"body": batches[0][..., :7]}, {"body": batches[0].astype(np.float64)}):
        with pytest.raises(InputError, match="the network failed"):
            runtime.run(inputs)


def test_predict_missing_joints_allowed(session: Session) -> None:
    clip = clip_at(-1.0)
    clip["bodies"][:, :, 8:12] = np.nan
    assert session.predict(clip).label == "left"


def test_predict_fewer_bodies_padded_more_refused(tmp_path: Path) -> None:
    session = inference.load(write_tiny(tmp_path / "two", bodies=2))
    assert session.predict(clip_at(-1.0)).label == "left"
    clip = {"bodies": np.tile(clip_at(-1.0)["bodies"], (3, 1, 1, 1))}
    with pytest.raises(InputError, match=r"\[3, 8, 25, 3\].*up to 2 bodies"):
        session.predict(clip)


@pytest.mark.parametrize(
    ("bodies", "message"),
    [
        (np.zeros((1, FRAMES, 20, 3), np.float32), r"\[1, 8, 20, 3\].*25 joints \(kinect_v2_25\)"),
        (np.zeros((1, FRAMES - 1, 25, 3), np.float32), r"\[1, 7, 25, 3\].*8 frames"),
        (np.zeros((FRAMES, 25, 3), np.float32), r"\[8, 25, 3\]"),
        (np.zeros((1, FRAMES, 25, 2), np.float32), r"\[1, 8, 25, 2\]"),
        (np.zeros((1, FRAMES, 25, 3), np.int64), "int64"),
        (np.full((1, FRAMES, 25, 3), np.nan, np.float32), "no joint"),
        (np.full((1, FRAMES, 25, 3), np.inf, np.float32), "infinite"),
        (np.zeros((0, FRAMES, 25, 3), np.float32), "no joint"),
    ],
)
def test_predict_wrong_clip_refused_with_shape(session: Session, bodies: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        session.predict({"bodies": bodies})


def test_predict_dataset_clip_refused(session: Session) -> None:
    with pytest.raises(InputError, match=r"mapping of bodies, .*, not list; .* by clip.sample\(\d.*, 8\)"):
        session.predict([clip_at(0)["bodies"]])  # type: ignore[arg-type]


def test_predict_unknown_key_refused(session: Session) -> None:
    for clip, message in (
        ({}, "no key; known: bodies, pixels"),
        ({"body": clip_at(0)["bodies"]}, "unknown key 'body'; known: bodies"),
        ({"pixels": np.zeros((1, FRAMES, 25, 2), np.float32)}, "needs 'bodies'.*clip has pixels"),
        ({**clip_at(0), "hands": np.zeros(3, np.float32)}, r"hands are \[3\], expected \[M, T, 2, 21, 3\] of 8 frames"),
        ({**clip_at(0), "pixels": np.zeros((1, FRAMES, 20, 2), np.float32)}, r"\[1, 8, 20, 2\].*V = 25"),
        ({**clip_at(0), "motion": np.full((1, FRAMES, 25, 2), np.inf, np.float32)}, "motion hold infinite"),
        ({**clip_at(0), "color": np.zeros((FRAMES, 4, 4, 3), np.float32)}, "color are float32, expected uint8"),
        ({**clip_at(0), "flow": np.zeros((FRAMES - 1, 4, 4, 3), np.float32)}, r"\[7, 4, 4, 3\].*8 frames"),
    ):
        with pytest.raises(InputError, match=message):
            session.predict(clip)


def test_predict_nan_logits_is_unknown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    session = inference.load(write_tiny(tmp_path / "poison", poison=True))
    near, far = session.predict_many([clip_at(-1.0, z=0.5), clip_at(-1.0, z=2.0)])
    assert (near.label, near.class_id, near.confidence, near.top(3)) == ("unknown", -1, 0.0, [])
    assert far.label == "left"
    assert "gave NaN for 1 of 2 clips" in caplog.text


JOINTS = InputSpec("body", "body", "kinect_v2_25", (1, 3, 4, 25), "m", RAW)
WEIGHTS = np.array([[2.0, -1.0, 0.0]])


def three_clips(combine: str) -> WindowSpec:
    """Return a window of ten frames as three clips of four: 0–3, 3–6, 6–9."""
    return WindowSpec(2.0, 10, clip=4, stride=3, combine=combine)


def moving_clip() -> dict[str, np.ndarray]:
    return {"bodies": np.stack([person_at(0.3 * t, 1.0 - 0.1 * t) for t in range(10)])[None]}


def clip_scores(window: WindowSpec) -> np.ndarray:
    """Return the expected logits [clips, classes]."""
    bodies = moving_clip()["bodies"]
    return np.array([bodies[:, s : s + 4].mean() for s in window.starts])[:, None] * WEIGHTS


def probabilities_of(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("combine", ["mean", "logits", "max"])
def test_combined_scores_match_hand_computation(tmp_path: Path, combine: str) -> None:
    window = three_clips(combine)
    assert window.starts == (0, 3, 6)
    session = inference.load(write_any(tmp_path / "p", [JOINTS], window, weights=WEIGHTS))
    scores = clip_scores(window)
    probabilities = probabilities_of(scores)
    assert np.ptp(probabilities[:, 0]) > 0.1
    expected = {
        "mean": probabilities.mean(axis=0),
        "logits": probabilities_of(scores.mean(axis=0)),
        "max": probabilities.max(axis=0) / probabilities.max(axis=0).sum(),
    }[combine]
    found = session.predict(moving_clip())
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)
    np.testing.assert_allclose(session.softmax(session.logits([moving_clip()] * 2)), [expected] * 2, atol=1e-5)
    assert found.confidence == pytest.approx(found.probabilities.sum() * expected.max(), abs=1e-5)


def test_predict_rejects_combined_scores(tmp_path: Path) -> None:
    """Temperature and background apply to the window: equal clips give the result of one clip."""
    rejection = Rejection(threshold=0.5, temperature=2.0, background=1.0)
    description = replace(tiny_description(), inputs=(JOINTS,), window=WindowSpec(0.8, 4), rejection=rejection)
    network = averaging_onnx([JOINTS], WEIGHTS)
    package.write(tmp_path / "one", description, network)
    single = inference.load(tmp_path / "one").predict({"bodies": np.tile(person_at(0.3), (1, 4, 1, 1))})
    for combine in ("mean", "logits", "max"):
        package.write(tmp_path / combine, replace(description, window=three_clips(combine)), network)
        combined = inference.load(tmp_path / combine).predict({"bodies": np.tile(person_at(0.3), (1, 10, 1, 1))})
        np.testing.assert_allclose(combined.probabilities, single.probabilities, atol=1e-5)
        assert combined.probabilities.sum() < 0.9 and combined.label == single.label


def test_predict_window_with_nan_clip_is_unknown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for combine in ("mean", "logits", "max"):
        scores = np.zeros((2, 3, 4), np.float32)
        scores[1, 2, 0] = np.nan
        found = inference_session.combined(scores, combine)
        assert np.isfinite(found[0]).all() and np.isnan(found[1]).any()
        session = inference.load(write_any(tmp_path / combine, [JOINTS], three_clips(combine), weights=WEIGHTS))
        run = session.backend.run

        def run_with_nan(inputs: dict[str, np.ndarray], run: Any = run) -> np.ndarray:
            rows = run(inputs).copy()
            rows[-1, 0] = np.nan
            return rows

        monkeypatch.setattr(session.backend, "run", run_with_nan)
        caplog.clear()
        assert session.predict(moving_clip()).label == "unknown"
        assert "gave NaN for 1 of 1 clips" in caplog.text


def test_combined_extreme_scores_do_not_overflow() -> None:
    scores = np.array([[[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]]], np.float32)
    mean, largest = (probabilities_of(inference_session.combined(scores, mode)[0] - 1e4) for mode in ("mean", "max"))
    np.testing.assert_allclose(mean, [0.5, 0.5, 0.0], atol=1e-6)
    np.testing.assert_allclose(largest, [0.5, 0.5, 0.0], atol=1e-6)


def test_predict_whole_window_input_repeated_for_each_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    joint_map = InputSpec("joint_map", "joint_map", "kinect_v2_25", (75, 12), "m", {"scope": "window"})
    session = inference.load(write_any(tmp_path / "p", [JOINTS, joint_map], three_clips("mean")))
    runs = note_runs(session, monkeypatch)
    session.predict(moving_clip())
    (inputs,) = runs
    assert inputs["body"].shape == (3, 1, 3, 4, 25) and inputs["joint_map"].shape == (3, 75, 12)
    assert (inputs["joint_map"] == inputs["joint_map"][:1]).all() and np.ptp(inputs["joint_map"][0, 0, :10]) > 0.5
    np.testing.assert_allclose(inputs["body"][:, 0, 0, 0, 0], [0.0, 0.9, 1.8], atol=1e-6)


def test_run_large_inputs_split_into_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unsplit = inference.load(write_any(tmp_path / "p", [JOINTS], three_clips("mean"), weights=WEIGHTS))
    monkeypatch.setattr(sessions, "RUN_BYTES", 2 * 4 * 3 * 4 * 25)
    session = inference.load(tmp_path / "p")
    runs = note_runs(session, monkeypatch)
    np.testing.assert_allclose(
        session.probabilities([moving_clip()] * 3), unsplit.probabilities([moving_clip()] * 3), atol=1e-6
    )
    assert [len(inputs["body"]) for inputs in runs] == [2, 2, 2, 2, 1]


def test_predict_observed_frames_replace_images(tmp_path: Path) -> None:
    crop = InputSpec("crop", "body_crop", "kinect_v2_25", (3, 4, 16, 16))
    session = inference.load(write_any(tmp_path / "p", [crop], three_clips("mean")))
    clip = example_clip([crop], 10)
    (spec, feature), *_ = inference_session.frame_inputs(session.package)
    frames = np.stack([feature.observe(view, spec) for view in feature._views(clip, spec)])  # type: ignore[attr-defined]
    observed = {"bodies": clip["bodies"], "crop": frames}
    np.testing.assert_array_equal(session.predict(observed).probabilities, session.predict(clip).probabilities)
    with pytest.raises(InputError, match="'crop' holds 9 observed frames, expected 10 frames"):
        session.predict({**observed, "crop": frames[:9]})
    with pytest.raises(InputError, match="needs 'color'.*clip has bodies"):
        session.predict({"bodies": clip["bodies"]})


def test_session_keys_equal_input_keys(tmp_path: Path) -> None:
    specs = [
        JOINTS,
        InputSpec("hands", "hands", "hand_21", (1, 3, 4, 42), "px"),
        InputSpec("crop", "body_crop", "kinect_v2_25", (3, 4, 16, 16)),
    ]
    session = inference.load(write_any(tmp_path / "p", specs, three_clips("mean")))
    assert session.keys == {"bodies", "pixels", "hand_pixels"}


def test_body_layout_two_layouts_refused(tmp_path: Path) -> None:
    other = InputSpec("hand", "body", "hand_22", (1, 3, 4, 22), "m", RAW)
    message = load_error(
        tmp_path / "p",
        replace(tiny_description(), inputs=(JOINTS, other), window=WindowSpec(1.0, 4)),
        averaging_onnx([JOINTS, other], np.ones((2, 3))),
    )
    assert "hand_22 and as kinect_v2_25" in message


def load_error(folder: Path, description: ModelPackage, network: bytes) -> str:
    package.write(folder, description, network)
    with pytest.raises(PackageError) as raised:
        inference.load(folder)
    assert "\n" not in str(raised.value) and str(folder) in str(raised.value)
    return str(raised.value)


def test_session_wrong_label_count_refused(tmp_path: Path) -> None:
    message = load_error(tmp_path / "p", tiny_description(labels=("a", "b", "c", "d")), tiny_onnx())
    assert "4 labels" in message and "[N, 3]" in message


def test_session_wrong_input_name_refused(tmp_path: Path) -> None:
    assert "['body']" in load_error(tmp_path / "p", tiny_description(), tiny_onnx(name="skeleton"))


def test_session_wrong_input_shape_refused(tmp_path: Path) -> None:
    message = load_error(tmp_path / "p", tiny_description(), tiny_onnx(frames=9))
    assert "[N, 1, 3, 8, 25]" in message and "[N, 1, 3, 9, 25]" in message


def test_session_fixed_batch_refused(tmp_path: Path) -> None:
    assert "[1, 1, 3, 8, 25]" in load_error(tmp_path / "p", tiny_description(), tiny_onnx(batch=1))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"modality": "scent"}, "scent"),
        ({"layout": "octopus_64"}, "octopus_64"),
        ({"preprocessing": {**RAW, "whiten": True}}, "whiten"),
        ({"preprocessing": {**RAW, "center": 3}}, "center"),
        ({"preprocessing": {**RAW, "center": ["hip"]}}, "cannot be made"),
        ({"preprocessing": {**RAW, "placing": "running"}}, "or train it again"),  # of an earlier version
        ({"shape": (1, 75, FRAMES)}, "[N, 1, 75, 8]"),
    ],
)
def test_session_unknown_feature_refused(tmp_path: Path, change: dict[str, object], word: str) -> None:
    description = tiny_description()
    spec: InputSpec = replace(description.inputs[0], **change)  # type: ignore[arg-type]
    assert word in load_error(tmp_path / "p", replace(description, inputs=(spec,)), tiny_onnx())


def test_session_bodies_or_window_beside_shape_refused(tmp_path: Path) -> None:
    assert "bodies" in load_error(tmp_path / "a", replace(tiny_description(), bodies=2), tiny_onnx())
    description = replace(tiny_description(), window=replace(tiny_description().window, frames=9))
    assert "9" in load_error(tmp_path / "b", description, tiny_onnx())


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a network", tiny_onnx()[:200]])
def test_load_file_without_network_refused(tmp_path: Path, content: bytes) -> None:
    assert "model.onnx cannot be opened" in load_error(tmp_path / "p", tiny_description(), content)


def test_load_unsupported_operator_refused_with_name(tmp_path: Path) -> None:
    message = load_error(tmp_path / "p", tiny_description(), tiny_onnx(operator="Telepathy"))
    assert "model.onnx cannot be opened" in message and "Telepathy" in message and "export it again" in message


def test_session_network_of_nan_refused(tmp_path: Path) -> None:
    message = load_error(tmp_path / "p", tiny_description(), tiny_onnx(bias_at=float("nan")))
    assert "the network gives NaN for an example clip on CPU, 1 thread: export it again" in message


def test_load_backend_found_by_name(tmp_path: Path) -> None:
    tiny = write_tiny(tmp_path / "tiny")
    assert inference.load(tiny, backend="onnxruntime", threads=2).backend.device == "CPU, 2 threads"
    with pytest.raises(ConfigError, match="unknown inference backend 'caffe'; known: onnxruntime"):
        inference.load(tiny, backend="caffe")
    with pytest.raises(ConfigError, match=r"unknown option thread .*known: device, precision, threads"):
        inference.load(tiny, thread=2)
    with pytest.raises(ConfigError, match="threads is 0"):
        inference.load(tiny, threads=0)


def test_load_missing_cuda_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    tiny = write_tiny(tmp_path / "tiny")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(DeviceError, match="onnxruntime-gpu"):
        inference.load(tiny, device="cuda")


def test_load_cuda_that_does_not_start_refused_or_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """CUDA is listed as available, but ONNX Runtime falls back to the CPU, as with a missing driver."""
    import onnxruntime

    tiny = write_tiny(tmp_path / "tiny")
    create = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    asked = []

    def fall_back(*args: object, providers: list[object], **rest: object) -> object:
        asked.append(providers[0])
        return create(*args, providers=["CPUExecutionProvider"], **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", fall_back)
    with pytest.raises(DeviceError, match="could not start CUDA"):
        inference.load(tiny, device="cuda")
    assert asked == [("CUDAExecutionProvider", {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"})]
    assert inference.load(tiny).backend.device == "CPU, 1 thread"
    assert "uses the CPU" in caplog.text


def test_load_foreign_network_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    foreign = package.write(tmp_path / "foreign", tiny_description(), tiny_onnx(operator="Telepathy"))
    with pytest.raises(PackageError, match=r"model.onnx cannot be opened: .*Telepathy.*: export it again"):
        inference.load(foreign)
    assert "".join(capfd.readouterr()) == ""


def test_load_missing_library_refused_with_install_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = write_tiny(tmp_path / "tiny")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "actrec.inference.onnxruntime_backend", raising=False)
    with pytest.raises(MissingLibraryError, match="pip install onnxruntime"):
        inference.load(tiny)


def test_is_rejected_nan_as_predict_gives_unknown(session: Session) -> None:
    rows = np.array([[np.nan] * 3, [0.9, 0.1, 0.0]], np.float32)
    assert [session.to_prediction(row).label for row in rows] == ["unknown", "left"]
    assert session.is_rejected(rows).tolist() == [True, False]
