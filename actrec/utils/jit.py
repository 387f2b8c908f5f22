"""Compilation of loops over arrays with Numba, cached on disk if possible."""

import logging
from collections.abc import Callable
from functools import cache
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
            compiled = numba.njit(cache=True, **options)(function)
        except RuntimeError:  # numba: "cannot cache function …: no locator available"
            compiled = numba.njit(cache=_use_temporary_cache(), **options)(function)
        return _saved_if_possible(compiled)

    return compile_


def _saved_if_possible(compiled: Any) -> Any:
    """Let a compiled function run without its cache if that cannot be written, as on a full disk."""
    own = getattr(compiled, "_cache", None)  # none if numba is disabled
    save = getattr(own, "save_overload", None)
    if save is None:
        return compiled

    def save_if_possible(signature: Any, data: Any) -> None:
        try:
            save(signature, data)
        except OSError as error:
            _warn_uncached(error.strerror or str(error))

    own.save_overload = save_if_possible  # type: ignore[union-attr]
    return compiled


@cache
def _warn_uncached(cause: str) -> None:
    remedy = "free space, or set NUMBA_CACHE_DIR"
    log.warning("compiled code cannot be cached (%s), so each start compiles: %s", cause, remedy)


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
