"""Folders of the installation, and of the user for ROS's logs, caches and calibrations; reading and writing.

Services and containers run without a home folder, or with a read-only one.
"""

import contextlib
import errno
import os
import re
import shutil
import site
import stat
import sys
import tempfile
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from actrec.utils.errors import DeviceError, PackageError

NO_HOME = "a path starts with ~, but there is no such home folder: write the whole path, or set HOME"

MAX_TEXT_BYTES = 1 << 20
"""Limit of a file that people write or read: settings, a description, a calibration."""

_STAGED = re.compile(r"\.(.+)\.[0-9a-f]{8}\.new")

_PROBE_BYTES = 4096


def expanded(path: str | Path) -> Path:
    """Return a path with `~` expanded; raise DeviceError if the user has no home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise DeviceError(f"'{path}': {NO_HOME}") from error


def user_folder(variable: str, base: str, default: str, below: str) -> Path:
    """Return `$variable` if it is set, else the folder `below` in `$base`, else in `default`.

    Raise DeviceError, which names the variables, if the user has no home folder.
    """
    if variable and os.environ.get(variable):
        return expanded(os.environ[variable])
    try:
        return expanded(os.environ.get(base) or default) / below
    except DeviceError as error:
        names = " or ".join(filter(None, (variable, base)))
        raise DeviceError(f"'{default}/{below}': there is no home folder: set {names}, or HOME") from error


def installed(name: str) -> list[Path]:
    """Return where a folder of the source, such as `models/zoo`, may be installed.

    These are `share/actrec` of each ROS prefix and of Python's, then the source itself.
    """
    here = Path(__file__).resolve()
    # `pip install --user`, --prefix and Debian's pip use other prefixes than Python's: the folder above lib.
    own = [folder.parent for folder in here.parents if folder.name.startswith("lib")][:1]
    own += [Path(site.getuserbase()), here.parents[2]]  # on Windows and macOS; `pip install --target`
    ros = [Path(prefix) for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    shares = dict.fromkeys(prefix / "share/actrec" / name for prefix in [*ros, Path(sys.prefix), *own])
    return [*shares, here.parents[2] / name]


def is_plain(name: str) -> bool:
    """Return whether a name is of a file in the same folder, without any part that leads out of it."""
    return name != ".." and Path(name).name == name != ""


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder; raise PermissionError, which Path.is_dir hides since Python 3.14."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except PermissionError:
        raise
    except OSError:
        return False


def problem(folder: Path) -> str:
    """Return why files cannot be written to a folder, as "Read-only file system", or "" if they can.

    If it does not exist, the nearest folder above it is checked.
    """
    try:
        present = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
        with tempfile.TemporaryFile(dir=present) as file:
            file.write(bytes(_PROBE_BYTES))
    except OSError as error:
        return error.strerror or str(error)
    return ""


def temporary(name: str) -> Path:
    """Return a folder for temporary files that only this user can write to, the same in each process.

    Raise DeviceError if no temporary file can be written.
    """
    try:
        user = os.getuid() if hasattr(os, "getuid") else "user"  # a Windows user has an own folder for temporary files
        folder = Path(tempfile.gettempdir()) / f"actrec_{user}_{name}"
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        is_shared = user != "user" and (status.st_uid != user or status.st_mode & 0o022)  # or of another user
        if is_shared or folder.is_symlink():
            folder = Path(tempfile.mkdtemp(prefix=f"actrec_{name}_"))
        if cause := problem(folder):
            raise DeviceError(f"temporary files cannot be written to {folder} ({cause}): set TMPDIR")
    except OSError as error:
        raise DeviceError(f"temporary files cannot be written ({error.strerror}): set TMPDIR") from error
    return folder


def ros_logs(environment: MutableMapping[str, str] = os.environ) -> tuple[str, str]:
    """Return the folder of ROS's logs, and why it cannot be written; without a log file ROS does not start.

    ROS uses `$ROS_LOG_DIR`, else `$ROS_HOME/log`, else `~/.ros/log`, where `~` is `$HOME` alone.
    """
    folder = environment.get("ROS_LOG_DIR") or f"{environment.get('ROS_HOME') or '~/.ros'}/log"
    if not folder.startswith("~"):
        return folder, problem(Path(folder))
    if not environment.get("HOME"):
        return folder, "HOME is not set"
    return folder, problem(Path(environment["HOME"] + folder[1:]))


def prepare_ros_logs(environment: MutableMapping[str, str] = os.environ) -> str:
    """Set `ROS_LOG_DIR` to a temporary folder if ROS cannot write its logs; return a warning then, else "".

    Raise DeviceError if temporary files cannot be written either.
    """
    folder, cause = ros_logs(environment)
    if not cause:
        return ""
    remedy = "set ROS_LOG_DIR or ROS_HOME to a folder that can be written, or free space"
    try:
        environment["ROS_LOG_DIR"] = str(temporary("ros_logs"))
    except DeviceError as error:
        raise DeviceError(f"ROS cannot write its logs to {folder} ({cause}), and {error}; {remedy}") from error
    return f"ROS's logs go to {environment['ROS_LOG_DIR']}, because {folder} cannot be written ({cause}): {remedy}"


def others_can_change(folder: Path) -> Path | None:
    """Return a path that users other than root and this one can replace: a folder, a file in it, or a folder above it.

    None if there is none, and on Windows. Hidden files do not count; a link in the folder counts. Folders above may be
    writable by a group, as a user's folders are by default on Ubuntu.
    """
    if not hasattr(os, "getuid"):
        return None
    folder = folder.resolve()
    inside = [folder, *(file for file in folder.glob("*") if not file.name.startswith("."))]
    for path in (*inside, *folder.parents):
        with contextlib.suppress(FileNotFoundError):  # not made yet, or replaced meanwhile
            status, writers = path.lstat(), 0o022 if path in inside else 0o002
            is_sticky = path not in inside and status.st_mode & stat.S_ISVTX  # there, only owners rename
            if not is_sticky and (status.st_uid not in (0, os.getuid()) or status.st_mode & writers):
                return path
    return None


def open_at_once(path: str, flags: int) -> int:
    """Open a file as an `opener` of `open`: a pipe without its other end does not block."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o644)


def read_file(path: Path, limit: int = MAX_TEXT_BYTES) -> bytes:
    """Return the content of a file.

    Raises:
        OSError: It cannot be read, has more than `limit` bytes, or is a pipe or a device, which may never end.
    """
    _checked_size(path, path.stat(), limit)  # before it is opened, which has effects on some devices
    with open(path, "rb", opener=open_at_once) as file:
        return file.read(_checked_size(path, os.fstat(file.fileno()), limit))


def _checked_size(path: Path, status: os.stat_result, limit: int) -> int:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "a pipe or a device, not a file", str(path))
    if status.st_size > limit:
        raise OSError(errno.EFBIG, f"larger than {limit / (1 << 20):g} MiB", str(path))
    return status.st_size


def write_file(path: Path, content: bytes, remedy: str = "choose another place", mode: int = 0) -> None:
    """Write a file and its folder, atomically: a reader sees the old or the new content; raise DeviceError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content, mode)
    except OSError as error:
        raise DeviceError(f"cannot write '{path}': {error.strerror}; {remedy}") from error


def replace_file(path: Path, content: bytes, mode: int = 0) -> None:
    """Write a file as `write_file` does, into an existing folder; raise OSError. A kill may leave a staged file.

    A link of this user stays, and its target is replaced; another's could lead anywhere. A pipe or a device, such as
    /dev/stdout, is refused.
    """
    if path.is_symlink() and path.lstat().st_uid == getattr(os, "getuid", lambda: None)():
        path = Path(os.path.realpath(path))
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "a pipe or a device, not a file", str(path))
    staging = path.with_name(f".{path.name}.{os.urandom(4).hex()}.new")  # each of several writers has its own
    try:
        with staging.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if mode:
            staging.chmod(mode)
        os.replace(staging, path)
    finally:
        with contextlib.suppress(OSError):
            staging.unlink(missing_ok=True)


def final_name(name: str) -> str:
    """Return the name that a staged file of `replace_file` would have had; other names as they are."""
    match = _STAGED.fullmatch(name)
    return match[1] if match else name


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
                with (staging / name).open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())  # else a power loss may leave empty files, and the old ones deleted
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
