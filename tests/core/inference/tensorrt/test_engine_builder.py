"""Builds: interrupted, by each TensorRT, by a foreign library, with unreadable times; threads."""

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
def put(monkeypatch, tmp_path):
    """Plays a TensorRT of some version, or with a fault."""
    monkeypatch.setenv("ACTREC_ENGINES", str(tmp_path / "engines"))
    monkeypatch.setattr(cuda, "open_cuda", lambda library="auto": plain_tensorrt.Cuda())

    def put(**options):
        found = plain_tensorrt.module(**options)
        monkeypatch.setitem(sys.modules, "tensorrt", found)
        return found

    return put


def load(tiny, **options):
    return inference.load(tiny, "tensorrt", graph=False, **options)


def engines(tmp_path):
    return sorted(path.name for path in (tmp_path / "engines").glob("*.engine"))


@pytest.fixture
def interruptible():
    """Ctrl-C as Python has it: in a shell's background job, as CI's may be, it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_build_engine_ctrl_c_ends_build(tiny, put, tmp_path, capsys):
    put(fault="slow")  # 3 s
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    began = time.monotonic()
    assert main(["build-engine", str(tiny.path)]) == 130
    assert time.monotonic() - began < 2.0
    assert engines(tmp_path) == [] and "Traceback" not in capsys.readouterr().err
    put()
    assert main(["build-engine", str(tiny.path)]) == 0, "the lock is free again"


def test_build_ends_with_exception_of_progress(tiny, put, tmp_path):
    put(fault="slow")
    told = []

    def progress(phase, step, steps):
        told.append(step)
        if step == 3:
            raise DeviceError("enough")

    with pytest.raises(DeviceError, match="^enough$"):
        load(tiny, progress=progress)
    assert told == [0, 1, 2, 3] and engines(tmp_path) == []


def test_build_tensorrt_11_takes_types_of_file(tiny, put, tmp_path):
    put(version="11.1.0")
    with pytest.raises(PackageError, match=r"has no network in float16: write one with `actrec export .* --float16"):
        load(tiny)
    told = dataclasses.replace(tiny, float16=LowerPrecision(0.01))
    half = package.write(tmp_path / "half", told, tiny.read_onnx(), lower={"float16": tiny.read_onnx()})
    load(half)
    load(tiny, precision="fp32", keep="place")
    with pytest.raises(PackageError, match=r"TensorRT 11\.1\.0 .* keeps no layer groups .*: build half without"):
        load(half, keep="place")
    put(version="11.1.0", fault="differs")
    with pytest.raises(PackageError, match="at most 5% may: build it with --precision fp32$"):
        load(half, most=2)


@pytest.mark.parametrize("version", ["8.6.2", "9.3.0", "10.3.0", "11.0.0"])
def test_run_any_number_of_windows_on_every_version(tiny, put, version):
    """Each has a context of its own; of 8.6 the second one has no profile unless the engine shares it and it is set."""
    put(version=version)
    ours, theirs = load(tiny, precision="fp32").backend, inference.load(tiny, "onnxruntime").backend
    for count in (1, 2, 4, 7):
        made = simulated_windows(tiny, count)
        np.testing.assert_array_equal(ours.run(made), theirs.run(made))


def test_run_in_threads_returns_own_logits(tiny, put, monkeypatch):
    put()
    ours, theirs = load(tiny).backend, inference.load(tiny, "onnxruntime").backend
    made = simulated_windows(tiny, 8)
    rows = [{name: value[k : k + 1] for name, value in made.items()} for k in range(8)]
    # A GPU takes its time, in which another thread may fill the buffers.
    monkeypatch.setattr(plain_tensorrt.Cuda, "upload", lambda *_: time.sleep(0.002))
    with ThreadPoolExecutor(8) as threads:
        for found, row in zip(threads.map(ours.run, rows), rows, strict=True):
            np.testing.assert_array_equal(found, theirs.run(row))


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


def test_build_unreadable_timings_measured_again(tiny, put, tmp_path, caplog):
    put()
    load(tiny)
    found = put(fault="timings")
    load(tiny, most=2)
    assert [call[1] for call in found.calls if call[0] == "timings"] == [b"times", b""]
    assert "are measured again" in caplog.text and len(engines(tmp_path)) == 2
