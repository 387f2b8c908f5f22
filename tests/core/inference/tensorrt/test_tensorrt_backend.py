"""The TensorRT backend with a fake TensorRT on ONNX Runtime; its calls fit the real bindings."""

import dataclasses
import importlib.util
import json
import logging
import re
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from actrec import inference
from actrec.cli import main
from actrec.inference import package
from actrec.inference.onnxruntime_backend import OnnxRuntimeBackend, outputs_of
from actrec.inference.package import LowerPrecision
from actrec.inference.tensorrt import backend, engine
from actrec.inference.tensorrt import cuda as tensorrt_cuda
from actrec.inference.tensorrt.backend import simulated_windows
from actrec.utils.errors import DeviceError, InputError, MissingLibraryError, PackageError
from tests.core.inference.tensorrt import plain_tensorrt, rtx
from tests.tiny_model import write_tiny

ENGINE = "TensorRT cannot load the engine"


@pytest.fixture
def tiny(tmp_path):
    return write_tiny(tmp_path / "tiny")


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """Install a fake GPU and TensorRT; call the fixture to change them."""
    monkeypatch.setenv("ACTREC_ENGINES", str(tmp_path / "engines"))
    monkeypatch.setattr(engine, "CudaGraph", Graph)
    Graph.launched = 0

    def install(cuda=None, **options):
        cuda = cuda or plain_tensorrt.Cuda()
        found = plain_tensorrt.module(**options)
        monkeypatch.setitem(sys.modules, "tensorrt", found)
        monkeypatch.setattr(tensorrt_cuda, "open_cuda", lambda library="auto": cuda)
        return found

    install()
    return install


class Graph:
    """A fake CUDA graph that runs the recorded work."""

    launched = 0

    def __init__(self, stream, work):
        assert stream == plain_tensorrt.Cuda.stream
        self._work = work

    def launch(self):
        Graph.launched += 1
        self._work()


def engines(tmp_path):
    return sorted(path.name for path in (tmp_path / "engines").glob("*.engine"))


@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_run_equals_onnx_runtime(tiny, gpu, count):
    tensorrt, onnx = inference.load(tiny, "tensorrt"), inference.load(tiny, "onnxruntime")
    windows = simulated_windows(tiny, count)
    np.testing.assert_array_equal(tensorrt.backend.run(windows), onnx.backend.run(windows))
    assert tensorrt.backend.inputs == onnx.backend.inputs and tensorrt.backend.output == onnx.backend.output
    assert "TensorRT 10.3.0 fp16 on Orin" in tensorrt.backend.device
    assert Graph.launched > 0


def test_run_records_one_graph_per_number_of_windows(tiny, gpu):
    found = gpu()
    backend = inference.load(tiny, "tensorrt").backend
    windows = simulated_windows(tiny, 2)
    found.calls.clear()
    for _ in range(5):
        backend.run(windows)
    assert sum(call[1] == "set_input_shape" for call in found.calls if len(call) == 4) == len(windows)
    assert Graph.launched >= 5


def test_run_without_cuda_graph_is_logged(tiny, gpu, monkeypatch, caplog):
    def fail(stream, work):
        raise DeviceError("cuStreamEndCapture failed: operation not permitted")

    monkeypatch.setattr(engine, "CudaGraph", fail)
    session = inference.load(tiny, "tensorrt")
    windows = simulated_windows(tiny, 1)
    assert np.isfinite(session.backend.run(windows)).all()
    assert "launched without a CUDA graph: cuStreamEndCapture failed" in caplog.text


def test_load_builds_engine_once_and_stores_details(tiny, gpu, tmp_path):
    found = gpu()
    inference.load(tiny, "tensorrt")
    (name,) = engines(tmp_path)
    details = json.loads((tmp_path / "engines" / name).with_suffix(".json").read_text())
    assert details["key"]["gpu"] == "Orin, 8.7, 8192 MiB" and details["key"]["version"] == "10.3.0"
    assert details["difference"] < 1e-6 and details["seconds"] >= 0
    found.calls.clear()
    inference.load(tiny, "tensorrt")
    assert not [call for call in found.calls if "build_serialized_network" in call]


def test_load_keeps_an_engine_whose_timings_cannot_be_stored(tiny, gpu, tmp_path, caplog):
    """In a shared folder, their file may be another user's."""
    inference.load(tiny, "tensorrt")
    for path in (tmp_path / "engines").iterdir():
        path.unlink()
        if path.name.endswith("_timings.cache"):
            path.mkdir()
    inference.load(tiny, "tensorrt")
    assert len(engines(tmp_path)) == 1
    assert "the next build takes as long: cannot write" in caplog.text


def test_load_other_gpu_version_or_option_builds_another_engine(tiny, gpu, tmp_path):
    inference.load(tiny, "tensorrt")
    for change in (
        {"version": "10.9.1"},
        {"cuda": plain_tensorrt.Cuda("Xavier")},
        {"cuda": plain_tensorrt.Cuda(cuda="13.0")},
    ):
        gpu(**change)
        count = len(engines(tmp_path))
        inference.load(tiny, "tensorrt")
        assert len(engines(tmp_path)) == count + 1
    for option in ({"precision": "fp32"}, {"most": 2}, {"workspace_mb": 64}):
        count = len(engines(tmp_path))
        inference.load(tiny, "tensorrt", **option)
        assert len(engines(tmp_path)) == count + 1


def test_auto_uses_existing_engine(tiny, gpu, monkeypatch):
    assert inference.load(tiny).backend.device == "CPU, 1 thread", "no engine is built"
    inference.load(tiny, "tensorrt")
    assert inference.load(tiny).backend.device.startswith("TensorRT")
    assert inference.load(tiny, threads=2).backend.device == "CPU, 2 threads", "TensorRT has no threads"
    monkeypatch.setattr(tensorrt_cuda, "open_cuda", lambda library="auto": _no_gpu())
    assert inference.resolve("auto", tiny) == "onnxruntime"


def test_auto_finds_an_engine_in_the_cache_of_its_options(tiny, gpu, tmp_path):
    options = {"cache": str(tmp_path / "mine")}
    inference.load(tiny, "tensorrt", **options)
    assert inference.resolve("auto", tiny, lambda name: options) == "tensorrt"
    assert inference.resolve("auto", tiny) == "onnxruntime"


def test_stored_engine_that_differs_more_than_is_allowed_now_is_compared_again(tiny, gpu, tmp_path, caplog):
    inference.load(tiny, "tensorrt", precision="fp32")
    (name,) = engines(tmp_path)
    path = (tmp_path / "engines" / name).with_suffix(".json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "difference": 0.03}))
    strict = {"precision": "fp32", "largest_difference": 0.01}
    assert inference.resolve("auto", tiny, lambda name: {"precision": "fp32"}) == "tensorrt"
    assert inference.resolve("auto", tiny, lambda name: strict) == "onnxruntime"
    assert "differs from ONNX Runtime by 3%, at most 1% may" in caplog.text
    gpu(fault="differs")
    inference.load(tiny, "tensorrt", precision="fp32")
    with pytest.raises(PackageError, match="at most 1% may"):
        inference.load(tiny, "tensorrt", **strict)


def _no_gpu():
    raise DeviceError("no GPU")


def test_build_reuses_timings_of_earlier_build(tiny, gpu):
    found = gpu()
    inference.load(tiny, "tensorrt")
    inference.load(tiny, "tensorrt", precision="fp32")
    assert [call[1] for call in found.calls if call[0] == "timings"] == [b"", b"times"]


def test_build_types_and_flags_follow_version(tiny, gpu):
    new = gpu(version="10.3.0")
    inference.load(tiny, "tensorrt", precision="fp32")
    assert ("flags", 2) in new.calls, "strongly typed"
    old = gpu(version="8.6.2")
    inference.load(tiny, "tensorrt", precision="fp16")
    assert ("flags", 1) in old.calls, "explicit batch"
    assert ("set", old.BuilderFlag.FP16) in old.calls
    with pytest.raises(DeviceError, match=r"TensorRT 8.5.3 is too old, 8.6 is the first"):
        gpu(version="8.5.3")
        inference.load(tiny, "tensorrt")


def test_build_kept_groups_stay_in_float32(tiny, gpu):
    for version in ("8.6.2", "10.3.0"):
        found = gpu(version=version)
        inference.load(tiny, "tensorrt", precision="fp16", keep="place")
        assert ("set", found.BuilderFlag.OBEY_PRECISION_CONSTRAINTS) in found.calls
        assert ("precision", "/network/place/ReduceMean", "float32") in found.calls
        assert ("output type", "/network/place/ReduceMean", (0, "float32")) in found.calls
        assert not [call for call in found.calls if call[:2] == ("precision", "/network/fc/Gemm")]
        assert ("flags", 2) not in found.calls, "the builder chooses the types"
    gpu()
    with pytest.raises(PackageError, match=r"tiny has no layer group 'places'; it has place, fc"):
        inference.load(tiny, "tensorrt", keep="places")


def write_quantized(folder, tiny):
    """Write the tiny package with an int8 network, which is its float32 network here."""
    lower = {"int8": tiny.read_onnx()}
    description = dataclasses.replace(tiny, int8=LowerPrecision(0.01))
    return package.write(folder, description, tiny.read_onnx(), lower=lower)


def test_build_int8_takes_quantized_network(tiny, gpu, tmp_path):
    with pytest.raises(PackageError, match=r"tiny has no network in int8: write one with `actrec quantize"):
        inference.load(tiny, "tensorrt", precision="int8")
    quantized = write_quantized(tmp_path / "int8", tiny)
    for version in ("8.6.2", "10.3.0"):
        found = gpu(version=version)
        backend = inference.load(quantized, "tensorrt", precision="int8").backend
        flags = {call[1] for call in found.calls if call[0] == "set"}
        assert flags == {found.BuilderFlag.INT8, found.BuilderFlag.FP16}
        assert backend.device.startswith(f"TensorRT {version} int8 on ")
    newer = gpu(version="11.0.0")
    inference.load(quantized, "tensorrt", precision="int8")
    assert ("flags", 2) in newer.calls, "the network's own types apply"
    gpu(version="10.4.0", fault="differs")
    with pytest.raises(
        PackageError, match=r"at most 15% may; .*: quantize it again \(actrec quantize\) with --keep fc"
    ):
        inference.load(quantized, "tensorrt", precision="int8")
    gpu(version="10.4.0", fault="differs early")
    remedy = r"layer group 'place': build it with --keep place, or"
    with pytest.raises(PackageError, match=remedy):  # `actrec quantize` refuses a group without weights
        inference.load(quantized, "tensorrt", precision="int8")
    gpu(version="11.1.0", fault="differs early")
    with pytest.raises(PackageError, match="'place', which is not in int8: build it with --precision fp32$"):
        inference.load(quantized, "tensorrt", precision="int8")


def test_first_wrong_group_has_room_for_a_row_of_each_body():
    """A layer inside may have more rows than windows: its buffer is of that size."""
    nodes = [
        onnx.helper.make_node("Reshape", ["body", "rows"], ["each"], name="/network/merge/Reshape"),
        onnx.helper.make_node("ReduceMean", ["each"], ["logits"], name="/network/fc/ReduceMean", axes=[2], keepdims=0),
    ]
    shape = onnx.helper.make_tensor("rows", onnx.TensorProto.INT64, [3], [-1, 3, 8])
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, size)
        for name, size in (("body", ["N", 2, 3, 8]), ("logits", None))
    ]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], [shape])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    inputs, given = {"body": np.ones((1, 2, 3, 8), np.float32)}, {}

    def run(content, values, shapes):
        given.update(shapes)
        return {name: value + 1 for name, value in outputs_of(content, values).items()}

    assert backend.first_wrong_group(model.SerializeToString(), inputs, run, 0.05) == ("merge", False)
    assert given == {"probe/merge": (2, 3, 8), "logits": (2, 3)}


def test_load_disagreement_without_onnx_names_no_layer(tiny, gpu, monkeypatch):
    gpu(fault="differs")
    monkeypatch.setattr(backend, "first_wrong_group", lambda *arguments: None)
    with pytest.raises(PackageError, match=r"build it with --precision fp32 \(pip install onnx to find the layers"):
        inference.load(tiny, "tensorrt")
    with pytest.raises(PackageError, match=r"at most 5% may: take backend onnxruntime, and report it"):
        inference.load(tiny, "tensorrt", precision="fp32")


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("parse", PackageError, r"TensorRT cannot parse .*model.onnx: In node 3 \(Einsum\): UNSUPPORTED_NODE$"),
        ("build", PackageError, "TensorRT cannot build tiny: no implementation for node_3"),
        ("memory", DeviceError, "tiny: not enough GPU memory to build its engine: out of memory; end what else"),
        ("corrupt", DeviceError, ENGINE),
        ("context", DeviceError, "not enough GPU memory to run the engine"),
        (
            "nan",
            PackageError,
            "tiny: the engine's logits are no numbers, at most 5% may; it begins in layer group 'fc': build it with "
            "--keep fc, or build with --precision fp32",
        ),
        (
            "differs",
            PackageError,
            "tiny: the engine's logits differ from ONNX Runtime's by .* of their spread, at most 5% may; it begins in "
            "layer group 'fc'",
        ),
        ("differs early", PackageError, "it begins in layer group 'place': build it with --keep place"),
        ("shape", DeviceError, "TensorRT refuses 1 windows of"),
        ("start", DeviceError, "TensorRT could not start the network"),
    ],
)
def test_load_failed_build_raises_one_line_and_leaves_no_file(tiny, gpu, tmp_path, fault, error, message):
    gpu(fault=fault)
    with pytest.raises(error, match=message) as raised:
        inference.load(tiny, "tensorrt")
    assert "\n" not in str(raised.value)
    assert engines(tmp_path) == []


def test_run_unfitting_inputs_refused(tiny, gpu):
    backend = inference.load(tiny, "tensorrt").backend
    windows = simulated_windows(tiny, 1)
    name = next(iter(windows))
    with pytest.raises(InputError, match="the network takes"):
        backend.run({"other": windows[name]})
    with pytest.raises(InputError, match=f"input '{name}' is .* expected"):
        backend.run({**windows, name: windows[name][..., :1]})


def test_load_missing_library_refused_with_remedy(tiny, gpu, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingLibraryError, match="part of JetPack .* backend onnxruntime"):
        inference.load(tiny, "tensorrt")
    for name in ("pycuda.driver", "cuda.bindings.runtime", "cuda.cudart"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingLibraryError, match="pycuda .* or cuda-python"):
        tensorrt_cuda.open_cuda()
    monkeypatch.setattr(tensorrt_cuda.ctypes, "CDLL", lambda name: (_ for _ in ()).throw(OSError()))
    with pytest.raises(DeviceError, match="libcuda.so.1 is missing"):
        tensorrt_cuda.CudaGraph(1, lambda: None)


def test_build_engine_command_prints_result(tiny, gpu, tmp_path, capsys):
    assert main(["build-engine", str(tiny.path), "--precision", "fp32", "--most", "2"]) == 0
    assert "tiny: TensorRT 10.3.0 fp32 on Orin, ready in" in capsys.readouterr().out
    assert len(engines(tmp_path)) == 1
    gpu(fault="parse")
    assert main(["build-engine", str(tiny.path), "--precision", "fp16"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


FLAGS_AND_LAYERS = """
    FP16 INT8 OBEY_PRECISION_CONSTRAINTS PROFILE_SHARING_0806 set_preview_feature precision set_output_type get_layer
    num_outputs get_output create_timing_cache set_timing_cache progress_monitor execute_async_v3
    set_optimization_profile_async set_tensor_address set_input_shape
"""
"""Names that the builder and the engine use of TensorRT 10, many of which TensorRT for RTX has not."""


def test_tensorrt_10_bindings_have_names_that_are_used():
    spec = importlib.util.find_spec("tensorrt_bindings")
    if spec is None:
        pytest.skip("pip install tensorrt-cu13-bindings: the module without its libraries, which does not load")
    (library,) = Path(spec.submodule_search_locations[0]).glob("tensorrt.so")
    content = library.read_bytes()
    assert [name for name in FLAGS_AND_LAYERS.split() if f"{name}\0".encode() not in content] == []


def test_engine_calls_fit_real_bindings(tiny, gpu):
    trt, found = rtx.real(), gpu()
    inference.load(tiny, "tensorrt").backend.run(simulated_windows(tiny, 3))
    classes = ("Runtime", "ICudaEngine", "IExecutionContext")
    calls = [call for call in found.calls if call[0] in classes and len(call) == 4]
    assert len({call[:2] for call in calls}) == 9
    for kind, method, args, kwargs in calls:
        doc = getattr(getattr(trt, kind), method).__doc__
        fits = [_fits(line, args, kwargs) for line in doc.splitlines() if re.search(rf"{method}\(self", line)]
        assert any(fits), f"{kind}.{method}{args}{kwargs} is none of {doc}"
    assert {"num_io_tensors", "create_runtime_config"} <= set(dir(trt.ICudaEngine))
    assert {"create_runtime_cache", "set_runtime_cache"} <= set(dir(trt.IRuntimeConfig))


def _fits(signature, args, kwargs):
    """Return whether arguments fit `name(self: kind, a: type, b: type = default) -> …`."""
    parameter_list = signature[signature.index("(") + 1 : signature.rindex(")")]
    parameters = [part.strip() for part in re.split(r",(?![^\[]*\])", parameter_list)][1:]
    names = [part.split(":")[0] for part in parameters]
    optional = sum("=" in part for part in parameters)
    passed = set(names[: len(args)]) | set(kwargs)
    return len(args) <= len(names) and set(kwargs) <= set(names) and len(passed) >= len(names) - optional


def test_build_errors_are_logged(tiny, gpu, caplog):
    gpu(fault="build")
    caplog.set_level(logging.DEBUG, "actrec")
    with pytest.raises(PackageError):
        inference.load(tiny, "tensorrt")
    assert "TensorRT: no implementation for node_3" in caplog.text


def test_load_compares_engine_with_onnx_runtime(tiny, gpu, monkeypatch):
    batch_sizes: list[int] = []
    run = OnnxRuntimeBackend.run

    def record_batch_size(self, inputs):
        batch_sizes.append(len(next(iter(inputs.values()))))
        return run(self, inputs)

    monkeypatch.setattr(OnnxRuntimeBackend, "run", record_batch_size)
    inference.load(tiny, "tensorrt")
    assert batch_sizes == [backend.CHECKED]
