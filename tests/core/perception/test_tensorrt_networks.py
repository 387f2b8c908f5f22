"""Networks of perception on TensorRT, with a fake TensorRT on ONNX Runtime: engines, precision, fallback, commands."""

import dataclasses
import sys
import threading
import time

import numpy as np
import onnx
import pytest

from actrec import inference
from actrec.cli import doctor, main
from actrec.inference.tensorrt import cuda as tensorrt_cuda
from actrec.inference.tensorrt import engine
from actrec.perception import engine_variants, networks
from actrec.perception.networks import NetworkConfig, PerceptionNetwork, Region, SourceImage
from actrec.perception.tensorrt_networks import NetworkSource, TensorRtNetwork, example_images
from actrec.utils.errors import DeviceError, MissingLibraryError, PackageError
from benchmarks import engines as benchmark
from tests.core.inference.tensorrt import plain_tensorrt

FACE, NEAR = (networks.files()[name] for name in ("face_landmarks", "face_detection_near"))
BODY = "body_landmarks_full"
ON_TENSORRT, CPU = NetworkConfig(backend="tensorrt"), NetworkConfig(backend="onnxruntime")


@pytest.fixture(autouse=True)
def gpu(monkeypatch, tmp_path):
    """Install a fake GPU and TensorRT; call the fixture to change them."""
    monkeypatch.setenv("ACTREC_ENGINES", str(tmp_path / "engines"))
    monkeypatch.setattr(engine, "CudaGraph", lambda stream, work: type("Graph", (), {"launch": staticmethod(work)}))

    def install(**options):
        found = plain_tensorrt.module(**options)
        monkeypatch.setitem(sys.modules, "tensorrt", found)
        monkeypatch.setattr(tensorrt_cuda, "open_cuda", lambda library="auto": plain_tensorrt.Cuda())
        return found

    install()
    return install


@pytest.fixture
def engines(tmp_path):
    return lambda: sorted(path.name for path in (tmp_path / "engines").glob("*.engine"))


def builds(found):
    return sum("build_serialized_network" in call for call in found.calls)


def regions(count):
    image = SourceImage(np.random.default_rng(1).integers(0, 255, (240, 320, 3), dtype=np.uint8))
    return image, [Region(40.0 * n, 100, 80 + 10 * n, 0.1 * n) for n in range(count)]


@pytest.mark.parametrize("count", [1, 5, 7])
def test_run_equals_onnx_runtime_for_every_output(gpu, count):
    found = gpu()
    config = NetworkConfig(backend="tensorrt", precision="fp32", max_batch=5)
    network = PerceptionNetwork("face_landmarks", config)
    expected = PerceptionNetwork("face_landmarks", NetworkConfig()).run(*regions(count))
    made = network.run(*regions(count))
    assert list(made) == ["landmarks", "presence"] and network.device == "TensorRT 10.3.0 fp32 on Orin"
    for name, value in expected.items():
        np.testing.assert_allclose(made[name], value, rtol=1e-4, atol=1e-3)
    (profile,) = [call[1:] for call in found.calls if call[0] == "shape"]
    assert profile == ("image", *((n, 3, FACE.edge, FACE.edge) for n in (1, 2, 5)))


def test_engine_is_built_once_per_setting_and_found_by_auto(gpu, engines):
    assert PerceptionNetwork("face_landmarks", NetworkConfig()).device == "CPU, 1 thread", "no engine is built"
    PerceptionNetwork("face_landmarks", ON_TENSORRT)
    found = gpu()
    assert PerceptionNetwork("face_landmarks", ON_TENSORRT).device.startswith("TensorRT")
    assert PerceptionNetwork("face_landmarks", NetworkConfig()).device.startswith("TensorRT")
    assert PerceptionNetwork("face_detection_near", NetworkConfig()).device.startswith("CPU")
    assert builds(found) == 0 and len(engines()) == 1
    for change in ({"precision": "fp32"}, {"max_batch": 5}):
        PerceptionNetwork("face_landmarks", dataclasses.replace(ON_TENSORRT, **change))
    assert len(engines()) == 3


@pytest.mark.parametrize(("version", "typed"), [("8.6.2", False), ("10.3.0", True), ("11.0.0", True)])
def test_float16_engine_takes_variant_where_types_hold(gpu, version, typed):
    found = gpu(version=version)
    network = PerceptionNetwork("face_landmarks", ON_TENSORRT)
    assert (("flags", 2) in found.calls) == typed
    assert typed or ("set", found.BuilderFlag.FP16) in found.calls
    landmarks, expected = (n.run(*regions(2))["landmarks"] for n in (network, PerceptionNetwork(FACE.name, CPU)))
    assert (0 < np.abs(landmarks - expected).max() < 0.5) if typed else np.array_equal(landmarks, expected)


@pytest.fixture(scope="module")
def regions_of(data_root):
    """Regions that each network gets in two images of a person."""
    return benchmark.recorded_regions([data_root / "ntu/rgb/S001C001P001R001A001_rgb.avi"], 2)


@pytest.mark.parametrize("name", networks.files())
def test_lower_precision_on_regions_of_real_images_is_near_float32(regions_of, name):
    source, images = NetworkSource(networks.files()[name]), np.stack(regions_of[name])
    expected = benchmark.outputs(source.read_onnx(), images)
    for precision, p50_px, p95_px in zip(source.precisions[1:], (0.2, 2.0), (0.5, 8.0), strict=False):
        content = source.read_onnx(precision)
        onnx.checker.check_model(content, full_check=True)
        row = benchmark.difference(name, expected, benchmark.outputs(content, images))
        assert row["p50_px"] < p50_px and row["p95_px"] < p95_px, row
        assert precision == "int8" or row["changed"] == 0, row


def test_variants_have_types_of_tensorrt():
    graph = onnx.load_model_from_string(NetworkSource(FACE).read_onnx("float16")).graph
    scales = {value for node in graph.node if node.op_type == "Resize" for value in node.input[1:]}
    assert {t.name for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT} <= scales
    assert sum(node.op_type == "Cast" for node in graph.node) == 1 + len(FACE.outputs)
    images = example_images(FACE)
    assert (images.min(), images.max()) == pytest.approx((FACE.low, FACE.high))
    assert NetworkSource(FACE).onnx_sha256("float16") == f"{FACE.sha256}-float16-{engine_variants.VERSION}"
    graph = onnx.load_model_from_string(NetworkSource(networks.files()[BODY]).read_onnx("int8")).graph
    zeros = {node.input[2] for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    values = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name in zeros]
    assert len(values) == len(zeros) > 50 and all(value.dtype == np.int8 and not value.any() for value in values)
    with pytest.raises(PackageError, match=r"has no network in int8: take precision fp16 or fp32"):
        NetworkSource(FACE).read_onnx("int8")


def test_int8_engine_is_of_bodies_and_others_are_float16(capsys):
    assert main(["build-engine", "perception", BODY, FACE.name, "--precision", "int8"]) == 0
    printed = capsys.readouterr().out
    assert f"{BODY}: TensorRT 10.3.0 int8 on Orin" in printed and "face_landmarks: TensorRT 10.3.0 fp16" in printed


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("build", PackageError, "TensorRT cannot build face_landmarks: no implementation"),
        ("nan", PackageError, "engine's output 'landmarks' is no number, at most 5% may: take precision fp32$"),
        ("differs", PackageError, r"output 'landmarks' differs from ONNX Runtime's by \d+.*: take precision fp32$"),
    ],
)
def test_failing_tensorrt_is_an_error_or_falls_back(gpu, engines, caplog, fault, error, message):
    gpu(fault=fault)
    with pytest.raises(error, match=message):
        PerceptionNetwork("face_landmarks", ON_TENSORRT)
    assert engines() == []
    network = PerceptionNetwork("face_landmarks", dataclasses.replace(ON_TENSORRT, allow_fallback=True))
    networks._BUILDING.submit(lambda: None).result()
    assert network.device == "CPU, 1 thread" and network.run(*regions(1))["landmarks"].shape == (1, 468, 3)
    assert "face_landmarks runs on ONNX Runtime, TensorRT cannot be used: " in caplog.text


def test_differing_float32_engine_names_other_backend(gpu):
    gpu(fault="differs")
    with pytest.raises(PackageError, match="take backend onnxruntime, and report it"):
        PerceptionNetwork("face_landmarks", dataclasses.replace(ON_TENSORRT, precision="fp32"))


def test_fallback_runs_until_engine_is_built_in_background(engines):
    config = dataclasses.replace(ON_TENSORRT, allow_fallback=True)
    release = threading.Event()
    networks._BUILDING.submit(release.wait)
    network = PerceptionNetwork("face_landmarks", config)
    assert network.device == "CPU, 1 thread"
    release.set()
    networks._BUILDING.submit(lambda: None).result()
    assert network.device.startswith("TensorRT") and len(engines()) == 1
    assert PerceptionNetwork("face_landmarks", config).device.startswith("TensorRT"), "the engine is there at once"


def test_close_stops_build_in_background(gpu, engines, caplog):
    found = gpu(fault="slow")
    network = PerceptionNetwork("face_landmarks", dataclasses.replace(ON_TENSORRT, allow_fallback=True))
    while not plain_tensorrt.is_building(found):
        time.sleep(0.01)
    network.close()
    networks._BUILDING.submit(lambda: None).result()
    assert plain_tensorrt.CANCELLED in found.calls
    assert engines() == [] and network.device == "" and "cannot be used" not in caplog.text


def test_missing_tensorrt_is_refused_or_falls_back(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingLibraryError, match=r"TensorRT is part of JetPack .* or take backend onnxruntime"):
        PerceptionNetwork("face_landmarks", ON_TENSORRT)
    assert networks.resolve(FACE, NetworkConfig()) == inference.FALLBACK
    config = dataclasses.replace(ON_TENSORRT, allow_fallback=True)
    assert PerceptionNetwork("face_landmarks", config).device == "CPU, 1 thread"


def test_onnx_runtime_on_cuda_without_provider_is_refused():
    config = NetworkConfig(backend="onnxruntime", device="cuda")
    with pytest.raises(DeviceError, match="no CUDA provider: pip install onnxruntime-gpu, or device=cpu"):
        PerceptionNetwork("face_landmarks", config)


def test_build_engine_command_builds_named_networks_for_nodes(engines, capsys):
    assert main(["build-engine", "perception", "face_landmarks", "face_detection_near"]) == 0
    printed = capsys.readouterr().out
    assert "face_landmarks: TensorRT 10.3.0 fp16 on Orin, ready in" in printed and len(engines()) == 2
    assert TensorRtNetwork.ready(FACE, NetworkConfig()), "the settings of the nodes"
    for arguments, problem in [
        (["perception", "face"], "perception has no network 'face'; known: person_detection, "),
        (["perception", "--keep", "x"], "--keep is for model packages: perception takes --precision and --most"),
        (["perception", "--most", "2"], "max_batch"),
        (["joint_tcn_everyday", "face"], "only perception has several networks"),
    ]:
        assert main(["build-engine", *arguments]) != 0
        assert problem in capsys.readouterr().err


def test_doctor_names_backend_of_networks_and_damaged_file(monkeypatch, tmp_path):
    monkeypatch.setattr(networks, "files", lambda: {file.name: file for file in (FACE, NEAR)})
    monkeypatch.setattr(doctor, "_is_installed", lambda module: True)
    monkeypatch.setattr(doctor, "_has_cuda_driver", lambda: True)
    finding = doctor.check_perception()
    assert (finding.state, finding.value) == ("gap", "2 on onnxruntime: engines are not built")
    assert finding.remedy == "actrec build-engine perception"
    TensorRtNetwork(FACE, ON_TENSORRT)
    assert doctor.check_perception().value.startswith("face_landmarks on tensorrt; face_detection_near on onnxruntime")
    TensorRtNetwork(NEAR, ON_TENSORRT)
    assert (doctor.check_perception().state, doctor.check_perception().value) == ("ok", "2 on tensorrt")
    damaged = tmp_path / "face_landmarks.onnx"
    damaged.write_bytes(b"nonsense")
    monkeypatch.setattr(networks, "files", lambda: {"face_landmarks": dataclasses.replace(FACE, path=damaged)})
    finding = doctor.check_perception()
    assert finding.state == "fault" and "SHA-256 differs" in finding.value and "install actrec" in finding.remedy
