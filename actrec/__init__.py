"""actrec: from an RGB-D camera to action labels. The core, independent of ROS."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actrec.inference.session import Session

__version__ = "0.2.0"

# Else ONNX Runtime 1.29 and later send usage data to Microsoft. It reads this when it is imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"


def load_model(name_or_folder: str | Path, backend: str = "auto") -> "Session":
    """Open a model package by the name of an installed one or by its folder; see `actrec.inference.load`.

    Args:
        name_or_folder: For example "deepacts_graph_nucla".
        backend: "onnxruntime", "tensorrt", "tensorrt_rtx" or "auto".
    """
    from actrec import inference

    return inference.load(name_or_folder, backend)
