"""TensorRT: the networks of perception on an NVIDIA GPU, as engines of the same builder and cache as model packages."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from actrec.inference.onnxruntime_backend import outputs_of
from actrec.inference.tensorrt import backend
from actrec.inference.tensorrt.backend import EngineRunner, TensorRtConfig
from actrec.inference.tensorrt.builder import Progress
from actrec.inference.tensorrt.libraries import RTX
from actrec.perception import engine_variants
from actrec.perception.networks import NetworkConfig, NetworkFile
from actrec.utils.errors import PackageError

INT8 = ("person_detection", "body_landmarks_full")
"""Networks that agree in int8 about zero; of hands fewer are found (`actrec bench actor`)."""


@dataclass(frozen=True)
class NetworkSource:
    """A network as a source of engines (`actrec.inference.tensorrt.builder.EngineSource`)."""

    file: NetworkFile

    @property
    def precisions(self) -> tuple[str, ...]:
        """Those that it has."""
        return ("float32", "float16", "int8") if self.file.name in INT8 else ("float32", "float16")

    @property
    def name(self) -> str:
        """Its name."""
        return self.file.name

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of `image`."""
        return {"image": (3, self.file.edge, self.file.edge)}

    def onnx_path(self, precision: str = "float32") -> Path:
        """Return the stored file of which a precision is a variant; a PackageError if there is none."""
        return self._stored(precision).path

    def onnx_sha256(self, precision: str = "float32") -> str:
        """Return the hash of the stored file, and the version of its variant."""
        variant = "" if precision == "float32" else f"-{precision}-{engine_variants.VERSION}"
        return self._stored(precision).sha256 + variant

    def read_onnx(self, precision: str = "float32") -> bytes:
        """Return the ONNX file or its variant; a PackageError if it is missing or damaged."""
        content = self._stored(precision).read()
        if precision == "int8":
            return engine_variants.to_symmetric_int8(content)
        return engine_variants.to_float16(content) if precision == "float16" else content

    def _stored(self, precision: str) -> NetworkFile:
        found = self.file.int8 if precision == "int8" else self.file
        if precision not in self.precisions or found is None:
            raise PackageError(f"{self.name} has no network in {precision}: take precision fp16 or fp32")
        return found


def engine_settings(file: NetworkFile, config: NetworkConfig) -> TensorRtConfig:
    """Return the settings of a network's engine: fp16 instead of int8 if it has no int8."""
    precision = "fp16" if config.precision == "int8" and file.name not in INT8 else config.precision
    return TensorRtConfig(precision=precision, most=config.max_batch, usual=2)


class TensorRtNetwork(EngineRunner):
    """Runs one network; `run` may be called from several threads. Raises as `EngineRunner`."""

    def __init__(self, file: NetworkFile, config: NetworkConfig, progress: Progress | None = None, **changes: Any):
        super().__init__(NetworkSource(file), replace(engine_settings(file, config), **changes), progress)
        self._names = list(file.outputs)

    @classmethod
    def ready(cls, file: NetworkFile, config: NetworkConfig) -> bool:
        """Return whether the engine is built. Raises as the class."""
        return backend.is_built(cls.library, NetworkSource(file), engine_settings(file, config))

    def run(self, images: np.ndarray) -> dict[str, Any]:
        """Return the outputs [N, ...] by name, of images [N, 3, edge, edge] float32; a DeviceError if the GPU fails."""
        found = self.run_all({"image": images})
        return {name: found[name] for name in self._names}

    def _check(self, source: NetworkSource, content: bytes) -> dict[str, Any]:
        """Compare every output with ONNX Runtime's in float32 or int8; raise PackageError for one that differs."""
        images = example_images(source.file)
        found = self._open(content, self.config.most).run({"image": images})
        precision = "int8" if self.config.precision == "int8" else "float32"
        differences = differences_by_spread(found, outputs_of(source.read_onnx(precision), {"image": images}))
        worst = max(differences, key=lambda name: differences[name])
        difference, allowed = differences[worst], self.config.allowed_difference
        if difference > allowed:
            share = f"differs from ONNX Runtime's by {difference:.1%} of its spread"
            lower = {"int8": "precision fp16", "fp16": "precision fp32"}
            remedy = lower.get(self.config.precision, "backend onnxruntime, and report it")
            raise PackageError(
                f"{source.name}: the engine's output '{worst}' {'is no number' if np.isinf(difference) else share}, "
                f"at most {100 * allowed:.3g}% may: take {remedy}"
            )
        return {"difference": difference, "bytes": len(content)}


class TensorRtRtxNetwork(TensorRtNetwork):
    """Runs one network through TensorRT for RTX. Raises as `EngineRunner`."""

    library = RTX


def example_images(file: NetworkFile) -> np.ndarray:
    """Return smooth noise [2, 3, edge, edge] float32 in the range of a network's input."""
    rng = np.random.default_rng(0)
    steps = np.linspace(0.0, 7.0, file.edge)
    waves = np.cos(np.pi * np.arange(8) * (steps[:, None] + 0.5) / 8)  # (edge, 8), of a cosine transform
    images = np.einsum("xi,yj,ncij->ncxy", waves, waves, rng.normal(size=(2, 3, 8, 8)))
    low, high = images.min(), images.max()
    return (file.low + (file.high - file.low) * (images - low) / (high - low)).astype(np.float32)


def differences_by_spread(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> dict[str, float]:
    """Return `difference_by_spread` of each output; of one number, such as a probability, the absolute difference."""
    differences = {}
    for name, value in expected.items():
        scalar = value.ndim == 1 and np.isfinite(found[name]).all()
        largest = float(np.abs(found[name] - value).max())
        differences[name] = largest if scalar else backend.difference_by_spread(found[name], value)
    return differences
