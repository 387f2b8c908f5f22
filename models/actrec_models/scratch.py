"""Temporary folders for what ONNX Runtime reads and writes as files."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from actrec.errors import DeviceError


@contextlib.contextmanager
def scratch(needed: int) -> Iterator[Path]:
    """A temporary folder on a disk that has so much space.

    ONNX Runtime says "Protobuf serialization failed" of a full disk; on a robot, /tmp often lies in a small memory.

    Args:
        needed: Bytes.

    Raises:
        DeviceError: There is none, or not so much.
    """
    try:
        held = tempfile.TemporaryDirectory()
    except OSError as error:
        raise DeviceError(f"cannot make a temporary folder: {error.strerror}; name another one in TMPDIR") from error
    with held as name:
        free = shutil.disk_usage(name).free
        if free < needed:
            raise DeviceError(
                f"{tempfile.gettempdir()} has {free / 1e6:.1f} MB left, {needed / 1e6:.1f} MB are needed: free some, "
                "or name another folder in TMPDIR"
            )
        yield Path(name)
