"""`actrec bench gpu` over a fake CuPy, whose kernels run on the CPU."""

import csv
import os
import subprocess
import sys
import tarfile
from functools import partial

import pytest

from actrec.scene_flow.primal_dual import gpu as gpu_module
from actrec.utils.errors import ConfigError, DeviceError
from benchmarks import gpu, markdown
from tests.core.scene_flow.fake_cupy import Cupy
from tests.core.scene_flow.plain_device import PlainDevice

TRAINED = gpu.Step("training", "a", lambda: {"network": "a"})


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
        yield

    monkeypatch.setattr(gpu_module, "available", lambda: True)
    monkeypatch.setattr(gpu, "machine", lambda: {"gpu": "small"})
    monkeypatch.setattr(gpu, "measure_scene_flow", full)
    monkeypatch.setattr("benchmarks.training.measure_on_gpu", lambda seconds: [TRAINED])
    tables = gpu.measure([])
    assert tables["scene_flow_error"] == "out of memory allocating 1 byte; free memory of the GPU (nvidia-smi)"
    assert tables["training"] == [{"network": "a"}]
    monkeypatch.setattr(gpu, "machine", lambda: next(full(0)))
    with pytest.raises(DeviceError, match="the GPU cannot be used: out of memory.*nvidia-smi"):
        gpu.measure([])


def test_gpu_benchmark_beyond_its_budget_skips_and_lists_the_rest(monkeypatch, tmp_path):
    now, measured = [0.0], []

    def steps(seconds):
        for number in range(4):
            yield gpu.Step("scene_flow", f"size {number}", partial(measure, number))

    def measure(number):
        measured.append(number)
        now[0] += 40
        return [{"size": number, "frames_s": 1.0}]

    monkeypatch.setattr(gpu.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(gpu_module, "available", lambda: True)
    monkeypatch.setattr(gpu, "machine", lambda: {"gpu": "slow"})
    monkeypatch.setattr(gpu, "measure_scene_flow", steps)
    monkeypatch.setattr("benchmarks.training.measure_on_gpu", lambda seconds: [TRAINED])
    tables = gpu.measure(["--minutes", "1.5", "--csv", str(tmp_path / "gpu.csv")])
    assert measured == [0, 1, 2] and len(tables["scene_flow"]) == 3 and "training" not in tables
    assert [row["step"] for row in tables["skipped"]] == ["scene_flow, size 3", "training, a"]
    assert tables["skipped"][0]["why"].startswith("the budget of 1.5 minutes is used up: raise --minutes")
    assert "skipped" not in (tmp_path / "gpu.csv").read_text()
    assert "budget of 1.5 minutes" in markdown("gpu", tables)
    now[0] = 0.0
    assert len(gpu.measure([])["scene_flow"]) == 4, "six minutes by default"


def test_gpu_benchmark_pack_runs_without_its_checkout(monkeypatch, tmp_path):
    """The unpacked archive, without its checkout; it finds the recipes of the training."""
    monkeypatch.setattr(gpu_module, "available", lambda: pytest.fail("needs a GPU"))
    (made,) = gpu.measure(["--pack", str(tmp_path / "gpu.tar.gz")])["archive"]
    assert made["mb"] == round((tmp_path / "gpu.tar.gz").stat().st_size / 1e6, 1) < gpu.LARGEST_MB
    unpacked = tmp_path / "machine"
    with tarfile.open(tmp_path / "gpu.tar.gz") as archive:
        names = archive.getnames()
        archive.extractall(unpacked, filter="data")
    assert not [name for name in names if name.endswith(".onnx") or "__pycache__" in name]
    assert made["files"] == len(names) and "PYTHONPATH=.:models python -m benchmarks.gpu" in made["command"]
    environment = {**os.environ, "PYTHONPATH": f".{os.pathsep}models"}
    done = subprocess.run(
        [sys.executable, "-c", UNPACKED], cwd=unpacked, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(unpacked)
    with pytest.raises(ConfigError, match="there is no such folder"):
        gpu.measure(["--pack", str(tmp_path / "none/gpu.tar.gz")])
    monkeypatch.setattr(gpu, "LARGEST_MB", 0.1)
    with pytest.raises(DeviceError, match=r"has \d MB, more than 0.1: remove large files from actrec"):
        gpu.measure(["--pack", str(tmp_path / "gpu.tar.gz")])


UNPACKED = """
import sys
from pathlib import Path

for module in ("cupy", "rosbags", "rclpy", "tensorrt", "tensorrt_rtx_bindings", "av", "psutil"):
    sys.modules[module] = None

from benchmarks import gpu, training

assert [training.recipe_of(entry).model for entry in training.ON_GPU]
assert gpu.count_traffic((40, 30))["launches"] > 0
try:
    gpu.measure([])
except gpu.DeviceError as error:
    assert "finds no GPU" in str(error)
print(Path(gpu.__file__).parents[1])
"""


@pytest.mark.parametrize("size", [(160, 120), (320, 240), (640, 480)])
def test_count_traffic_is_of_one_upload_and_one_download(size):
    width, height = size
    row = gpu.count_traffic(size)
    assert row["up_mb"] == pytest.approx(7 * width * height / 1e6, abs=1e-3)
    assert row["down_mb"] == pytest.approx(12 * width * height / 1e6, abs=1e-3)
    assert row["iterate"] < row["launches"] < 1.5 * row["iterate"]
    assert row["kernel_mb"] < row["one_pass_mb"] / 4
