"""Users without a home folder, read-only folders and full disks: the true cause, and a variable that mends it."""

import errno
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import pytest

from actrec.datasets.store import write_atomically
from actrec.perception.recorded_joints import cache_folder
from actrec.recordings import existing_path
from actrec.utils import calibration_files, folders, jit
from actrec.utils.errors import DeviceError
from tests.house.test_cli import run_main

NOWHERE = "/proc/nonexistent"
"""No folder can be created here, also not by root."""


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Take the home folder away, as a container with a numeric user has none."""
    for name in ("HOME", "ROS_HOME", "ROS_LOG_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "ACTREC_CAMERAS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda user: (_ for _ in ()).throw(KeyError(user)))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.mark.parametrize(
    ("given", "where", "cause"),
    [
        ({}, "~/.ros/log", "HOME is not set"),
        ({"HOME": NOWHERE}, "~/.ros/log", "No such file or directory"),
        ({"HOME": NOWHERE, "ROS_HOME": "/dev/null"}, "/dev/null/log", "Not a directory"),
        ({"HOME": "{tmp}", "ROS_LOG_DIR": NOWHERE}, NOWHERE, "No such file or directory"),
        ({"HOME": "{tmp}"}, "~/.ros/log", ""),
        ({"ROS_HOME": "{tmp}/ros"}, "{tmp}/ros/log", ""),
        ({"HOME": NOWHERE, "ROS_LOG_DIR": "{tmp}/log"}, "{tmp}/log", ""),
    ],
)
def test_prepare_ros_logs_replaces_an_unwritable_folder(
    no_home: None, tmp_path: Path, given: dict[str, str], where: str, cause: str
) -> None:
    environment = {name: value.format(tmp=tmp_path) for name, value in given.items()}
    warning = folders.prepare_ros_logs(environment)
    if not cause:
        assert warning == "" and ("ROS_LOG_DIR" in environment) == ("ROS_LOG_DIR" in given)
        return
    assert f"because {where} cannot be written ({cause}): set ROS_LOG_DIR or ROS_HOME to a folder" in warning
    assert environment["ROS_LOG_DIR"] == f"{tmp_path}/actrec_{os.getuid()}_ros_logs"
    assert folders.prepare_ros_logs(environment) == "", "also in child processes"


def test_prepare_ros_logs_on_a_full_disk_raises(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(**_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    line = r"ROS cannot write its logs to .* \(No space left on device\), and temporary files cannot be .*: set TMPDIR"
    with pytest.raises(DeviceError, match=line + "; set ROS_LOG_DIR or ROS_HOME to a folder"):
        folders.prepare_ros_logs({"HOME": str(tmp_path)})


def test_temporary_folder_of_another_user_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    first = folders.temporary("logs")
    assert folders.temporary("logs") == first and first.stat().st_mode & 0o777 == 0o700
    first.chmod(0o777)
    assert folders.temporary("logs") != first


def test_calibrations_without_home_are_read_but_not_written(
    no_home: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(calibration_files, "_CHECKOUT_FOLDER", tmp_path / "none")
    assert calibration_files.load("123").color is None
    with pytest.raises(DeviceError, match=r"no home folder\): name a folder with --cameras, or set ACTREC_C"):
        calibration_files.check_writable(calibration_files.path_of("123", "color"))
    for name, below in (("ACTREC_CAMERAS", ""), ("XDG_CONFIG_HOME", "actrec/cameras")):
        monkeypatch.setenv(name, str(tmp_path / name))
        path = calibration_files.path_of("123", "color")
        calibration_files.check_writable(path)
        assert path == tmp_path / name / below / "123_color.yaml"
        monkeypatch.delenv(name)


def test_cached_skeletons_without_home_go_to_a_temporary_folder(
    no_home: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert cache_folder() == tmp_path / f"actrec_{os.getuid()}_skeletons"
    assert "there is no home folder: set XDG_CACHE_HOME, or HOME" in caplog.text
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_folder() == tmp_path / "cache/actrec/skeletons"


def test_command_with_a_path_in_no_home_ends_with_one_line(no_home: None, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("record --recover ~/bag --out x", "calibrate intrinsics ~/x --serial 1 --cameras /tmp"):
        assert run_main(command.split()) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("actrec: ") and line.endswith(folders.NO_HOME)


@pytest.mark.skipif(os.name != "posix", reason="needs links and pipes")
def test_write_file_keeps_links_and_refuses_pipes(tmp_path: Path) -> None:
    target, link, pipe = tmp_path / "disk/events.csv", tmp_path / "events.csv", tmp_path / "pipe"
    folders.write_file(target, b"old")
    link.symlink_to(target)
    folders.write_file(link, b"new")
    assert link.is_symlink() and target.read_bytes() == b"new"
    os.mkfifo(pipe)
    with pytest.raises(DeviceError, match="a pipe or a device, not a file"):
        folders.write_file(pipe, b"new")
    assert pipe.is_fifo()


@pytest.mark.parametrize(
    ("command", "message"),
    [(["simulate", "--out", "x" * 300], "File name too long"), (["models", "--fetch", "a", "--from", "b"], "no home")],
)
def test_command_with_an_impossible_path_ends_with_one_line(
    no_home: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    command: list[str], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert run_main(command) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("actrec: ") and message in line
    assert not (tmp_path / "~").exists()


def test_command_without_a_standard_error_works(tmp_path: Path) -> None:
    line = f"{sys.executable} -m actrec simulate --seconds .1 --set fps=10 --out {tmp_path / 'x'} --json 2>&-"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["frames"] == 1


def test_compiled_code_is_cached_in_a_temporary_folder_if_no_other_is_writable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from numba.core import caching

    monkeypatch.setattr(
        caching.CompileResultCacheImpl, "_locator_classes", caching.CompileResultCacheImpl._locator_classes[:1]
    )
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert jit.njit()(lambda x: x + 1)(2) == 3
        assert jit.njit()(lambda x: x + 2)(2) == 4
    assert caplog.text.count("set NUMBA_CACHE_DIR") == 1
    assert list(tmp_path.rglob("*.nbi"))


def test_compiled_function_whose_cache_cannot_be_written_runs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from numba.core import caching

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(caching.IndexDataCacheFile, "save", full)
    twice = jit.njit()(lambda x: 2 * x)
    assert twice(4) == 8
    assert "cannot be cached (No space left on device), so each start compiles: free space" in caplog.text


def test_write_folder_is_on_the_disk_before_the_old_one_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    renamed: list[int] = []
    sync, rename = os.fsync, os.rename

    def count_sync(number: int) -> None:
        synced.append(number)
        sync(number)

    def count_rename(*names: Any) -> None:
        renamed.append(len(synced))
        rename(*names)

    monkeypatch.setattr(os, "fsync", count_sync)
    monkeypatch.setattr(os, "rename", count_rename)
    for content in (b"old", b"new"):
        synced.clear()
        folders.write_folder(tmp_path / "package", {"a": content, "b": content}, lambda folder: None)
        assert renamed[-1] == 2, "both files, before they are renamed"
    assert (tmp_path / "package/a").read_bytes() == b"new"


@pytest.mark.parametrize("write", [folders.write_file, write_atomically])
def test_write_file_of_two_writers_at_once_leaves_the_later_content_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, bytes], None]
) -> None:
    path, replace = tmp_path / "file", os.replace

    def replace_after_another_writer(*names: Any) -> None:
        monkeypatch.setattr(os, "replace", replace)
        write(path, b"first")
        assert path.read_bytes() == b"first"
        replace(*names)

    monkeypatch.setattr(os, "replace", replace_after_another_writer)
    write(path, b"second")
    assert path.read_bytes() == b"second" and os.listdir(tmp_path) == ["file"]


def test_existing_path_in_a_folder_of_another_user_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def deny(_: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "exists", deny)
    with pytest.raises(DeviceError, match="clip.mp4' cannot be read: Permission denied"):
        existing_path(tmp_path / "clip.mp4")


def test_read_file_beyond_the_limit_or_special_raises(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(1000))
    assert folders.read_file(path, 1000) == bytes(1000)
    with pytest.raises(OSError, match="larger than"):
        folders.read_file(path, 999)
    with pytest.raises(IsADirectoryError):
        folders.read_file(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    for special in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OSError, match="a pipe or a device, not a file"):
            folders.read_file(special)
