"""The TensorRT libraries: TensorRT of JetPack and data centers, and TensorRT for RTX of workstations.

An engine of one library does not run on the other. TensorRT for RTX builds engines for a compute capability, without
a GPU of that kind, and compiles their kernels when they first run (its runtime cache).
"""

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from actrec.inference.tensorrt.cuda import Gpu
from actrec.utils.errors import ConfigError, DeviceError, MissingLibraryError


@dataclass(frozen=True)
class Library:
    """One of the libraries.

    Attributes:
        backend: Its name among the inference backends.
        title: Its name in messages.
        module: Its Python module.
        install: How to install it.
        of_capability: Engines depend on the compute capability alone, not on the kind of GPU and CUDA's version.
    """

    backend: str
    title: str
    module: str
    install: str
    of_capability: bool

    @property
    def is_installed(self) -> bool:
        """Whether its module is there, which may still fail to load."""
        return self.module in sys.modules or importlib.util.find_spec(self.module) is not None

    def open(self) -> Any:
        """Return its module.

        Raises:
            MissingLibraryError: It is not installed, or does not load.
            DeviceError: It is too old.
        """
        remedy = f"{self.install}; or take backend onnxruntime"
        try:
            trt = _MODULES[self.backend]()
        except (ImportError, OSError) as error:  # the module may be there without its libraries
            raise MissingLibraryError(f"{remedy} ({error})") from error
        if not hasattr(trt, "__version__"):  # Python takes any folder of that name for a module
            raise MissingLibraryError(f"{remedy} ({trt} is a folder, not {self.title})")
        version = tuple(int(part) for part in trt.__version__.split(".")[:2])
        if self is TENSORRT and version < (8, 6):
            raise DeviceError(f"TensorRT {trt.__version__} is too old, 8.6 is the first that will do: update JetPack")
        return trt

    def check_gpu(self, trt: Any, gpu: Gpu) -> None:
        """Raise DeviceError if engines do not run on a GPU; TensorRT checks that itself when it builds."""
        known = capabilities(trt) if self.of_capability else ()
        if known and gpu.sm not in known:
            raise DeviceError(
                f"{self.title} {trt.__version__} has no engines for {gpu.name} ({gpu.sm}), only for "
                f"{', '.join(known)}: take backend tensorrt or onnxruntime"
            )


TENSORRT = Library(
    "tensorrt", "TensorRT", "tensorrt",
    "TensorRT is part of JetPack on a Jetson (python3-libnvinfer); elsewhere: pip install tensorrt, "
    "or with an RTX card take backend tensorrt_rtx", False,
)  # fmt: skip
RTX = Library(
    "tensorrt_rtx", "TensorRT for RTX", "tensorrt_rtx_bindings",
    "TensorRT for RTX is not installed: pip install 'actrec[rtx]'", True,
)  # fmt: skip
LIBRARIES = {library.backend: library for library in (TENSORRT, RTX)}
"""The libraries by backend; `auto` takes the first that has an engine."""

_MODULES: dict[str, Callable[[], Any]] = {
    TENSORRT.backend: lambda: importlib.import_module("tensorrt"),
    RTX.backend: lambda: importlib.import_module("tensorrt_rtx_bindings"),
}


def capabilities(trt: Any) -> tuple[str, ...]:
    """Return the compute capabilities that TensorRT for RTX builds for, as "sm_86"."""
    names = (re.fullmatch(r"SM(\d+)", name) for name in trt.ComputeCapability.__members__)
    return tuple(f"sm_{match[1]}" for match in names if match)


def checked_capabilities(trt: Any, names: str) -> tuple[str, ...]:
    """Return the compute capabilities of a list with commas; raise ConfigError for one that is not known."""
    found = tuple(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    known = capabilities(trt)
    if unknown := [name for name in found if name not in known] or ([] if found else [names]):
        raise ConfigError(
            f"TensorRT for RTX {trt.__version__} builds no engines for '{unknown[0]}', only for {', '.join(known)}"
        )
    return found
