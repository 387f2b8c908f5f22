"""Primal-dual scene flow on a GPU: kernels as plain C++, launches, and calls of CuPy."""

import importlib.util
import re
import shutil
import subprocess
import sys
import types
from dataclasses import fields

import numpy as np
import pytest

from actrec import scene_flow
from actrec.scene_flow.primal_dual import PdFlow, gpu, sweeps
from actrec.scene_flow.primal_dual.cpu import KEPT, CpuSolver, Level, PdFlowConfig
from actrec.scene_flow.primal_dual.gpu import GpuSolver
from actrec.utils.errors import DeviceError, MissingLibraryError
from tests.core.scene_flow.plain_device import PlainDevice
from tests.core.scene_flow.test_pd_flow import DT, SMALL, image, scene
from tests.reference import primal_dual as reference


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture
def device(folder):
    return PlainDevice(folder)


def odd(level: Level) -> Level:
    """Crop an image so that its sides are odd at every level."""
    return Level(level.gray[:59, :77].copy(), level.depth[:59, :77].copy(), level.camera)


@pytest.mark.parametrize("cut", [lambda level: level, odd])
@pytest.mark.parametrize("iterations", [40, 41])
def test_kernels_match_reference(device, cut, iterations):
    config = PdFlowConfig(iterations=iterations, fewer=9)
    first, second = cut(image(*scene())), cut(image(*scene(moved=(0.03, -0.02, 0.04))))
    expected, _ = reference.flow(first, second, config)
    solver = GpuSolver(config, device)
    found = solver.solve(*(solver.pyramid(i.gray, i.depth, i.camera) for i in (first, second)))
    for name, plane in zip("uvw", found, strict=True):
        np.testing.assert_allclose(plane, getattr(expected, name), atol=2e-3, err_msg=name)


def test_gpu_solver_stream_matches_cpu(device):
    """Workspaces and recordings are reused, and the flow starts from the previous one."""
    config = PdFlowConfig(iterations=30, fewer=9)
    solvers = GpuSolver(config, device), CpuSolver(config, 1)
    images = [image(*scene(moved=(0.06 * k, 0, 0.02 * k))) for k in range(4)]
    flows = []
    for solver in solvers:
        pyramids = [solver.pyramid(i.gray, i.depth, i.camera) for i in images]
        start, own = None, []
        for k in range(3):
            start = solver.solve(pyramids[k], pyramids[k + 1], start)
            own.append(start)
        flows.append(own)
    for ours, theirs in zip(*flows, strict=True):
        assert np.quantile(np.abs(ours - theirs), 0.999) < 2e-3
    assert device.recordings == 3, "one a level, not one a pair"


def test_gpu_solver_launches_kernels_per_level(device):
    config = PdFlowConfig(iterations=12, fewer=2)
    solver = GpuSolver(config, device)
    pyramids = [solver.pyramid(i.gray, i.depth, i.camera) for i in (image(*scene()), image(*scene()))]
    solver.solve(*pyramids)
    assert device.launched.count("iterate") == 12 + 10 + 8
    assert device.launched.count("double_size") == 2
    assert device.launched.count("half_size") == 4


def test_kernel_enums_match_python_planes():
    source = gpu.KERNELS.read_text()
    enums = [names.replace(" ", "").split(",") for names in re.findall(r"enum \{ (U,.*?|IT,.*?) \};", source)]
    assert tuple(name.lower() for name in enums[0][:-1]) == sweeps.STATE
    assert tuple(name.lower() for name in enums[1][:-1]) == sweeps.TERMS
    assert (len(sweeps.STATE), len(sweeps.TERMS)) == (gpu.STATE, gpu.TERMS)
    assert f"KEPT = {len(KEPT)} " in source and sweeps.TERMS.index("rx") == gpu._RX
    assert tuple(field.name for field in fields(reference.State)) == KEPT


def test_pd_flow_on_device_matches_cpu(device, monkeypatch):
    monkeypatch.setattr(gpu, "available", lambda: True)
    monkeypatch.setattr(gpu, "CupyDevice", lambda: device)
    options = {"iterations": 40, "fewer": 9}
    on_gpu, on_cpu = scene_flow.create("pd_flow", **options), scene_flow.create("pd_flow", device="cpu", **options)
    for moved in (0.03, 0.06):
        frames = (*scene(moved=(moved - 0.03, 0, 0)), *scene(moved=(moved, 0, 0)))
        ours, theirs = on_gpu.estimate(*frames, SMALL, DT), on_cpu.estimate(*frames, SMALL, DT)
        np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
        assert np.nanquantile(np.abs(ours - theirs), 0.99) < 2e-3
    assert device.launched.count("half_size") == 3 * 2, "the second image's pyramid is the next pair's first"


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
@pytest.mark.parametrize("architecture", ["sm_87", "sm_90"])  # Orin, Hopper
def test_nvcc_compiles_kernels(tmp_path, architecture):
    command = ["nvcc", "-std=c++17", "-ptx", f"-arch={architecture}", "-o", str(tmp_path / "k.ptx")]
    subprocess.run([*command, str(gpu.KERNELS)], check=True)
    entries = re.findall(r"\.entry (\w+)\(", (tmp_path / "k.ptx").read_text())
    assert sorted(entries) == sorted(kernels())


def kernels():
    return re.findall(r"__global__ void (\w+)\(", gpu.KERNELS.read_text())


class Cupy(types.ModuleType):
    """Fake of the used part of CuPy, with numpy arrays and the plain device's kernels; records calls."""

    def __init__(self, plain, gpus=1, broken=False):
        super().__init__("cupy")
        self.calls, self.float32, self.plain, self.broken = [], np.float32, plain, broken
        self.cuda = types.SimpleNamespace(
            runtime=types.SimpleNamespace(getDeviceCount=lambda: gpus),
            Stream=lambda non_blocking: Stream(self),
            compiler=types.SimpleNamespace(CompileException=RuntimeError),
        )

    def RawModule(self, code, options):  # noqa: N802  (CuPy's name)
        return types.SimpleNamespace(compile=self._compile, get_function=lambda name: self._kernel(name))

    def _compile(self):
        if self.broken:
            raise RuntimeError("\nno kernel image\nmore")

    def _kernel(self, name):
        def launch(grid, block, arguments):
            assert all(isinstance(a, (np.ndarray, np.int32, np.float32)) for a in arguments)
            assert self.calls[-1] == "enter", "launched on another stream"
            rows, columns = arguments[-2:]
            assert grid[0] * block[0] >= columns > (grid[0] - 1) * block[0]
            assert grid[1] * block[1] >= rows > (grid[1] - 1) * block[1]
            plain = [a if isinstance(a, np.ndarray) else a.item() for a in arguments]
            self.plain.launch(name, tuple(plain[:-2]), tuple(plain[-2:]))

        return launch

    def empty(self, shape, dtype):
        return Array(np.full(shape, np.nan, dtype))

    def asnumpy(self, values, stream):
        return np.array(values)


class Array(np.ndarray):
    def __new__(cls, values):
        return values.view(cls)

    def set(self, values, stream):
        assert values.dtype == np.float32 and values.flags.c_contiguous
        self[:] = values


class Stream:
    def __init__(self, cupy):
        self.cupy = cupy

    def __enter__(self):
        self.cupy.calls.append("enter")

    def __exit__(self, *_):
        self.cupy.calls.append("exit")

    def synchronize(self):
        pass

    def begin_capture(self):
        self.cupy.plain.recording = True

    def end_capture(self):
        return types.SimpleNamespace(launch=lambda stream: self.cupy.calls.append("graph"))


def test_cupy_device_fake_cupy_records_graphs(device, monkeypatch):
    """Against a fake: CuPy is not needed."""
    cupy = Cupy(device)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    config = PdFlowConfig(iterations=4, fewer=0)
    solver = GpuSolver(config, gpu.CupyDevice())
    pyramids = [solver.pyramid(i.gray, i.depth, i.camera) for i in (image(*scene()), image(*scene(moved=(0.02, 0, 0))))]
    found = solver.solve(*pyramids)
    assert np.isfinite(found).all()
    assert cupy.calls.count("graph") == 0
    solver.solve(*pyramids)
    assert cupy.calls.count("graph") == 3


def test_pd_flow_cuda_without_cupy_or_gpu_raises(device, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert not gpu.available()
    with pytest.raises(MissingLibraryError, match="pip install .cupy"):
        scene_flow.create("pd_flow", device="cuda")
    assert isinstance(PdFlow(threads=1)._solver, CpuSolver)
    monkeypatch.setitem(sys.modules, "cupy", Cupy(device, gpus=0))
    with pytest.raises(DeviceError, match="no GPU.*device=cpu"):
        scene_flow.create("pd_flow", device="cuda")
    monkeypatch.setitem(sys.modules, "cupy", Cupy(device, broken=True))
    with pytest.raises(DeviceError, match="kernels.cu.*no kernel image"):
        scene_flow.create("pd_flow", device="cuda")


@pytest.mark.skipif(importlib.util.find_spec("cupy") is None, reason="CuPy is not installed")
def test_gpu_solver_on_gpu_matches_cpu():
    if not gpu.available():
        pytest.skip("CuPy finds no GPU")
    config = PdFlowConfig()
    first, second = image(*scene()), image(*scene(moved=(0.03, -0.02, 0.04)))
    flows = []
    for solver in (CpuSolver(config, 1), GpuSolver(config, gpu.CupyDevice())):
        pyramids = [solver.pyramid(i.gray, i.depth, i.camera) for i in (first, second)]
        flows += [solver.solve(*pyramids), solver.solve(*pyramids)]
    np.testing.assert_array_equal(flows[2], flows[3])  # the recorded graph equals the launches
    assert np.quantile(np.abs(flows[0] - flows[2]), 0.999) < 2e-3
