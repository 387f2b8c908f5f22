"""Arrays of MATLAB files, through scipy."""

from pathlib import Path
from typing import Any

import numpy as np

from actrec.utils.errors import DeviceError, InputError, MissingLibraryError


def read_mats(path: Path) -> dict[str, Any]:
    """Read every array of a MATLAB file (up to version 7), by name.

    Raises:
        DeviceError: There is no such file.
        InputError: It is truncated or corrupt.
        MissingLibraryError: scipy is not installed.
    """
    try:
        from scipy.io import loadmat
    except ModuleNotFoundError as error:
        raise MissingLibraryError("a .mat needs scipy, which is not installed: pip install scipy") from error
    if not path.is_file():
        raise DeviceError(f"there is no file '{path}'; check the path")
    try:
        return {key: value for key, value in loadmat(path).items() if not key.startswith("__")}
    except PermissionError as error:
        raise DeviceError(f"cannot read '{path}': {error.strerror}") from error
    except Exception as error:  # scipy raises a dozen types for a damaged file
        raise InputError(f"'{path}' is corrupt or no MATLAB file; copy it again ({error})") from error


def read_mat(path: Path, key: str) -> np.ndarray:
    """One array of numbers of a MATLAB file.

    Raises:
        DeviceError, MissingLibraryError: As `read_mats`.
        InputError: As `read_mats`, or it holds no such array of numbers.
    """
    arrays = read_mats(path)
    if key not in arrays:
        raise InputError(f"'{path}' holds no '{key}' but {', '.join(arrays) or 'nothing'}: it is another kind of file")
    value = np.asarray(arrays[key])
    if value.dtype.kind not in "uif":
        raise InputError(f"'{path}': '{key}' is {value.dtype}, expected numbers: it is another kind of file")
    return value
