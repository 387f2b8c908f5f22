"""One training at a time writes to a folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from actrec.errors import DeviceError

LOCK = ".training.lock"


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keeps other runs out of a run's folder while this one lasts.

    Of several processes the first does so. The lock is that process's own (POSIX): those that read clips for it do not
    hold it on when it is killed. Runs are not kept apart where the folder cannot be written to or nothing is locked.

    Args:
        out: The run's folder, which is there.

    Raises:
        DeviceError: Another run writes to it.
    """
    file = None
    if not rank_zero_only.rank and os.environ.get("NODE_RANK", "0") == "0":
        with suppress(OSError):
            file = os.open(out / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if file is not None:
            _lock(file, out)
        yield
    finally:
        if file is not None:
            os.close(file)


def _lock(file: int, out: Path) -> None:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:  # either, by system
        raise DeviceError(
            f"another actrec train is writing to '{out}': wait for it, end it, or choose another --out"
        ) from error
    except OSError:  # some network file systems lock nothing
        return
