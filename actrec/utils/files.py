"""Atomic writing of files and folders, and image files.

`cv2.imread` and `cv2.imwrite` end the process at file names that are not UTF-8; the functions here do not.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actrec.utils.errors import DeviceError, InputError, PackageError
from actrec.utils.folders import expanded


def write_file(path: Path, content: bytes, remedy: str = "choose another place") -> None:
    """Write a file and its folder, atomically: a reader sees the old or the new content; raise DeviceError."""
    staging = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        staging.write_bytes(content)
        os.replace(staging, path)
    except OSError as error:
        raise DeviceError(f"cannot write '{path}': {error.strerror}; {remedy}") from error
    finally:
        with contextlib.suppress(OSError):
            staging.unlink(missing_ok=True)


def write_folder(target: Path, files: Mapping[str, bytes], check: Callable[[Path], Any]) -> None:
    """Write `files` (content by name) to a temporary folder, then rename it to `target`, replacing an existing one.

    If `check` raises when called with the temporary folder, or writing fails with DeviceError, the target is unchanged.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            staging.chmod(0o755)
            for name, content in files.items():
                (staging / name).write_bytes(content)
            check(staging)
            _move_into_place(staging, target)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
    except OSError as error:
        raise DeviceError(f"cannot write {target}: {error.strerror or error}") from error


def _move_into_place(staging: Path, target: Path) -> None:
    """Rename `staging` to `target`; an old folder is moved away first and restored if the rename fails."""
    if not target.exists():
        os.rename(staging, target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    os.rename(target, old / target.name)
    try:
        os.rename(staging, target)
    except OSError:
        os.rename(old / target.name, target)
        raise
    finally:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(old)


def check_output_folder(folder: str | Path, files: Sequence[str], overwrite: bool = False) -> Path:
    """Return the absolute path of an output folder; refuse one that cannot be written, before the work starts.

    An existing folder needs `overwrite`. It must contain the first of `files`, and no file that is not in `files`.

    Raises:
        PackageError: The folder exists and must not be replaced.
        DeviceError: The folder cannot be created.
    """
    try:
        target = expanded(folder).resolve()
    except RuntimeError as error:  # a symlink loop
        raise DeviceError(f"cannot write {folder}: {str(error)[:1].lower()}{str(error)[1:].rstrip('.')}") from error
    try:
        if target.exists():
            _check_replaceable(target, files, overwrite)
        above = next(folder for folder in target.parents if folder.exists())
        if not above.is_dir():
            raise DeviceError(f"cannot write {target}: {above} is not a folder")
        tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=above).cleanup()
    except OSError as error:
        raise DeviceError(f"cannot write {target}: {error.strerror or error}") from error
    return target


def _check_replaceable(target: Path, files: Sequence[str], overwrite: bool) -> None:
    if not overwrite:
        raise PackageError(f"{target} exists: choose another name, or overwrite it (--overwrite)")
    if not (target / files[0]).is_file():
        raise PackageError(f"{target} exists without {files[0]}: only a package is overwritten, choose another name")
    if others := sorted({path.name for path in target.iterdir()} - set(files)):
        listed = f"{', '.join(others[:3])}{', …' if others[3:] else ''}"
        raise PackageError(f"{target} also holds {listed}, which would be lost: choose another name, or move it away")


def read_image(path: Path, flags: int) -> np.ndarray | None:
    """Return an image, as `cv2.imread`; None if the file is not an image, or truncated."""
    import cv2  # late: `actrec doctor` starts without it, to report it

    try:
        content = np.fromfile(path, np.uint8)
    except OSError:
        return None
    return cv2.imdecode(content, flags) if content.size else None


def write_image(path: Path, image: np.ndarray) -> None:
    """Write an image, as `cv2.imwrite`; raise OSError, or InputError for an unknown suffix."""
    import cv2

    if not (path.suffix.isascii() and cv2.haveImageWriter(f"image{path.suffix}")):
        raise InputError(f"'{path}' has no suffix of a writable image format: use .png")
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())
