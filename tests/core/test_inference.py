"""Sessions: predictions of a network whose answer can be worked out by hand, and what they refuse."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from actrec import inference, package
from actrec.errors import ConfigError, DeviceError, InputError, MissingLibraryError, PackageError
from actrec.inference import Session
from actrec.package import InputSpec, ModelPackage
from tests.tiny_model import FRAMES, LABELS, RAW, person_at, tiny_description, tiny_onnx, write_tiny


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return inference.load(write_tiny(tmp_path / "tiny"))


def clip_at(x: float, z: float = 2.0, frames: int = FRAMES) -> dict[str, np.ndarray]:
    return {"bodies": np.tile(person_at(x, z), (1, frames, 1, 1))}


def test_prediction_is_the_softmax_of_what_the_network_says(session: Session) -> None:
    prediction = session.predict(clip_at(0.1, 4.05))
    logits = np.array([-0.8, 0.8, 0.4])
    expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(prediction.probabilities, expected, atol=1e-4)
    assert prediction.probabilities.dtype == np.float32
    assert prediction.labels == LABELS
    assert (prediction.label, prediction.class_id) == ("right", 1)
    assert prediction.confidence == pytest.approx(expected[1], abs=1e-4)


def test_temperature_flattens(tmp_path: Path) -> None:
    description = tiny_description(threshold=0.0)
    cool = replace(description, rejection=replace(description.rejection, temperature=4.0))
    package.write(tmp_path / "cool", cool, tiny_onnx())
    logits = np.array([-0.8, 0.8, 0.4]) / 4
    probabilities = inference.load(tmp_path / "cool").predict(clip_at(0.1, 4.05)).probabilities
    np.testing.assert_allclose(probabilities, np.exp(logits) / np.exp(logits).sum(), atol=1e-4)


def test_below_the_threshold_it_is_unknown_but_top_still_tells(session: Session) -> None:
    prediction = session.predict(clip_at(0.0, 4.0))
    assert (prediction.label, prediction.class_id) == ("unknown", -1)
    assert prediction.confidence == pytest.approx(1 / 3, abs=1e-4)
    assert [label for label, _ in prediction.top(2)] == ["left", "right"]


def test_many_clips_in_one_run_are_as_one_by_one(session: Session) -> None:
    rng = np.random.default_rng(0)
    clips = [clip_at(*rng.uniform((-0.2, 3.9), (0.2, 4.1))) for _ in range(7)]
    together = session.predict_many(clips)
    for clip, prediction in zip(clips, together, strict=True):
        np.testing.assert_allclose(session.predict(clip).probabilities, prediction.probabilities, atol=1e-6)
    assert session.predict_many([]) == []


def test_missing_joints_are_allowed(session: Session) -> None:
    clip = clip_at(-1.0)
    clip["bodies"][:, :, 8:12] = np.nan
    assert session.predict(clip).label == "left"


def test_fewer_bodies_are_padded_and_more_refused(tmp_path: Path) -> None:
    session = inference.load(write_tiny(tmp_path / "two", bodies=2))
    assert session.predict(clip_at(-1.0)).label == "left"
    three = {"bodies": np.tile(clip_at(-1.0)["bodies"], (3, 1, 1, 1))}
    with pytest.raises(InputError, match=r"\[3, 8, 25, 3\].*up to 2 bodies"):
        session.predict(three)


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
def test_wrong_clips_are_refused_with_their_shape(session: Session, bodies: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        session.predict({"bodies": bodies})


def test_clip_keys_are_checked(session: Session) -> None:
    for clip, message in (
        ({}, "no key; known: bodies, pixels"),
        ({"body": clip_at(0)["bodies"]}, "unknown key 'body'; known: bodies"),
        ({"pixels": np.zeros((1, FRAMES, 25, 2), np.float32)}, "made from 'bodies'.*clip holds pixels"),
        ({**clip_at(0), "hands": np.zeros(3, np.float32)}, r"hands are \[3\], expected \[M, T, 2, 21, 3\] of 8 frames"),
        ({**clip_at(0), "pixels": np.zeros((1, FRAMES, 20, 2), np.float32)}, r"\[1, 8, 20, 2\].*V = 25"),
        ({**clip_at(0), "motion": np.full((1, FRAMES, 25, 2), np.inf, np.float32)}, "motion hold infinite"),
        ({**clip_at(0), "colour": np.zeros((FRAMES, 4, 4, 3), np.float32)}, "colour are float32, expected uint8"),
        ({**clip_at(0), "flow": np.zeros((FRAMES - 1, 4, 4, 3), np.float32)}, r"\[7, 4, 4, 3\].*8 frames"),
    ):
        with pytest.raises(InputError, match=message):
            session.predict(clip)


def test_network_that_gives_nan_says_unknown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    session = inference.load(write_tiny(tmp_path / "poison", poison=True))
    near, far = session.predict_many([clip_at(-1.0, z=0.5), clip_at(-1.0, z=2.0)])
    assert (near.label, near.class_id, near.confidence, near.top(3)) == ("unknown", -1, 0.0, [])
    assert far.label == "left"
    assert "gave NaN for 1 of 2 clips" in caplog.text


def foreign(folder: Path, description: ModelPackage, network: bytes) -> str:
    package.write(folder, description, network)
    with pytest.raises(PackageError) as caught:
        inference.load(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    return str(caught.value)


def test_label_count_that_is_not_the_networks(tmp_path: Path) -> None:
    message = foreign(tmp_path / "p", tiny_description(labels=("a", "b", "c", "d")), tiny_onnx())
    assert "4 labels" in message and "[N, 3]" in message


def test_input_name_that_is_not_the_networks(tmp_path: Path) -> None:
    assert "['body']" in foreign(tmp_path / "p", tiny_description(), tiny_onnx(name="skeleton"))


def test_input_shape_that_is_not_the_networks(tmp_path: Path) -> None:
    message = foreign(tmp_path / "p", tiny_description(), tiny_onnx(frames=9))
    assert "[N, 1, 3, 8, 25]" in message and "[N, 1, 3, 9, 25]" in message


def test_fixed_batch_is_refused(tmp_path: Path) -> None:
    assert "[1, 1, 3, 8, 25]" in foreign(tmp_path / "p", tiny_description(), tiny_onnx(batch=1))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"modality": "scent"}, "scent"),
        ({"layout": "octopus_64"}, "octopus_64"),
        ({"preprocessing": {**RAW, "whiten": True}}, "whiten"),
        ({"preprocessing": {**RAW, "centre": 3}}, "centre"),
        ({"shape": (1, 75, FRAMES)}, "[N, 1, 75, 8]"),
    ],
)
def test_inputs_that_this_version_cannot_make(tmp_path: Path, change: dict[str, object], word: str) -> None:
    description = tiny_description()
    spec: InputSpec = replace(description.inputs[0], **change)  # type: ignore[arg-type]
    assert word in foreign(tmp_path / "p", replace(description, inputs=(spec,)), tiny_onnx())


def test_bodies_and_window_must_fit_the_shape(tmp_path: Path) -> None:
    assert "bodies" in foreign(tmp_path / "a", replace(tiny_description(), bodies=2), tiny_onnx())
    wrong = replace(tiny_description(), window=replace(tiny_description().window, frames=9))
    assert "9" in foreign(tmp_path / "b", wrong, tiny_onnx())


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a network", tiny_onnx()[:200]])
def test_network_that_is_none(tmp_path: Path, content: bytes) -> None:
    assert "model.onnx cannot be opened" in foreign(tmp_path / "p", tiny_description(), content)


def test_backends_are_found_by_name(tmp_path: Path) -> None:
    tiny = write_tiny(tmp_path / "tiny")
    assert inference.load(tiny, backend="onnxruntime", threads=2).backend.device == "CPU, 2 threads"
    with pytest.raises(ConfigError, match="unknown inference backend 'caffe'; known: onnxruntime"):
        inference.load(tiny, backend="caffe")
    with pytest.raises(ConfigError, match=r"unknown option thread .*known: device, threads"):
        inference.load(tiny, thread=2)
    with pytest.raises(ConfigError, match="threads is 0"):
        inference.load(tiny, threads=0)


def test_cuda_that_is_not_there_is_no_silent_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    tiny = write_tiny(tmp_path / "tiny")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(DeviceError, match="onnxruntime-gpu"):
        inference.load(tiny, device="cuda")


def test_cuda_that_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The provider is listed, but ONNX Runtime fell back to the CPU, as it does where the driver is missing."""
    import onnxruntime

    tiny = write_tiny(tmp_path / "tiny")
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda *args, providers: real(*args, providers=["CPUExecutionProvider"])
    )
    with pytest.raises(DeviceError, match="could not start CUDA"):
        inference.load(tiny, device="cuda")
    assert inference.load(tiny).backend.device == "CPU, 1 thread"
    assert "goes on with the CPU" in caplog.text


def test_missing_library_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = write_tiny(tmp_path / "tiny")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "actrec.inference.onnxruntime_backend", raising=False)
    with pytest.raises(MissingLibraryError, match="pip install onnxruntime"):
        inference.load(tiny)
