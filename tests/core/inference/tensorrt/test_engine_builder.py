"""Engine builds: interruption, TensorRT versions, a foreign module, unreadable timings; runs in threads."""

import contextlib
import dataclasses
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from actrec import inference
from actrec.cli import main
from actrec.inference import package
from actrec.inference.package import LowerPrecision
from actrec.inference.tensorrt import cuda
from actrec.inference.tensorrt.backend import simulated_windows
from actrec.utils.errors import DeviceError, MissingLibraryError, PackageError
from tests.core.inference.tensorrt import plain_tensorrt
from tests.tiny_model import write_tiny


@pytest.fixture
def tiny(tmp_path):
    return write_tiny(tmp_path / "tiny")


@pytest.fixture
def fake_tensorrt(monkeypatch, tmp_path):
    """Install a fake TensorRT of a given version or with a fault."""
    monkeypatch.setenv("ACTREC_ENGINES", str(tmp_path / "engines"))
    monkeypatch.setattr(cuda, "open_cuda", lambda library="auto": plain_tensorrt.Cuda())

    def fake_tensorrt(**options):
        found = plain_tensorrt.module(**options)
        monkeypatch.setitem(sys.modules, "tensorrt", found)
        return found

    return fake_tensorrt


def load(tiny, **options):
    return inference.load(tiny, "tensorrt", graph=False, **options)


def engines(tmp_path):
    return sorted(path.name for path in (tmp_path / "engines").glob("*.engine"))


@pytest.fixture
def interruptible():
    """Make Ctrl-C raise KeyboardInterrupt, also in background jobs, which ignore it."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.usefixtures("interruptible")
def test_build_engine_ctrl_c_ends_build(tiny, fake_tensorrt, tmp_path, capsys):
    found = fake_tensorrt(fault="slow")

    def interrupt_build():
        while not plain_tensorrt.is_building(found):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt_build, daemon=True).start()
    assert main(["build-engine", str(tiny.path)]) == 130
    assert plain_tensorrt.CANCELLED in found.calls
    assert engines(tmp_path) == [] and "Traceback" not in capsys.readouterr().err
    fake_tensorrt()
    assert main(["build-engine", str(tiny.path)]) == 0, "the lock is free again"


def test_build_engine_ctrl_c_as_thread_starts_builds_nothing(tiny, fake_tensorrt, tmp_path, monkeypatch):
    found, start = fake_tensorrt(fault="slow"), threading.Thread.start
    started = []

    def interrupted_start(thread):
        start(thread)
        if thread.name.startswith("build_engine"):
            started.append(thread)
            raise KeyboardInterrupt  # before the executor knows the thread, which it therefore does not join

    monkeypatch.setattr(threading.Thread, "start", interrupted_start)
    assert main(["build-engine", str(tiny.path)]) == 130
    assert len(started) == 1
    started[0].join(timeout=10)
    assert not plain_tensorrt.is_building(found) and engines(tmp_path) == []


def test_build_ends_with_exception_of_progress(tiny, fake_tensorrt, tmp_path):
    fake_tensorrt(fault="slow")
    steps_seen = []

    def progress(phase, step, steps):
        steps_seen.append(step)
        if step == 3:
            raise DeviceError("enough")

    with pytest.raises(DeviceError, match="^enough$"):
        load(tiny, progress=progress)
    assert steps_seen == [0, 1, 2, 3] and engines(tmp_path) == []


def test_build_tensorrt_11_takes_types_of_file(tiny, fake_tensorrt, tmp_path):
    fake_tensorrt(version="11.1.0")
    with pytest.raises(PackageError, match=r"has no network in float16: write one with `actrec export .* --float16"):
        load(tiny)
    description = dataclasses.replace(tiny, float16=LowerPrecision(0.01))
    half = package.write(tmp_path / "half", description, tiny.read_onnx(), lower={"float16": tiny.read_onnx()})
    load(half)
    load(tiny, precision="fp32", keep="place")
    with pytest.raises(PackageError, match=r"TensorRT 11\.1\.0 .* keeps no layer groups .*: build half without"):
        load(half, keep="place")
    fake_tensorrt(version="11.1.0", fault="differs")
    with pytest.raises(PackageError, match="at most 5% may: build it with --precision fp32$"):
        load(half, most=2)


@pytest.mark.parametrize("version", ["8.6.2", "9.3.0", "10.3.0", "11.0.0"])
def test_run_any_number_of_windows_on_every_version(tiny, fake_tensorrt, version):
    """Each number has its own context; in 8.6, only a shared and selected profile serves the second one."""
    fake_tensorrt(version=version)
    tensorrt, onnx = load(tiny, precision="fp32").backend, inference.load(tiny, "onnxruntime").backend
    for count in (1, 2, 4, 7):
        windows = simulated_windows(tiny, count)
        np.testing.assert_array_equal(tensorrt.run(windows), onnx.run(windows))


def test_run_in_threads_returns_own_logits(tiny, fake_tensorrt, monkeypatch):
    fake_tensorrt()
    tensorrt, onnx = load(tiny).backend, inference.load(tiny, "onnxruntime").backend
    windows = simulated_windows(tiny, 8)
    rows = [{name: value[k : k + 1] for name, value in windows.items()} for k in range(8)]
    # During a run on the GPU, another thread may fill the buffers.
    monkeypatch.setattr(plain_tensorrt.Cuda, "upload", lambda *_: time.sleep(0.002))
    with ThreadPoolExecutor(8) as threads:
        for found, row in zip(threads.map(tensorrt.run, rows), rows, strict=True):
            np.testing.assert_array_equal(found, onnx.run(row))


def test_load_folder_named_tensorrt_refused(tiny, tmp_path, monkeypatch):
    (tmp_path / "there/tensorrt").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path / "there"))
    with contextlib.suppress(KeyError):
        monkeypatch.delitem(sys.modules, "tensorrt")
    try:
        with pytest.raises(MissingLibraryError, match="part of JetPack .* is a folder, not TensorRT"):
            load(tiny)
        assert inference.resolve("auto", tiny) == "onnxruntime"
    finally:
        sys.modules.pop("tensorrt", None)


def test_build_unreadable_timings_measured_again(tiny, fake_tensorrt, tmp_path, caplog):
    fake_tensorrt()
    load(tiny)
    found = fake_tensorrt(fault="timings")
    load(tiny, most=2)
    assert [call[1] for call in found.calls if call[0] == "timings"] == [b"times", b""]
    assert "are measured again" in caplog.text and len(engines(tmp_path)) == 2
