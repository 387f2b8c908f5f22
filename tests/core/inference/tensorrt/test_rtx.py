"""TensorRT for RTX: shipped networks in its real parser and builder, engines ahead of time, and faults."""

import dataclasses
import re
import sys
import time

import numpy as np
import pytest

from actrec import inference
from actrec.cli import main
from actrec.inference import package, zoo
from actrec.inference.package import LowerPrecision
from actrec.inference.tensorrt import cuda as tensorrt_cuda
from actrec.inference.tensorrt import engine
from actrec.inference.tensorrt.backend import simulated_windows
from actrec.inference.tensorrt.engine import INVALID
from actrec.perception import networks
from actrec.perception.tensorrt_networks import NetworkSource
from actrec.utils.errors import AbortedError, DeviceError, MissingLibraryError, PackageError
from tests.core.inference.tensorrt import rtx
from tests.core.inference.tensorrt.test_tensorrt_backend import Graph
from tests.tiny_model import tiny_onnx, write_tiny

SHIPPED = {entry.name: entry.package for entry in zoo.list_packages() if entry.package is not None} | {
    file.name: NetworkSource(file) for file in networks.files().values()
}


@pytest.fixture
def tiny(tmp_path):
    """Return a tiny package with networks in float16 and int8, which have the types of float32 here."""
    made = write_tiny(tmp_path / "float32")
    description = dataclasses.replace(made, float16=LowerPrecision(0.01), int8=LowerPrecision(0.01))
    lower = {"float16": made.read_onnx(), "int8": made.read_onnx()}
    return package.write(tmp_path / "tiny", description, made.read_onnx(), lower=lower)


@pytest.fixture
def card(monkeypatch, tmp_path):
    """Install the real builder with fake execution; call it to change the GPU."""
    monkeypatch.setattr(engine, "CudaGraph", Graph)
    return lambda cuda=None, fault="": rtx.install(monkeypatch, tmp_path / "engines", cuda, fault)


def files(tmp_path, ending):
    return sorted((tmp_path / "engines").glob(f"*.{ending}"))


SMALL = ("joint_tcn_everyday", "joint_tcn_open")  # published in float32 alone


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_network_parses_in_each_precision(name):
    source = SHIPPED[name]
    layers = [rtx.parse(source.read_onnx(precision)) for precision in source.precisions]
    assert len(layers) >= (1 if name in SMALL else 2) and min(layers) > 100


def test_small_shipped_network_builds():
    assert rtx.build(SHIPPED["joint_tcn_everyday"].read_onnx("float32")) > 1e6


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("name", "precision"), [(name, precision) for name, source in SHIPPED.items() for precision in source.precisions]
)
def test_shipped_network_builds(name, precision):
    """All together take 114 s of CPU time, `sem_spa_pair_shrec17` 19 and 21 s of it."""
    assert rtx.build(SHIPPED[name].read_onnx(precision)) > 1e6


def test_build_refused_operator_names_node():
    content = tiny_onnx(operator="Det")
    with pytest.raises(PackageError, match=r"^TensorRT cannot parse .*/network/fc/Gemm .*Det.*UNSUPPORTED") as raised:
        rtx.build(content)
    assert "\n" not in str(raised.value)


def test_build_engine_for_builds_ahead_once_without_gpu(tiny, tmp_path, monkeypatch, capsys):
    rtx.real()
    monkeypatch.setenv("ACTREC_ENGINES", str(tmp_path / "engines"))
    monkeypatch.setattr(tensorrt_cuda, "open_cuda", lambda *_: pytest.fail("a GPU was opened"))
    arguments = ["build-engine", str(tiny.path), "--for", "sm_86,sm_120", "--precision", "int8"]
    assert main(arguments) == 0
    names = [path.name for path in files(tmp_path, "engine")]
    assert [re.sub("_[0-9a-f]{16}", "", name) for name in names] == [
        "tiny_tensorrt_rtx_int8_sm_120.engine", "tiny_tensorrt_rtx_int8_sm_86.engine"
    ]  # fmt: skip
    assert re.findall(r"tiny for (sm_\d+): .*engine, 0.3 MB, built in", capsys.readouterr().out) == ["sm_86", "sm_120"]
    assert main(arguments) == 0 and capsys.readouterr().out.count("built already") == 2
    for wrong, problem in [
        (["--for", "sm_90"], r"TensorRT for RTX 1\S+ builds no engines for 'sm_90', only for sm_75, .*sm_121"),
        (["--for", ""], "builds no engines for ''"),
        (["--for", "sm_86", "--backend", "tensorrt"], "leave out --backend tensorrt"),
    ]:
        assert main([*arguments[:2], *wrong]) == 2
        assert re.search(problem, capsys.readouterr().err)


def test_engine_built_ahead_is_checked_once_and_used_by_auto(tiny, card, tmp_path, monkeypatch):
    fake, _ = card()
    assert main(["build-engine", str(tiny.path), "--for", "sm_89"]) == 0
    kind, checks = inference.BACKENDS.get("tensorrt_rtx"), []
    compare = kind._check

    def check(*given):
        checks.append(1)
        return compare(*given)

    monkeypatch.setattr(kind, "_check", check)
    windows = simulated_windows(tiny, 3)
    for _ in range(2):
        session = inference.load(tiny)
        assert (
            session.backend.device.startswith("TensorRT for RTX 1.7") and "fp16 on RTX 4070" in session.backend.device
        )
        np.testing.assert_array_equal(
            session.backend.run(windows), inference.load(tiny, "onnxruntime").backend.run(windows)
        )
    assert checks == [1] and fake.builds == ["SM89"] and len(files(tmp_path, "engine")) == 1
    monkeypatch.setattr(kind, "ready", lambda *_, **__: pytest.fail("opened for a network without engines"))
    assert inference.resolve("auto", write_tiny(tmp_path / "other")) == "onnxruntime"


def test_build_that_is_aborted_ends_at_once_and_leaves_no_file(card, tmp_path):
    """The whole build takes seconds, in the longest part of which TensorRT for RTX reports no progress."""
    (fake, _), times = card(), []

    def progress(phase, step, steps):
        times.append(time.monotonic())
        if len(times) == 100:
            raise AbortedError("the node is shutting down")

    for number in (1, 2):
        with pytest.raises(AbortedError, match="^the node is shutting down$"):
            inference.load(SHIPPED["joint_tcn_everyday"], "tensorrt_rtx", precision="fp32", progress=progress)
        assert time.monotonic() - times[-1] < 5.0 and len(times) == 100, "no progress after the abort"
        assert fake.builds == number * ["SM89"] and not rtx.has_built(SHIPPED["joint_tcn_everyday"])
        assert {path.suffix for path in (tmp_path / "engines").rglob("*")} == {".lock"}
        times.clear()


def test_engine_for_other_card_is_reported_and_not_used(tiny, card, caplog):
    fake, _ = card()
    assert main(["build-engine", str(tiny.path), "--for", "sm_86"]) == 0
    assert inference.load(tiny).backend.device == "CPU, 1 thread"
    assert re.search(r"no engine of tiny fits TensorRT for RTX on RTX 4070: .* \(for sm_86, not sm_89\)", caplog.text)
    caplog.set_level("INFO")
    assert inference.load(tiny, "tensorrt_rtx").backend.device.startswith("TensorRT for RTX")
    assert fake.builds == ["SM86", "SM89"] and "engines of tiny that do not fit: tiny_tensorrt_rtx_fp16" in caplog.text
    fake.__version__ = "1.8.0.1"
    assert inference.resolve("auto", tiny) == "onnxruntime" and "of version 1.7.1.116, not 1.8.0.1" in caplog.text


def test_load_without_driver_library_or_supported_card_raises_one_line(tiny, card, monkeypatch, caplog):
    rtx.real()
    if not inference.BACKENDS.get("tensorrt_rtx").library.is_installed:
        pytest.skip("no wheel for this machine")
    with pytest.raises(DeviceError, match="CUDA does not start: .*; check nvidia-smi, or take backend onnxruntime$"):
        inference.load(tiny, "tensorrt_rtx", memory="cuda-python")
    card(rtx.Cuda("H200", "9.0"))
    with pytest.raises(DeviceError, match=r"^TensorRT for RTX \S+ has no engines for H200 \(sm_90\), only for sm_75, "):
        inference.load(tiny, "tensorrt_rtx")
    card()
    inference.load(tiny, "tensorrt_rtx")
    monkeypatch.setattr(tensorrt_cuda, "open_cuda", lambda *_: (_ for _ in ()).throw(DeviceError("no GPU")))
    assert inference.resolve("auto", tiny) == "onnxruntime" and "TensorRT for RTX is not used: no GPU" in caplog.text
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", None)
    with pytest.raises(MissingLibraryError, match=r"is not installed: pip install 'actrec\[rtx\]'; or take backend"):
        inference.load(tiny, "tensorrt_rtx")


def test_compiled_kernels_are_kept_beside_engine_for_each_card(tiny, card, tmp_path, caplog):
    _, faults = card()
    inference.load(tiny, "tensorrt_rtx")
    (kept,) = files(tmp_path, "kernels")
    assert kept.name.startswith(files(tmp_path, "engine")[0].stem) and faults.compiled > 0
    faults.compiled = 0
    inference.load(tiny, "tensorrt_rtx")
    assert faults.compiled == 0 and "compiled again" not in caplog.text
    other, _ = card(rtx.Cuda("RTX 4090"))
    inference.load(tiny, "tensorrt_rtx")
    assert other.builds == [] and len(files(tmp_path, "kernels")) == 2, "the engine serves both cards"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda kept: kept[:-3], "is half-written or another file"),
        (lambda kept: b"", "is half-written or another file"),
        (lambda kept: b"foreign", "is half-written or another file"),
        (None, "are of another GPU, driver or version"),
    ],
)
def test_unusable_kernels_are_compiled_again_with_warning(tiny, card, tmp_path, caplog, content, reason):
    _, faults = card()
    inference.load(tiny, "tensorrt_rtx")
    (kept,) = files(tmp_path, "kernels")
    if content is None:
        faults.kernels = b"kernels of a newer driver"
    else:
        kept.write_bytes(content(kept.read_bytes()))
    faults.compiled = 0
    inference.load(tiny, "tensorrt_rtx")
    assert faults.compiled > 0 and reason in caplog.text and "compiled again" in caplog.text
    faults.compiled = 0
    inference.load(tiny, "tensorrt_rtx")
    assert faults.compiled == 0, "the new ones were stored"


def test_engine_of_tensorrt_is_refused_by_real_runtime():
    trt = rtx.real()
    with pytest.raises(
        DeviceError, match=r"^a\.engine cannot run: it is damaged, or not an engine of this library; del"
    ):
        engine.check_validity(trt, trt.Runtime(trt.Logger(trt.Logger.ERROR)), b"ftrt" + bytes(1000), "a.engine")


def test_load_invalid_engine_names_file_cause_and_remedy(tiny, card, tmp_path):
    fake, faults = card()
    assert set(INVALID) == set(fake.EngineInvalidityDiagnostics.__members__)
    inference.load(tiny, "tensorrt_rtx")
    (path,) = files(tmp_path, "engine")
    for name, (cause, remedy) in INVALID.items():
        faults.invalid = int(getattr(fake.EngineInvalidityDiagnostics, name))
        with pytest.raises(DeviceError, match=re.escape(f"{path} cannot run: {cause}; {remedy}")):
            inference.load(tiny, "tensorrt_rtx")


def test_load_full_memory_or_unrecordable_engine(tiny, card, caplog):
    _, faults = card()
    faults.full = True
    with pytest.raises(
        DeviceError, match="not enough GPU memory to run the engine: end what else uses the GPU's memory"
    ):
        inference.load(tiny, "tensorrt_rtx")
    faults.full, faults.capturable = False, False
    inference.load(tiny, "tensorrt_rtx")
    assert "launched without a CUDA graph: TensorRT cannot record this engine" in caplog.text


def test_load_disagreeing_int8_engine_names_layer_group(tiny, card):
    card(fault="differs")
    with pytest.raises(PackageError, match=r"at most 15% may; it begins in layer group 'fc': quantize it again"):
        inference.load(tiny, "tensorrt_rtx", precision="int8")
    with pytest.raises(PackageError, match=r"at most 5% may: build it with --precision fp32$"):
        inference.load(tiny, "tensorrt_rtx")


def test_network_of_perception_runs_in_rtx_backend(card):
    card()
    config = networks.NetworkConfig(backend="tensorrt_rtx", precision="fp32")
    network = networks.PerceptionNetwork("face_detection_near", config)
    assert network.device.startswith("TensorRT for RTX 1.7") and network.device.endswith("fp32 on RTX 4070")
    assert networks.resolve(network.file, dataclasses.replace(config, backend="auto")) == "tensorrt_rtx"


def test_network_options_name_precision_as_backend_does(tiny, card):
    card()
    assert inference.network_options("onnxruntime", "float16", 2) == {"precision": "float16", "threads": 2}
    for precision, own in (("float32", "fp32"), ("float16", "fp16"), ("int8", "int8")):
        options = inference.network_options("tensorrt_rtx", precision, 2)
        assert f" {own} on " in inference.load(tiny, "tensorrt_rtx", **options).backend.device
