"""CUDA graphs of what is launched on a stream, through the driver itself: the same for every library of memory."""

import ctypes
from collections.abc import Callable
from typing import Any

from actrec.errors import DeviceError

_RELAXED = 2


class CudaGraph:
    """What `work` launches on a stream, recorded once, launched again as one.

    Args:
        stream: Its handle.
        work: Launches on that stream alone, and has done so before: what is set up at the first time is not recorded.

    Raises:
        DeviceError: The driver does not record it.
    """

    def __init__(self, stream: int, work: Callable[[], None]):
        self._stream, self._driver = ctypes.c_void_p(stream), _driver()
        graph, self._graph = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", self._stream, ctypes.c_int(_RELAXED))
        try:
            work()
        finally:
            # Ends the recording whatever happened, or the stream is of no more use.
            ended = self._driver.cuStreamEndCapture(self._stream, ctypes.byref(graph))
        if ended != 0:
            raise DeviceError(f"cuStreamEndCapture failed: {self._why(ended)}")
        try:
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(self._graph), graph, ctypes.c_ulonglong(0))
        finally:
            self._driver.cuGraphDestroy(graph)

    def launch(self) -> None:
        """Starts it on its stream.

        Raises:
            DeviceError: The driver refuses.
        """
        self._call("cuGraphLaunch", self._graph, self._stream)

    def __del__(self) -> None:
        # Where there is no driver, or nothing was recorded, there is nothing to free.
        if getattr(self, "_graph", None):
            self._driver.cuGraphExecDestroy(self._graph)

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._driver, name)(*arguments)
        if status != 0:
            raise DeviceError(f"{name} failed: {self._why(status)}")

    def _why(self, status: int) -> str:
        text = ctypes.c_char_p()
        if self._driver.cuGetErrorString(ctypes.c_int(status), ctypes.byref(text)) == 0 and text.value:
            return text.value.decode()
        return f"CUDA error {status}"


def _driver() -> Any:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise DeviceError("there is no CUDA driver: libcuda.so.1 is missing") from error
