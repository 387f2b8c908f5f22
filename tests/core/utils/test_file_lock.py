"""Locks of files on this system, and on Windows with a stand-in for its lock function."""

import importlib
import sys
import types

import pytest

from actrec.utils import file_lock


@pytest.fixture(params=["posix", "windows"])
def lock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """Yield the lock function of a system."""
    if request.param == "posix":
        yield file_lock.lock
        return
    fcntl, held = file_lock.fcntl, []

    def locking(file: int, mode: int, size: int) -> None:
        """Lock as Windows does: PermissionError if another process has the lock."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PermissionError(13, "Permission denied") from error
        held.append(file)

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setitem(sys.modules, "msvcrt", types.SimpleNamespace(LK_LOCK=1, LK_NBLCK=2, locking=locking))
    yield importlib.reload(file_lock).lock
    monkeypatch.undo()
    importlib.reload(file_lock)
    assert held


def test_lock_of_another_is_refused_until_closed(tmp_path, lock) -> None:
    with open(tmp_path / "lock", "w", encoding="ascii") as first:
        lock(first.fileno())
        with open(tmp_path / "lock", "w", encoding="ascii") as second, pytest.raises(BlockingIOError):
            lock(second.fileno(), wait=False)
    with open(tmp_path / "lock", "w", encoding="ascii") as third:
        lock(third.fileno(), wait=False)
