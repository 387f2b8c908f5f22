"""Primal-dual scene flow on a GPU: kernels as plain C++, launches, and calls of CuPy."""

import ctypes
import importlib.util
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np
import pytest

from actrec import scene_flow
from actrec.scene_flow.primal_dual import PdFlow, gpu, sweeps
from actrec.scene_flow.primal_dual.cpu import KEPT, CpuSolver, PdFlowConfig
from actrec.types import Intrinsics
from actrec.utils.errors import DeviceError, MissingLibraryError
from tests.core.scene_flow.fake_cupy import CompileError, Cupy
from tests.core.scene_flow.plain_device import KERNEL, PlainDevice
from tests.core.scene_flow.test_pd_flow import DT, SMALL, image, scene
from tests.reference import primal_dual as reference

CAMERA = SMALL.fx, SMALL.fy, SMALL.cx, SMALL.cy


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture
def device(folder):
    return PlainDevice(folder)


def create_on(device, monkeypatch, **options):
    """Return a `PdFlow` on a device."""
    monkeypatch.setattr(gpu, "available", lambda: True)
    monkeypatch.setattr(gpu, "CupyDevice", lambda: device)
    return scene_flow.create("pd_flow", **options)


def whole(array):
    return array


def odd(array):
    """Crop an image so that its sides are odd at every level."""
    return np.ascontiguousarray(array[:59, :77])


@pytest.mark.parametrize("cut", [whole, odd])
@pytest.mark.parametrize("iterations", [40, 41])
def test_kernels_match_reference(device, cut, iterations):
    config = PdFlowConfig(iterations=iterations, fewer=9)
    first, second = (tuple(map(cut, images)) for images in (scene(), scene(moved=(0.03, -0.02, 0.04))))
    expected, _ = reference.flow(image(*first), image(*second), config)
    flow = gpu.GpuFlow(config, device)
    flow.velocity(first, second, CAMERA, DT)
    for name, plane in zip("uvw", flow._space.level("done", 0), strict=False):
        np.testing.assert_allclose(plane, getattr(expected, name), atol=2e-3, err_msg=name)


def textured(shape: tuple[int, int], k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return color and depth of image k of a stream, with a moving box, noise, holes and invalid depth."""
    rng, (height, width) = np.random.default_rng(3), shape
    color = rng.integers(0, 256, (height, width + 16, 3)).astype(np.float32)
    color = cv2.normalize(cv2.GaussianBlur(color, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX)
    depth = np.full((height, width + 16), 3.0, np.float32)
    depth[height // 4 : -height // 4, width // 4 : width // 2] = 1.7
    color, depth = (np.ascontiguousarray(values[:, k : k + width]) for values in (color, depth))
    depth += np.random.default_rng(k).normal(0, 0.002, shape).astype(np.float32) - 0.01 * k
    depth = np.round(depth * 1000) / np.float32(1000)  # whole millimeters, as from 16-bit images
    for value in (np.nan, 0, -1, np.inf):
        depth[np.random.default_rng(k).random(shape) < 0.01] = value
    depth[height // 2 :, width // 2 : width // 2 + 10] = np.nan
    return color.astype(np.uint8), depth


@pytest.mark.parametrize("shape", [(60, 80), (59, 77), (15, 15), (16, 131), (97, 64), (120, 160)])
def test_device_stream_matches_cpu(device, monkeypatch, shape):
    """From color and depth to velocities, for a stream of images with missing depth."""
    options = {"iterations": 21, "fewer": 6}
    camera = Intrinsics(shape[1], shape[0], 66.0, 65.0, shape[1] / 2, shape[0] / 2 - 1)
    on_gpu = create_on(device, monkeypatch, **options)
    on_cpu = scene_flow.create("pd_flow", device="cpu", threads=1, **options)
    for k in range(3):
        frames = *textured(shape, k), *textured(shape, k + 1)
        ours, theirs = (method.estimate(*frames, camera, DT * (1 + k)) for method in (on_gpu, on_cpu))
        assert ours.dtype == np.float32
        np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
        assert 0.5 < np.isfinite(ours).mean() < 1
        assert np.nanquantile(np.abs(ours - theirs), 0.99) < 2e-3


def test_device_unrelated_pairs_match_cpu(device, monkeypatch):
    """Another image, another camera and another size do not continue the stream."""
    options = {"iterations": 10, "fewer": 3}
    on_gpu = create_on(device, monkeypatch, **options)
    large = Intrinsics(96, 80, 66.0, 66.0, 48.0, 40.0)
    turned = Intrinsics(80, 60, 50.0, 50.0, 39.5, 29.5)
    for number, (camera, k) in enumerate(((SMALL, 0), (SMALL, 1), (SMALL, 5), (turned, 6), (large, 0), (SMALL, 1))):
        shape = camera.height, camera.width
        frames = *textured(shape, k), *textured(shape, k + 1)
        cpu = scene_flow.create("pd_flow", device="cpu", threads=1, **options)
        if number == 1:  # the only pair that follows
            cpu.estimate(*textured(shape, 0), *textured(shape, 1), camera, DT)
        ours, theirs = on_gpu.estimate(*frames, camera, DT), cpu.estimate(*frames, camera, DT)
        np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
        assert np.nanquantile(np.abs(ours - theirs), 0.99) < 2e-3


def test_device_without_warm_start_matches_single_pair(device, monkeypatch):
    on_gpu = create_on(device, monkeypatch, iterations=10, fewer=3, warm_start=False)
    frames = [textured((60, 80), k) for k in range(3)]
    on_gpu.estimate(*frames[0], *frames[1], SMALL, DT)
    second = on_gpu.estimate(*frames[1], *frames[2], SMALL, DT)
    alone = create_on(device, monkeypatch, iterations=10, fewer=3).estimate(*frames[1], *frames[2], SMALL, DT)
    np.testing.assert_array_equal(second, alone)


def test_device_whole_settings_equal_floats(device, monkeypatch):
    """An int where a kernel takes a float would be read as other bits."""
    whole = {"max_speed_m_s": 3, "smooth_image": 1, "smooth_depth": 1, "depth_weight": 75, "depth_edges": 900}
    whole |= {"median_depth": 5, "median_change": 10}
    frames = *textured((60, 80), 0), *textured((60, 80), 1)
    found = [
        create_on(device, monkeypatch, iterations=10, fewer=3, **options).estimate(*frames, SMALL, DT)
        for options in (whole, {name: float(value) for name, value in whole.items()})
    ]
    np.testing.assert_array_equal(*found)


def test_device_result_survives_next_pair_and_reused_inputs(device, monkeypatch):
    on_gpu = create_on(device, monkeypatch, iterations=10, fewer=3)
    (color0, depth0), (color1, depth1) = textured((60, 80), 0), textured((60, 80), 1)
    first = on_gpu.estimate(color0, depth0, color1, depth1, SMALL, DT)
    kept = first.copy()
    color1[:], depth1[:] = textured((60, 80), 7)  # the caller's arrays have another image now
    second = on_gpu.estimate(color1, depth1, *textured((60, 80), 8), SMALL, DT)
    np.testing.assert_array_equal(first, kept)
    fresh = create_on(device, monkeypatch, iterations=10, fewer=3)
    np.testing.assert_array_equal(second, fresh.estimate(color1, depth1, *textured((60, 80), 8), SMALL, DT))


def test_iterate_does_not_depend_on_order_of_threads(device):
    config = PdFlowConfig(iterations=17, fewer=4)
    out = []
    for device.descending in (False, True):
        out.append(gpu.GpuFlow(config, device).velocity(textured((60, 80), 0), textured((60, 80), 1), CAMERA, DT))
    np.testing.assert_array_equal(*out)


def test_convert_equals_opencv(device):
    rng = np.random.default_rng(0)
    color = rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)
    depth = rng.choice(np.array([np.nan, np.inf, -np.inf, -1, 0, 1e-30, 0.7, 65], np.float32), (480, 640))
    gray, known = np.empty((2, 480, 640), np.float32)
    device.launch("convert", (color, depth, gray, known), (480, 640))
    np.testing.assert_array_equal(gray, cv2.cvtColor(color, cv2.COLOR_RGB2GRAY))
    np.testing.assert_array_equal(known, np.where((depth > 0) & (depth < np.inf), depth, 0))


def test_stream_uploads_each_image_once_and_records_two_graphs(device):
    """A graph for each of the two places of the newest image."""
    flow = gpu.GpuFlow(PdFlowConfig(iterations=12, fewer=2), device)
    for k in range(4):
        flow.velocity(textured((60, 80), k), textured((60, 80), k + 1), CAMERA, DT)
    assert device.uploaded == [32 + 7 * 60 * 80] * 5
    assert device.downloaded == [12 * 60 * 80] * 4
    assert device.recordings == 2
    assert device.launched.count("half_size") == 5 * 2
    assert device.launched.count("iterate") == 4 * (3 + 2 + 2), "12, 10 and 8 iterations, up to 5 a launch"


def test_kernel_enums_match_python_planes():
    source = gpu.KERNELS.read_text()
    enums = [names.replace(" ", "").split(",") for names in re.findall(r"enum \{ (U,.*?|IT,.*?) \};", source)]
    assert tuple(name.lower() for name in enums[0][:-1]) == sweeps.STATE
    assert tuple(name.lower() for name in enums[1][:-1]) == sweeps.TERMS
    assert (len(sweeps.STATE), len(sweeps.TERMS)) == (gpu.STATE, gpu.TERMS)
    assert f"KEPT = {len(KEPT)} " in source
    assert f"TOGETHER = {gpu.TOGETHER}, TILE = {gpu.TILE}," in source
    assert "{ FX, FY, CX, CY, DT, WARM, PAIR }" in source and gpu._PAIR == 6
    assert tuple(field.name for field in fields(reference.State)) == KEPT


def kernels():
    return [match[1] for match in KERNEL.finditer(gpu.KERNELS.read_text())]


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
@pytest.mark.parametrize("architecture", ["sm_87", "sm_90"])  # Orin, Hopper
def test_nvcc_compiles_kernels_without_spills(tmp_path, architecture):
    command = ["nvcc", *gpu.OPTIONS, "-cubin", f"-arch={architecture}", "-Xptxas", "-v", "-o", str(tmp_path / "k")]
    done = subprocess.run([*command, str(gpu.KERNELS)], check=True, capture_output=True, text=True)
    found = re.findall(r"entry function '(\w+)'.*?(\d+) bytes spill stores.*?Used (\d+) registers", done.stderr, re.S)
    assert sorted(name for name, _, _ in found) == sorted(kernels())
    assert all(spilled == "0" for _, spilled, _ in found)
    assert int(next(used for name, _, used in found if name == "iterate")) <= 65536 // gpu.TILE**2


def nvrtc():
    """Return the compiler that CuPy uses, of NVIDIA's wheel; None if that is not installed."""
    try:
        spec = importlib.util.find_spec("nvidia.cuda_nvrtc")
    except ModuleNotFoundError:
        return None
    libraries = [] if spec is None else sorted(Path(spec.submodule_search_locations[0]).glob("lib/libnvrtc.so.*"))
    return ctypes.CDLL(str(libraries[0])) if libraries else None


@pytest.mark.skipif(nvrtc() is None, reason="the wheel nvidia-cuda-nvrtc-cu12 is not installed")
@pytest.mark.parametrize("architecture", ["sm_75", "sm_86", "sm_89", "sm_90"])
def test_nvrtc_compiles_kernels(architecture):
    compiler, program = nvrtc(), ctypes.c_void_p()
    source = gpu.KERNELS.read_text().encode()
    assert compiler.nvrtcCreateProgram(ctypes.byref(program), source, b"kernels.cu", 0, None, None) == 0
    options = [option.encode() for option in (*gpu.OPTIONS, f"-arch={architecture}")]
    status = compiler.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    size = ctypes.c_size_t()
    compiler.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    compiler.nvrtcGetProgramLog(program, log)
    assert status == 0, log.value.decode()
    assert compiler.nvrtcGetCUBINSize(program, ctypes.byref(size)) == 0
    cubin = ctypes.create_string_buffer(size.value)
    assert compiler.nvrtcGetCUBIN(program, cubin) == 0
    assert all(f".text.{name}\0".encode() in cubin.raw for name in kernels())


@pytest.mark.parametrize("integrated", [0, 1])
def test_cupy_device_fake_cupy_matches_plain_device(device, monkeypatch, integrated):
    """Against a fake: CuPy is not needed. Later pairs are one graph each; an integrated GPU needs no copies."""
    cupy = Cupy(device, integrated=integrated)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    options = {"iterations": 4, "fewer": 0}
    method, plain = scene_flow.create("pd_flow", **options), gpu.GpuFlow(PdFlowConfig(**options), device)
    for k in range(4):
        frames = textured((60, 80), k), textured((60, 80), k + 1)
        if k == 2:
            cupy.calls.clear()
        found = method.estimate(*frames[0], *frames[1], SMALL, DT)
        np.testing.assert_array_equal(found, plain.velocity(*frames, CAMERA, DT))
    assert cupy.calls == ["graph", "graph"]
    cupy.calls.clear()
    scene_flow.create("pd_flow", **options).estimate(*frames[0], *frames[1], SMALL, DT)
    assert (cupy.calls.count("up"), cupy.calls.count("down")) == ((0, 0) if integrated else (2, 1))


def test_pd_flow_full_gpu_raises_and_recovers(device, monkeypatch):
    cupy = Cupy(device)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    method = scene_flow.create("pd_flow", iterations=2, fewer=0)
    frames = *textured((60, 80), 0), *textured((60, 80), 1)
    before = method.estimate(*frames, SMALL, DT)
    large = Intrinsics(96, 80, 66.0, 66.0, 48.0, 40.0)
    cupy.full = True
    with pytest.raises(DeviceError, match=r"memory is full: Out of memory.*nvidia-smi.*device=cpu"):
        method.estimate(*textured((80, 96), 0), *textured((80, 96), 1), large, DT)
    cupy.full = False
    np.testing.assert_array_equal(method.estimate(*frames, SMALL, DT), before)


def test_pd_flow_cuda_without_cupy_or_gpu_raises(device, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert not gpu.available()
    with pytest.raises(MissingLibraryError, match="pip install .cupy"):
        scene_flow.create("pd_flow", device="cuda")
    assert isinstance(PdFlow(threads=1)._solver, CpuSolver)
    absent = Cupy(device, gpus=0), Cupy(device, counting="cudaErrorNoDevice: no CUDA-capable device is detected")
    for cupy in (*absent, Cupy(device, driver=0, counting="cudaErrorInsufficientDriver: insufficient")):
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        assert isinstance(PdFlow(threads=1)._solver, CpuSolver)
        with pytest.raises(DeviceError, match="no GPU.*device=cpu"):
            scene_flow.create("pd_flow", device="cuda")


def test_pd_flow_auto_names_driver_without_cupy(device, monkeypatch):
    """`auto` on a machine with an NVIDIA GPU takes the CPU for want of CuPy: one line with the remedy."""
    monkeypatch.setattr(gpu.ctypes, "CDLL", lambda name: name)
    monkeypatch.setitem(sys.modules, "cupy", None)
    line = scene_flow.device_line("pd_flow", PdFlow(threads=1))
    assert line == (
        "scene flow by pd_flow on CPU: this machine has an NVIDIA driver, but CuPy is not installed: install the CuPy "
        "of your CUDA version alone (pip install 'cupy-cuda12x<14', CUDA 13: cupy-cuda13x), or device=cpu"
    )
    assert scene_flow.device_line("pd_flow", PdFlow(threads=1, device="cpu")) == "scene flow by pd_flow on CPU"
    assert scene_flow.device_line("dis", scene_flow.create("dis")) == ""
    monkeypatch.setitem(sys.modules, "cupy", Cupy(device, gpus=0))
    assert scene_flow.device_line("pd_flow", PdFlow(threads=1)) == "scene flow by pd_flow on CPU"
    monkeypatch.setitem(sys.modules, "cupy", Cupy(device))
    assert scene_flow.device_line("pd_flow", PdFlow()) == "scene flow by pd_flow on CUDA"


def test_pd_flow_without_driver_has_no_remark(monkeypatch):
    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(gpu.ctypes, "CDLL", missing)
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert PdFlow(threads=1).unused_gpu == ""


@pytest.mark.parametrize("chosen", ["auto", "cuda"])
def test_pd_flow_cupy_of_other_cuda_raises(device, monkeypatch, chosen):
    """`auto` does not fall back to the CPU where a GPU is present."""
    faults = {
        "NVIDIA driver: cudaErrorInsufficientDriver: .*update the driver or install the CuPy of your CUDA":
            Cupy(device, counting="cudaErrorInsufficientDriver: CUDA driver version is insufficient"),
        "kernels.cu for this GPU: identifier.*install the CuPy":
            Cupy(device, compiling=CompileError("\nidentifier is undefined\nmore")),
        "CuPy failed to load libnvrtc.so.12.*install the CuPy":
            Cupy(device, compiling=RuntimeError("CuPy failed to load libnvrtc.so.12: OSError: cannot open")),
    }  # fmt: skip
    for message, cupy in faults.items():
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        with pytest.raises(DeviceError, match=message) as caught:
            scene_flow.create("pd_flow", device=chosen)
        assert "\n" not in str(caught.value)


def test_pd_flow_broken_cupy_raises(monkeypatch, tmp_path):
    (tmp_path / "cupy.py").write_text(
        "try:\n    raise ImportError('libcudart.so.12: cannot open shared object file')\n"
        "except ImportError as error:\n    raise ImportError('\\n=====\\nFailed to import CuPy.') from error\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    with pytest.raises(DeviceError, match=r"fails to import: libcudart.so.12: .*install the CuPy.*device=cpu"):
        scene_flow.create("pd_flow")


@pytest.mark.skipif(importlib.util.find_spec("cupy") is None, reason="CuPy is not installed")
def test_pd_flow_on_gpu_matches_cpu():
    if not gpu.available():
        pytest.skip("CuPy finds no GPU")
    methods = [scene_flow.create("pd_flow", device=device) for device in ("cuda", "cpu")]
    for k in range(4):
        frames = *textured((120, 160), k), *textured((120, 160), k + 1)
        camera = Intrinsics(160, 120, 131.0, 131.0, 79.5, 59.5)
        ours, theirs = (method.estimate(*frames, camera, DT) for method in methods)
        assert (np.isnan(ours) != np.isnan(theirs)).mean() < 1e-3
        assert np.nanquantile(np.abs(ours - theirs), 0.99) < 0.04
        if k == 0:
            first = ours
    again = methods[0].estimate(*textured((120, 160), 0), *textured((120, 160), 1), camera, DT)
    np.testing.assert_array_equal(first, again)  # a recorded graph equals the launches
