"""ONNX Runtime sends no usage data."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = "import actrec; actrec.load_model('joint_tcn_everyday', backend='onnxruntime')"


def test_load_model_leaves_no_telemetry_of_onnx_runtime(tmp_path: Path) -> None:
    """ONNX Runtime 1.29 and later write an identifier of the device before they send; not with CI set, as in tests."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}
    environment.pop("CI", None)
    subprocess.run([sys.executable, "-c", SCRIPT], env={**environment, "HOME": str(tmp_path)}, check=True)
    assert list(tmp_path.rglob("*onnxruntime*")) == []
