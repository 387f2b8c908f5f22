"""ONNX Runtime: the networks of perception on the CPU or CUDA."""

from typing import Any

import numpy as np

from actrec.inference.onnxruntime_backend import CUDA, device_of, open_session, takes_cuda
from actrec.perception.networks import REMEDY, NetworkConfig, NetworkFile


class OnnxRuntimeNetwork:
    """Runs one network; `run` may be called from several threads. Raises as `open_session`."""

    def __init__(self, file: NetworkFile, config: NetworkConfig):
        int8 = file.int8 if config.cpu_precision == "int8" else None
        chosen = int8 if int8 is not None and not takes_cuda(config.device) else file
        session = open_session(chosen.read(), str(chosen.path), config.threads, config.device, REMEDY)
        if int8 is not None and chosen is file and device_of(session, 1) != CUDA:  # which did not start
            chosen, session = int8, open_session(int8.read(), str(int8.path), config.threads, "cpu", REMEDY)
        self._session = session
        self.device = device_of(self._session, config.threads) + (", int8" if chosen is int8 else "")
        self._names = list(file.outputs)

    def run(self, images: np.ndarray) -> dict[str, Any]:
        """Return the outputs [N, ...] by name, of images [N, 3, edge, edge] float32."""
        return dict(zip(self._names, self._session.run(self._names, {"image": images}), strict=True))
