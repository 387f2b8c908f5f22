"""Compilation of loops over arrays with Numba, cached on disk if possible."""

import logging
from collections.abc import Callable
from typing import Any

import numba

from actrec.utils import folders
from actrec.utils.errors import DeviceError

log = logging.getLogger(__name__)

Real = Any
"""A float32 in compiled code; numpy's type stubs lack its arithmetic."""

# NaN marks missing depth, so "no NaN" and "no infinity" must not be assumed.
_FASTMATH = {"contract", "reassoc", "arcp", "nsz", "afn"}


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile `function` to machine code that releases the GIL, as `njit`; division by zero is infinite."""
    return njit(nogil=True, fastmath=_FASTMATH, error_model="numpy")(function)


def njit(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the decorator `numba.njit` with these options and a cache on disk.

    The code is cached beside the module or in the user's cache folder, else in a temporary folder with a warning. If no
    folder can be written, each process compiles, which takes up to 15 s.
    """

    def compile_(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # numba: "cannot cache function …: no locator available"
            return numba.njit(cache=_use_temporary_cache(), **options)(function)

    return compile_


def _use_temporary_cache() -> bool:
    """Let numba cache in a temporary folder, with a warning; return False if there is none."""
    cause = "neither the folder of actrec nor the user's cache folder can be written"
    try:
        numba.config.CACHE_DIR = str(folders.temporary("numba"))
        place = f"compiled code is cached in {numba.config.CACHE_DIR}"
    except DeviceError:
        place = "each start compiles for up to 15 s"
    log.warning("%s, because %s: set NUMBA_CACHE_DIR", place, cause)
    return bool(numba.config.CACHE_DIR)
