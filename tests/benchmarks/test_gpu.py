"""`actrec bench gpu` over a fake CuPy, whose kernels run on the CPU."""

import csv
import sys

import pytest

from actrec.scene_flow.primal_dual import gpu as gpu_module
from actrec.utils.errors import ConfigError, DeviceError
from benchmarks import gpu
from tests.core.scene_flow.fake_cupy import Cupy
from tests.core.scene_flow.plain_device import PlainDevice


@pytest.mark.slow
def test_gpu_benchmark_over_fake_cupy_writes_tables_and_csv(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", Cupy(PlainDevice(tmp_path)))
    monkeypatch.setattr(gpu, "SIZES", ((40, 30),))
    monkeypatch.setattr(gpu, "ODD_SIZE", (37, 29))
    monkeypatch.setattr(gpu, "RUNS", 1)
    tables = gpu.measure(["--seconds", "0.1", "--csv", str(tmp_path / "gpu.csv")])
    for row in tables["scene_flow_against_cpu"]:
        assert row["p99_mm_s"] < 2 and row["nan_differs"] == 0 and row["repeated_equal"]
    (speed,) = tables["scene_flow"]
    assert speed["frames_s"] > 0
    assert speed["of_limit"] == pytest.approx(speed["limit_ms"] / speed["kernels_ms"], abs=0.01)
    counted = gpu.count_traffic((40, 30))
    assert sum(row["launches"] for row in tables["scene_flow_kernels"]) == counted["launches"]
    with (tmp_path / "gpu.csv").open() as file:
        rows = {row["figure"]: row for row in csv.DictReader(file)}
    assert rows["gpu, scene flow, 40x30: frames s"]["unit"] == "frame/s"
    assert rows["gpu, scene flow, 40x30: frames s"]["machine"] == "fake"


def test_gpu_benchmark_without_gpu_or_with_unknown_part_raises(monkeypatch):
    monkeypatch.setattr(gpu_module, "available", lambda: False)
    with pytest.raises(DeviceError, match="CuPy is not installed or finds no GPU"):
        gpu.measure([])
    with pytest.raises(ConfigError, match="unknown part flow; known: scene_flow"):
        gpu.measure(["--parts", "flow"])


def test_gpu_benchmark_out_of_memory_keeps_the_other_parts(monkeypatch):
    def full(seconds):
        raise MemoryError("out of memory allocating 1 byte")

    monkeypatch.setattr(gpu_module, "available", lambda: True)
    monkeypatch.setattr(gpu, "machine", lambda: {"gpu": "small"})
    monkeypatch.setattr(gpu, "measure_scene_flow", full)
    monkeypatch.setattr("benchmarks.training.measure_on_gpu", lambda seconds: {"training": [{"network": "a"}]})
    tables = gpu.measure([])
    assert tables["scene_flow_error"] == "out of memory allocating 1 byte; free memory of the GPU (nvidia-smi)"
    assert tables["training"] == [{"network": "a"}]
    monkeypatch.setattr(gpu, "machine", lambda: full(0))
    with pytest.raises(DeviceError, match="the GPU cannot be used: out of memory.*nvidia-smi"):
        gpu.measure([])


@pytest.mark.parametrize("size", [(160, 120), (320, 240), (640, 480)])
def test_count_traffic_is_of_one_upload_and_one_download(size):
    width, height = size
    row = gpu.count_traffic(size)
    assert row["up_mb"] == pytest.approx(7 * width * height / 1e6, abs=1e-3)
    assert row["down_mb"] == pytest.approx(12 * width * height / 1e6, abs=1e-3)
    assert row["iterate"] < row["launches"] < 1.5 * row["iterate"]
    assert row["kernel_mb"] < row["one_pass_mb"] / 4
