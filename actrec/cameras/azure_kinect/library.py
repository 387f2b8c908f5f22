"""Loading of Microsoft's Azure Kinect libraries for the bindings of `pykinect-azure`.

The driver uses only the bindings. The classes of `pykinect-azure` end the process at every failure, including a
timeout, keep the device in class attributes that two cameras would share, and leak images and body frames.
"""

import ctypes
import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from actrec.utils.errors import DeviceError, MissingLibraryError

_VARIABLES = {"k4a": "k4a_dll", "k4arecord": "record_dll", "k4abt": "k4abt_dll"}

_NAMES = {
    # Only the -dev package has the plain name.
    "k4a": ("libk4a.so", "libk4a.so.1.4"),
    "k4arecord": ("libk4arecord.so", "libk4arecord.so.1.4"),
    "k4abt": ("libk4abt.so", "libk4abt.so.1.1"),
}

_SENSOR_REMEDY = (
    "install Microsoft's libk4a1.4 from https://packages.microsoft.com/ubuntu/18.04/prod/pool/main/libk (on ARM "
    "…/18.04/multiarch/prod/…), or for an Orbbec Femto https://github.com/orbbec/OrbbecSDK-K4A-Wrapper, and set the "
    "option {option} if the file is elsewhere"
)

_REMEDIES = {
    "k4a": _SENSOR_REMEDY.format(option="library"),
    "k4arecord": _SENSOR_REMEDY.format(option="record_library"),
    "k4abt": (
        "install Microsoft's Body Tracking SDK, libk4abt1.1 from "
        "https://packages.microsoft.com/ubuntu/18.04/prod/pool/main/libk (not for ARM), and set the option "
        "body_library if the file is elsewhere; or set bodies=false"
    ),
}

_ERROR_LEVEL = 1  # K4A_LOG_LEVEL_ERROR: errors and critical errors

_MESSAGE_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p)

_loading = threading.Lock()


def load(part: str, path: str = "") -> Any:
    """Load a library and return its bindings, a module of `pykinect_azure`.

    Args:
        part: "k4a", "k4arecord" or "k4abt"; the latter two need k4a loaded before.
        path: File of the library; empty to search the system's folders.

    Raises:
        MissingLibraryError: The library or pykinect-azure is not installed.
        DeviceError: This process has already loaded another file of this library.
    """
    try:
        bindings: Any = importlib.import_module(f"pykinect_azure.{part}._{part}")
    except ImportError as error:
        raise MissingLibraryError(
            f"camera driver 'azure_kinect' needs the library pykinect-azure ({error}): "
            "pip install --no-deps pykinect-azure (its opencv-python conflicts with opencv-contrib-python)"
        ) from error
    variable = _VARIABLES[part]
    with _loading:
        library = _open(part, path)
        loaded = getattr(bindings, variable)
        if loaded is None:
            # Its own setup_library ends the process if a file is missing, and requires one release of ONNX Runtime for
            # k4abt, which libk4abt finds itself.
            setattr(bindings, variable, library)
        elif loaded._handle != library._handle:
            raise DeviceError(
                f"this process has loaded '{loaded._name}' and cannot load '{library._name}' too: use another "
                "process for a camera with another library"
            )
    return bindings


def sibling_path(library: str, part: str) -> str:
    """Return the path of another library in the same folder; "" if `library` is not a path."""
    return str(Path(library).parent / _NAMES[part][0]) if "/" in library else ""


@contextmanager
def collect_errors(k4a: Any) -> Iterator[list[str]]:
    """Collect the errors that the SDK logs; its return codes only mean failure."""
    errors: list[str] = []

    def log(context: int, level: int, file: bytes, line: int, message: bytes) -> None:
        errors.append(message.decode(errors="replace").strip())

    handler = _MESSAGE_HANDLER(log)
    # pykinect-azure does not bind it, and not every replacement of libk4a exports it.
    register = getattr(k4a.k4a_dll, "k4a_set_debug_message_handler", None)
    if register is None:
        yield errors
        return
    registered = register(handler, None, _ERROR_LEVEL) == k4a.K4A_RESULT_SUCCEEDED
    try:
        yield errors
    finally:
        if registered:
            register(_MESSAGE_HANDLER(0), None, _ERROR_LEVEL)


def _open(part: str, path: str) -> Any:
    reasons = []
    for name in (str(Path(path).expanduser()),) if path else _NAMES[part]:
        try:
            return ctypes.CDLL(name)
        except OSError as error:
            reasons.append(str(error))
    raise MissingLibraryError(
        f"camera driver 'azure_kinect' cannot load lib{part} ({'; '.join(reasons)}): {_REMEDIES[part]}"
    )
