"""Compilation of loops over arrays with Numba, cached on disk if possible."""

from collections.abc import Callable
from typing import Any

import numba

Real = Any
"""A float32 in compiled code; numpy's type stubs lack its arithmetic."""

# NaN marks missing depth, so "no NaN" and "no infinity" must not be assumed.
_FASTMATH = {"contract", "reassoc", "arcp", "nsz", "afn"}


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile `function` to machine code that releases the GIL.

    The code is cached beside the module or in the user's cache folder; if neither is writable, each process compiles.
    """
    options = {"nogil": True, "fastmath": _FASTMATH, "error_model": "numpy"}  # division by zero is infinite
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # numba: "cannot cache function …: no locator available"
        return numba.njit(**options)(function)
