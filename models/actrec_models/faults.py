"""What ends a training from outside, in one line with the remedy."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from actrec.errors import ActrecError, DeviceError

_IN_WORKER = "in DataLoader worker process"
_GOES_ON = "the same command goes on from the last checkpoint"
_PEER_ENDED = ("Connection closed by peer", "Connection reset by peer")
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turns what PyTorch says of memory, disk and reading processes into this project's errors.

    Args:
        folder: That the run writes to.

    Raises:
        DeviceError: Memory or disk are full, a reading process was killed, or another process of the run ended.
        ActrecError: As a reading process raised it, without the process's traceback in its text.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceError(
            "the GPU's memory is full: let a batch go through in more parts (e.g. --set accumulate=4), or take more "
            f"--devices; {str(error).splitlines()[0]}"
        ) from error
    except ActrecError as error:
        lines = str(error).strip().splitlines()
        if _IN_WORKER not in lines[0]:
            raise
        raise type(error)(lines[-1].partition(": ")[2]) from error
    except OSError as error:
        if error.errno not in _DISK:
            raise
        raise DeviceError(f"cannot write to {folder}: {error.strerror}; make room, and {_GOES_ON}") from error
    except RuntimeError as error:
        if any(sign in str(error) for sign in _PEER_ENDED):
            raise DeviceError(f"another process of this run ended, see its own line; {_GOES_ON}") from error
        if "DataLoader worker" not in str(error):
            raise
        raise DeviceError(
            f"a process that reads clips was killed, most often as memory is full: take fewer --workers; {_GOES_ON}"
        ) from error
