"""ONNX Runtime: the networks of perception on the CPU."""

from typing import Any

import numpy as np
import onnxruntime

from actrec.perception.networks import NetworkConfig, NetworkFile
from actrec.utils.errors import PackageError, first_line


class OnnxRuntimeNetwork:
    """Runs one network; `run` may be called from several threads. Raises PackageError if the file is refused."""

    def __init__(self, file: NetworkFile, config: NetworkConfig):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = config.threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4  # errors are raised, in one line
        try:
            self._session = onnxruntime.InferenceSession(file.read(), options, providers=["CPUExecutionProvider"])
        except PackageError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise PackageError(f"{file.path} cannot be opened: {first_line(error)}") from error
        self._names = list(file.outputs)

    def run(self, images: np.ndarray) -> dict[str, Any]:
        """Return the outputs [N, ...] by name, of images [N, 3, edge, edge] float32."""
        return dict(zip(self._names, self._session.run(self._names, {"image": images}), strict=True))
