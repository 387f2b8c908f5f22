"""Locks of open files against other processes, on POSIX and Windows; the system releases them when a process ends."""

import sys

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


def lock(file: int, wait: bool = True, own: bool = False) -> None:
    """Lock an open file exclusively; closing the file releases it.

    Args:
        file: Its descriptor, open for writing; on POSIX also a folder's.
        wait: Wait while another process has the lock (Windows: at most 10 s).
        own: Lock for this process alone, not for its children, which inherit the descriptor. No difference on Windows.

    Raises:
        BlockingIOError: Another process has the lock.
        OSError: The file system cannot lock files.
    """
    if sys.platform == "win32":
        try:
            msvcrt.locking(file, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(*error.args) from error
        return
    flags = fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB
    if not own:
        fcntl.flock(file, flags)
        return
    try:
        fcntl.lockf(file, flags)
    except PermissionError as error:  # on some systems
        raise BlockingIOError(*error.args) from error
