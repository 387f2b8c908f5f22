"""Cache of TensorRT engines: found by all that they depend on, locked while one is built, written atomically."""

import contextlib
import glob
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
from actrec.utils.folders import expanded, open_at_once, others_can_change, problem, read_file, user_folder, write_file

logger = logging.getLogger(__name__)

VARIABLE = "ACTREC_ENGINES"
_KERNELS = b"actrec compiled kernels 1\n"
"""First bytes of a file of compiled kernels; the SHA-256 of the rest follows."""
_REMEDY = f"name another folder in {VARIABLE}"
_MAX_BYTES = 1 << 33  # of an engine, whose network has at most 2 GiB


@dataclass(frozen=True)
class EngineKey:
    """Everything that an engine depends on, besides the package's name, which is for people.

    Attributes:
        onnx_sha256: Hash of the network's file.
        shapes: Input name to its smallest, usual and largest shape.
        options: Further options of the builder.
        library, version: Which TensorRT (a name of `actrec.inference.tensorrt.libraries`), and its version.
        capability: Compute capability, as "sm_87".
        cuda, gpu: Version; name, capability and memory, as TensorRT tunes an engine to one kind of GPU. Both are empty
            for TensorRT for RTX.
    """

    package: str
    onnx_sha256: str
    precision: str
    shapes: dict[str, tuple[tuple[int, ...], ...]]
    options: dict[str, Any]
    library: str
    version: str
    capability: str
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
        return f"{self.package}_{self.library}_{self.precision}_{self.capability}_{digest[:16]}"

    @property
    def machine(self) -> str:
        """Hash of TensorRT, CUDA and GPU."""
        return hashlib.sha256(f"{self.version} {self.cuda} {self.gpu}".encode()).hexdigest()[:16]

    def difference(self, other: dict[str, Any]) -> str:
        """Return why an engine of another key does not serve this one, for people."""
        if other.get("library") != self.library:
            return f"of backend {other.get('library')}"
        if other.get("version") != self.version:
            return f"of version {other.get('version')}, not {self.version}"
        if other.get("capability") != self.capability:
            return f"for {other.get('capability')}, not {self.capability}"
        if other.get("gpu") != self.gpu:
            return f"for {other.get('gpu')}"
        if other.get("cuda") != self.cuda:
            return f"of CUDA {other.get('cuda')}, not {self.cuda}"
        return "of another network or setting"


def default_folder() -> Path:
    """Return `ACTREC_ENGINES`, or `~/.cache/actrec/engines`; a DeviceError if there is no such home."""
    return user_folder(VARIABLE, "XDG_CACHE_HOME", "~/.cache", "actrec/engines")


class EngineCache:
    """Engines in a folder (`default_folder` if empty), each `NAME.engine` with `NAME.json`, which is written last."""

    def __init__(self, folder: str | Path = ""):
        self.folder = expanded(folder) if folder else default_folder()

    def check_trusted(self) -> None:
        """Raise DeviceError if a user other than root and this one can replace an engine in the folder."""
        if (found := others_can_change(self.folder)) is not None:
            raise DeviceError(
                f"engines in '{self.folder}' are not trusted: '{found}' is another user's, or others can write to it; "
                f"set its owner and chmod go-w, or {_REMEDY}"
            )

    def path(self, key: EngineKey) -> Path:
        """Return the file of an engine."""
        return self._files(key)[0]

    def find(self, key: EngineKey) -> bytes | None:
        """Return the engine of that key; None if there is none, or only a damaged one (which is logged)."""
        engine, note = self._files(key)
        try:
            details, content = _read_note(note), read_file(engine, _MAX_BYTES)
            intact = details["key"] == key.plain() and details["sha256"] == hashlib.sha256(content).hexdigest()
        except FileNotFoundError:
            return None
        except PermissionError as error:
            logger.warning("%s is another user's and cannot be read: it is built again; or %s", error.filename, _REMEDY)
            return None
        except (OSError, ValueError, TypeError, KeyError):
            intact = False
        if not intact:
            logger.warning("%s is damaged or another engine; it is built again", engine)
            return None
        return content

    def keys(self, package: str) -> dict[str, dict[str, Any]]:
        """Return the keys of a package's engines, by the name of their file; damaged notes are skipped."""
        found = {}
        for note in sorted(self.folder.glob(f"{glob.escape(package)}_*.json")):
            try:
                key = dict(_read_note(note)["key"])
            except (OSError, ValueError, TypeError, KeyError):
                continue
            if key.get("package") == package:
                found[note.with_suffix(".engine").name] = key
        return found

    def holds(self, package: str, library: str) -> bool:
        """Return whether there is an engine of a package and library, for any machine."""
        return any(key.get("library") == library for key in self.keys(package).values())

    def misfits(self, key: EngineKey) -> str:
        """Return the engines of the key's package that do not serve it, with the reasons; empty if there are none."""
        others = {name: other for name, other in self.keys(key.package).items() if other != key.plain()}
        return ", ".join(f"{name} ({key.difference(other)})" for name, other in others.items())

    def difference(self, key: EngineKey) -> float | None:
        """Return how far a stored engine differs from ONNX Runtime; None if unknown, as of one built ahead of time."""
        try:
            found = _read_note(self._files(key)[1]).get("difference")
            return float(found) if isinstance(found, (int, float)) else None
        except (OSError, ValueError, AttributeError, OverflowError):
            return None

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
            self.folder.mkdir(0o755, parents=True, exist_ok=True)
            try:
                file: Any = open(path, "ab", opener=open_at_once)  # noqa: SIM115
            except PermissionError:  # another user's, which locks for reading, too
                file = open(path, "rb", opener=open_at_once)  # noqa: SIM115
        except OSError as error:
            raise self._unwritable(error) from error
        with file:
            try:
                _lock(file, path, waiting_s)
            except OSError as error:  # a network's file system may have no locks
                raise self._unwritable(error) from error
            found = self.find(key)
            if found is None and (cause := problem(self.folder)):
                raise self._unwritable(cause)
            yield found

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

    def kernels(self, key: EngineKey, gpu: str) -> bytes:
        """Return the kernels compiled for an engine and GPU; empty if the file is missing, or damaged (logged)."""
        path = self._kernels(key, gpu)
        try:
            content = read_file(path, _MAX_BYTES)
        except FileNotFoundError:
            return b""
        except OSError as error:
            logger.warning("%s cannot be read (%s); the kernels are compiled again", path, error.strerror)
            return b""
        start = len(_KERNELS) + hashlib.sha256().digest_size
        head, kernels = content[:start], content[start:]
        if head != _KERNELS + hashlib.sha256(kernels).digest() or not kernels:
            logger.warning("%s is half-written or another file; the kernels are compiled again", path)
            return b""
        return kernels

    def store_kernels(self, key: EngineKey, gpu: str, kernels: bytes) -> None:
        """Write the compiled kernels of an engine on a GPU; a DeviceError as for `store`."""
        self._write(self._kernels(key, gpu), _KERNELS + hashlib.sha256(kernels).digest() + kernels)

    def timings(self, key: EngineKey) -> bytes:
        """Return the timing cache of earlier builds on this machine; empty if there is none."""
        try:
            return read_file(self._timings(key), _MAX_BYTES)
        except OSError:
            return b""

    def store_timings(self, key: EngineKey, content: bytes) -> None:
        """Store the times that a build measured; a DeviceError as for `store`."""
        self._write(self._timings(key), content)

    def _timings(self, key: EngineKey) -> Path:
        return self.folder / f"{key.machine}_timings.cache"

    def _kernels(self, key: EngineKey, gpu: str) -> Path:
        return self.folder / f"{key.name}_{hashlib.sha256(gpu.encode()).hexdigest()[:8]}.kernels"

    def _files(self, key: EngineKey) -> tuple[Path, Path]:
        return self.folder / f"{key.name}.engine", self.folder / f"{key.name}.json"

    def _write(self, path: Path, content: bytes) -> None:
        write_file(path, content, _REMEDY, mode=0o644)  # built perhaps as root: the node's user must read it

    def _unwritable(self, cause: OSError | str) -> DeviceError:
        reason = getattr(cause, "strerror", None) or cause
        return DeviceError(f"engines cannot be kept in '{self.folder}': {reason}; {_REMEDY}")


def _read_note(path: Path) -> Any:
    try:
        return json.loads(read_file(path))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


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
