"""Compiles loops over arrays, with the compiled code kept on disk wherever that is possible."""

from collections.abc import Callable
from typing import Any

import numba

Real = Any
"""A float32 in compiled code; numpy's type stubs do not know what becomes of two of them."""

# NaN marks missing depth, so "no NaN" and "no infinity" must not be assumed.
_FASTMATH = {"contract", "reassoc", "arcp", "nsz", "afn"}


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles `function` to machine code without the GIL.

    The code is cached beside the module or in the user's cache folder; where neither can be written (a read-only image
    without a home) it is compiled once per process instead.
    """
    options = {"nogil": True, "fastmath": _FASTMATH, "error_model": "numpy"}  # a quotient by zero is infinite
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # numba: "cannot cache function …: no locator available"
        return numba.njit(**options)(function)
