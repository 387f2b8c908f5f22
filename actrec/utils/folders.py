"""Folders of the user for ROS's logs, caches and calibrations: their places, and the variables that move them.

Services and containers run without a home folder, or with a read-only one.
"""

import os
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

from actrec.utils.errors import DeviceError

NO_HOME = "a path starts with ~, but there is no such home folder: write the whole path, or set HOME"

_PROBE_BYTES = 4096


def expanded(path: str | Path) -> Path:
    """Return a path with `~` expanded.

    Raises:
        DeviceError: The user has no home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise DeviceError(f"'{path}': {NO_HOME}") from error


def user_folder(variable: str, base: str, default: str, below: str) -> Path:
    """Return `$variable` if it is set, else the folder `below` in `$base`, else in `default`.

    Raises:
        DeviceError: The user has no home folder; the message names the variables.
    """
    if variable and os.environ.get(variable):
        return expanded(os.environ[variable])
    try:
        return expanded(os.environ.get(base) or default) / below
    except DeviceError as error:
        names = " or ".join(filter(None, (variable, base)))
        raise DeviceError(f"'{default}/{below}': there is no home folder: set {names}, or HOME") from error


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

    Raises:
        DeviceError: No temporary file can be written.
    """
    try:
        folder = Path(tempfile.gettempdir()) / f"actrec_{os.getuid()}_{name}"
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        if status.st_uid != os.getuid() or status.st_mode & 0o022 or folder.is_symlink():  # of another user
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

    Raises:
        DeviceError: Temporary files cannot be written either.
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
