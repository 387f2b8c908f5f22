"""ONNX Runtime: the networks of perception on the CPU or CUDA."""

from typing import Any

import numpy as np
from llvmlite.binding import get_host_cpu_features

from actrec.inference.onnxruntime_backend import device_of, open_session
from actrec.perception.networks import REMEDY, NetworkConfig, NetworkFile


def _has_vnni() -> bool:
    """Return whether the CPU multiplies int8 fast; on one without VNNI, int8 also loses accuracy to saturation."""
    found = get_host_cpu_features()
    return bool(found.get("avx512vnni") or found.get("avxvnni"))


class OnnxRuntimeNetwork:
    """Runs one network; `run` may be called from several threads. Raises as `open_session`."""

    def __init__(self, file: NetworkFile, config: NetworkConfig):
        wanted = config.cpu_precision
        int8 = file.int8 if wanted == "int8" or (wanted == "auto" and _has_vnni()) else None
        chosen = int8 if int8 is not None and config.device == "cpu" else file
        self._session = open_session(chosen.read(), str(chosen.path), config.threads, config.device, REMEDY)
        self.device = device_of(self._session, config.threads) + (", int8" if chosen is int8 else "")
        self._names = list(file.outputs)

    def run(self, images: np.ndarray) -> dict[str, Any]:
        """Return the outputs [N, ...] by name, of images [N, 3, edge, edge] float32."""
        return dict(zip(self._names, self._session.run(self._names, {"image": images}), strict=True))
