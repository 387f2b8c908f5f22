"""Cache of TensorRT engines: found by all that they depend on, locked while one is built, written atomically."""

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from actrec.utils import file_lock
from actrec.utils.errors import DeviceError
from actrec.utils.folders import expanded, user_folder, write_file

logger = logging.getLogger(__name__)

VARIABLE = "ACTREC_ENGINES"
_REMEDY = f"name another folder in {VARIABLE}"


@dataclass(frozen=True)
class EngineKey:
    """Everything that an engine depends on, besides the package's name, which is for people.

    Attributes:
        onnx_sha256: Hash of the network's file.
        shapes: Input name to its smallest, usual and largest shape.
        options: Further options of the builder.
        tensorrt, cuda: Versions.
        gpu: Name, compute capability and memory, as an engine is tuned to one kind of GPU.
    """

    package: str
    onnx_sha256: str
    precision: str
    shapes: dict[str, tuple[tuple[int, ...], ...]]
    options: dict[str, Any]
    tensorrt: str
    cuda: str
    gpu: str

    def plain(self) -> dict[str, Any]:
        """Return the fields as read back from JSON."""
        return dict(json.loads(json.dumps(asdict(self))))

    @property
    def name(self) -> str:
        """The stem of the engine's files."""
        content = {name: value for name, value in self.plain().items() if name != "package"}
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return f"{self.package}_{self.precision}_{digest[:16]}"

    @property
    def machine(self) -> str:
        """Hash of TensorRT, CUDA and GPU."""
        return hashlib.sha256(f"{self.tensorrt} {self.cuda} {self.gpu}".encode()).hexdigest()[:16]


def default_folder() -> Path:
    """Return `ACTREC_ENGINES`, or `~/.cache/actrec/engines`; a DeviceError if there is no such home."""
    return user_folder(VARIABLE, "XDG_CACHE_HOME", "~/.cache", "actrec/engines")


class EngineCache:
    """Engines in a folder (`default_folder` if empty), each `NAME.engine` with `NAME.json`, which is written last."""

    def __init__(self, folder: str | Path = ""):
        self.folder = expanded(folder) if folder else default_folder()

    def find(self, key: EngineKey) -> bytes | None:
        """Return the engine of that key; None if there is none, or only a damaged one (which is logged)."""
        engine, note = self._files(key)
        try:
            details, content = json.loads(note.read_text()), engine.read_bytes()
            intact = details["key"] == key.plain() and details["sha256"] == hashlib.sha256(content).hexdigest()
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError):
            intact = False
        if not intact:
            logger.warning("%s is damaged or another engine; it is built again", engine)
            return None
        return content

    @contextlib.contextmanager
    def building(self, key: EngineKey, waiting_s: float = 10.0) -> Iterator[bytes | None]:
        """Hold the lock of an engine; yield it if another process built it meanwhile, else None: the caller builds it.

        Args:
            waiting_s: Interval of log lines while another process builds it.

        Raises:
            DeviceError: The folder cannot be written to.
        """
        path = self._files(key)[0].with_suffix(".lock")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = path.open("w")
        except OSError as error:
            raise self._unwritable(error) from error
        with file:
            try:
                _lock(file, path, waiting_s)
            except OSError as error:  # a network's file system may have no locks
                raise self._unwritable(error) from error
            yield self.find(key)

    def store(self, key: EngineKey, content: bytes, details: dict[str, Any]) -> Path:
        """Write an engine, and after it the note with its key and `details`; a kill leaves the old ones or none.

        Raises:
            DeviceError: The folder cannot be written to, or the disk is full.
        """
        engine, note = self._files(key)
        description = {"key": key.plain(), "sha256": hashlib.sha256(content).hexdigest(), **details}
        self._write(engine, content)
        self._write(note, json.dumps(description, indent=2).encode())
        return engine

    def timings(self, key: EngineKey) -> bytes:
        """Return the timing cache of earlier builds on this machine; empty if there is none."""
        try:
            return self._timings(key).read_bytes()
        except OSError:
            return b""

    def store_timings(self, key: EngineKey, content: bytes) -> None:
        """Store the times that a build measured; a DeviceError as for `store`."""
        self._write(self._timings(key), content)

    def _timings(self, key: EngineKey) -> Path:
        return self.folder / f"{key.machine}_timings.cache"

    def _files(self, key: EngineKey) -> tuple[Path, Path]:
        return self.folder / f"{key.name}.engine", self.folder / f"{key.name}.json"

    def _write(self, path: Path, content: bytes) -> None:
        write_file(path, content, _REMEDY, mode=0o644)  # built perhaps as root: the node's user must read it

    def _unwritable(self, error: OSError) -> DeviceError:
        return DeviceError(f"engines cannot be kept in '{self.folder}': {error.strerror or error}; {_REMEDY}")


def _lock(file: Any, path: Path, waiting_s: float) -> None:
    """Wait for the lock; it goes with the process that holds it, however that ends."""
    began, logged = time.monotonic(), float("-inf")
    while True:
        try:
            file_lock.lock(file.fileno(), wait=False)
            return
        except BlockingIOError:
            waited = time.monotonic() - began
            if waited - logged >= waiting_s:
                logger.info("another process builds this engine, waiting for it (%.0f s): %s", waited, path)
                logged = waited
            time.sleep(0.1)
