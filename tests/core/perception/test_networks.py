"""The networks of perception: files, regions, detections and landmarks."""

import dataclasses
import hashlib

import numpy as np
import onnxruntime
import pytest
import yaml

from actrec.cameras.simulated import SimulatedCamera
from actrec.inference import onnxruntime_backend
from actrec.inference.onnxruntime_backend import takes_cuda
from actrec.perception import networks
from actrec.perception.body import refine
from actrec.perception.networks import (
    Detector,
    NetworkConfig,
    PerceptionNetwork,
    Region,
    SourceImage,
    merge_overlapping,
)
from actrec.perception.pipeline import Pipeline
from actrec.utils.errors import PackageError

STORED = [*networks.files().values(), *(file.int8 for file in networks.files().values() if file.int8)]


@pytest.mark.parametrize("file", STORED, ids=lambda file: file.path.name)
def test_network_file_matches_manifest(file):
    session = onnxruntime.InferenceSession(file.read(), providers=["CPUExecutionProvider"])
    assert [(i.name, i.shape) for i in session.get_inputs()] == [("image", ["N", 3, file.edge, file.edge])]
    assert {o.name: tuple(o.shape[1:]) for o in session.get_outputs()} == file.outputs


def test_manifest_states_origin_and_accuracy_of_each_network():
    folder = next(iter(networks.files().values())).path.parent
    manifest = yaml.safe_load((folder / networks.MANIFEST).read_text())
    assert manifest["license"] == "Apache-2.0"
    assert set(folder.glob("*.onnx")) == {file.path for file in STORED}
    card = (folder / "README.md").read_text()
    for name, row in manifest["networks"].items():
        assert row["source"].endswith(".tflite") and len(row["source_sha256"]) == 64 and f"`{name}`" in card
        # The body's landmarks have depth and logits, which differ most.
        assert max(row["largest_difference"].values()) <= (1e-2 if name.startswith(("body", "person")) else 1e-3)


def test_network_missing_or_damaged_file_is_refused(tmp_path):
    file = networks.files()["face_landmarks"]
    missing = dataclasses.replace(file, path=tmp_path / "face_landmarks.onnx")
    with pytest.raises(PackageError, match=r"face_landmarks\.onnx cannot be read: .*: install actrec again"):
        missing.read()
    missing.path.write_bytes(file.read()[:-10])
    with pytest.raises(PackageError, match=r"damaged or another file \(its SHA-256 differs\): install actrec again"):
        missing.read()


def test_networks_missing_folder_or_damaged_list_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(networks, "installed", lambda folder: [tmp_path])
    read = networks.files.__wrapped__  # without its cache
    with pytest.raises(PackageError, match=r"networks of perception are not installed \(.*\): install actrec again"):
        read()
    for content in ("networks: {face_landmarks: {sha256: 1}}", "networks: [", "", "networks: {face_landmarks: 3}"):
        (tmp_path / networks.MANIFEST).write_text(content)
        with pytest.raises(PackageError, match=r"networks\.yaml is damaged \((?s:.*)\): install actrec again"):
            read()


def test_network_that_is_no_onnx_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "face_landmarks.onnx"
    path.write_bytes(b"nonsense")
    sha256 = hashlib.sha256(b"nonsense").hexdigest()
    file = dataclasses.replace(networks.files()["face_landmarks"], path=path, sha256=sha256)
    monkeypatch.setattr(networks, "files", lambda: {"face_landmarks": file})
    with pytest.raises(PackageError, match=r"face_landmarks\.onnx cannot be opened"):
        PerceptionNetwork("face_landmarks", NetworkConfig())


def test_network_batch_equals_single_runs():
    image = SourceImage(np.random.default_rng(1).integers(0, 255, (480, 640, 3), dtype=np.uint8))
    regions = [Region(300, 200, 150, 0.3), Region(100, 400, 300, -2.0), Region(630, 10, 90)]
    network = PerceptionNetwork("hand_landmarks_lite", NetworkConfig())
    together = network.run(image, regions)
    for index, region in enumerate(regions):
        for name, value in network.run(image, [region]).items():
            np.testing.assert_allclose(together[name][index], value[0], rtol=1e-3, atol=1e-3)


def test_int8_networks_agree_with_float32_on_the_simulated_actor():
    """On every CPU: without VNNI, ONNX Runtime would cut products off, and joints would lie 2.8 px off."""
    with SimulatedCamera(actions=["wave"], realtime=False) as camera:
        frames = [camera.read() for _ in range(25)][::3]
    found = {}
    for precision in ("fp32", "int8"):
        with Pipeline(cpu_precision=precision, min_hits=1, faces=False) as people:
            found[precision] = [people.process(frame) for frame in frames]
    joints, hands = [], []
    for one, other in zip(found["fp32"], found["int8"], strict=True):
        (body,), (same_body,) = one.bodies, other.bodies
        joints.append(np.linalg.norm(body.pixels - same_body.pixels, axis=1))
        assert len(one.hands) == len(other.hands) == 2
        for hand, same in zip(one.hands, other.hands, strict=True):
            hands.append(np.linalg.norm(hand.pixels - same.pixels, axis=1))
    assert np.nanmedian(joints) < 1.0
    assert np.median(hands) < 0.5


def test_precision_is_int8_if_asked_for_and_the_network_has_it():
    assert PerceptionNetwork("hand_landmarks_lite", NetworkConfig()).device == "CPU, 1 thread"
    int8 = NetworkConfig(cpu_precision="int8")
    assert PerceptionNetwork("hand_landmarks_lite", int8).device == "CPU, 1 thread, int8"
    if not takes_cuda("auto"):
        found = PerceptionNetwork("hand_landmarks_lite", dataclasses.replace(int8, device="auto"))
        assert found.device == "CPU, 1 thread, int8"
    assert PerceptionNetwork("face_landmarks", int8).device == "CPU, 1 thread"


def test_int8_on_the_cpu_if_cuda_does_not_start(monkeypatch):
    opened, on_cpu = onnxruntime_backend._session, [onnxruntime_backend._CPU]
    available = [onnxruntime_backend._CUDA, *on_cpu]
    monkeypatch.setattr(onnxruntime_backend.onnxruntime, "get_available_providers", lambda: available)
    monkeypatch.setattr(onnxruntime_backend, "_session", lambda content, options, _: opened(content, options, on_cpu))
    config = NetworkConfig(cpu_precision="int8", device="auto")
    assert PerceptionNetwork("hand_landmarks_lite", config).device == "CPU, 1 thread, int8"


@pytest.mark.parametrize("angle", [0.0, 0.7, np.pi / 2, -2.5])
def test_region_cut_and_projected_back_is_the_same_place(angle):
    """A bright spot is found in the cut where the region's inverse puts it."""
    color = np.zeros((200, 300, 3), np.uint8)
    color[110:113, 180:183] = 255
    region = Region(170, 100, 120, angle)
    cut = SourceImage(color).cut(region, 240)[..., 0].astype(float)
    v, u = np.argwhere(cut > 128).mean(axis=0)
    place = region.to_image(np.array([[u / 240, v / 240]], np.float32))[0]
    np.testing.assert_allclose(place, [180.5, 110.5], atol=0.75)


def test_region_outside_of_image_is_black_or_repeats_the_edge():
    image = SourceImage(np.full((50, 60, 3), 200, np.uint8))
    region = Region(0, 0, 40)
    assert image.cut(region, 40).min() == 200
    assert image.cut(region, 40, border=0)[0, 0, 0] == 0


def test_merge_overlapping_averages_boxes_of_one_object_by_score():
    boxes = np.array([[10, 10, 4, 4, 1, 1], [11, 10, 4, 4, 3, 1], [40, 40, 4, 4, 0, 0]], np.float32)
    (first, box), (second, other) = merge_overlapping(np.array([0.6, 0.9, 0.5], np.float32), boxes)
    assert (first, second) == pytest.approx((0.9, 0.5))
    np.testing.assert_allclose(box, [10.6, 10, 4, 4, 2.2, 1], rtol=1e-6)
    np.testing.assert_allclose(other, boxes[2])


def test_detector_without_detection_returns_nothing():
    detector = Detector("person_detection", ((8, 2), (16, 2), (32, 6)), 0.5, NetworkConfig())
    assert detector.detect(SourceImage(np.zeros((480, 640, 3), np.uint8))) == []


def test_refine_moves_confident_landmarks_to_center_of_mass():
    """By hand, as in MediaPipe's loop (refine_landmarks_from_heatmap_calculator.cc)."""
    rng = np.random.default_rng(3)
    heatmaps = rng.normal(-4, 2, (6, 64, 64)).astype(np.float32)
    points = np.array([[0.5, 0.5], [0.01, 0.02], [0.99, 0.6], [1.2, 0.5], [-0.005, 0.3], [0.3, 0.7]], np.float32)
    heatmaps[0, 33, 31], heatmaps[1, 2, 2], heatmaps[2, 38, 61], heatmaps[4, 19, 1] = 3, 5, 2, 4
    heatmaps[5] = -5  # not confident
    expected = points.copy()
    for v, (x, y) in enumerate(points):
        column, row = int(x * 64), int(y * 64)
        if not (0 <= column < 64 and 0 <= row < 64):
            continue
        rows, columns = range(max(0, row - 3), min(64, row + 4)), range(max(0, column - 3), min(64, column + 4))
        weight = 1 / (1 + np.exp(-heatmaps[v][np.ix_(rows, columns)].astype(float)))
        if weight.max() >= 0.5:
            expected[v] = (weight.sum(0) @ np.array(columns), weight.sum(1) @ np.array(rows)) / weight.sum() / 64
    np.testing.assert_allclose(refine(points, heatmaps), expected, atol=1e-6)
    assert not np.allclose(expected[[0, 1, 2, 4]], points[[0, 1, 2, 4]]) and np.allclose(
        expected[[3, 5]], points[[3, 5]]
    )
