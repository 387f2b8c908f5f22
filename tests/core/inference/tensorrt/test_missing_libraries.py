"""An installed TensorRT that does not load: `auto` skips it, an explicit request fails."""

import pytest

from actrec import inference
from actrec.utils.errors import MissingLibraryError
from tests.tiny_model import write_tiny


def test_auto_tensorrt_without_libraries_is_ignored(monkeypatch, tmp_path):
    """After pip on a machine without CUDA, the module exists but its import fails."""
    tiny = write_tiny(tmp_path / "tiny")
    (tmp_path / "tensorrt.py").write_text("raise FileNotFoundError('Could not find: libnvinfer.so.10')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert inference.load(tiny).backend.device == "CPU, 1 thread"
    with pytest.raises(MissingLibraryError, match=r"backend onnxruntime \(Could not find: libnvinfer\.so\.10\)"):
        inference.load(tiny, "tensorrt")
