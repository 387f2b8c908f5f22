"""Fast parser of text files of numbers, for datasets of tens of gigabytes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

_POWERS = 10.0 ** np.arange(23)  # the powers of ten that a float64 holds exactly

_EXACT = 2**53  # integers up to here are float64 exactly


@dataclass(frozen=True)
class Numbers:
    """The numbers of a text in order.

    Attributes:
        values: [N] float64, correctly rounded.
        lines: [N] int64, line of each number, from 1.
    """

    values: np.ndarray
    lines: np.ndarray
    _text: bytes
    _spans: np.ndarray

    def word(self, index: int) -> str:
        """Return a number as text; a body id of 17 digits does not fit a float64."""
        begin, end = self._spans[index]
        return self._text[begin:end].decode("ascii", "backslashreplace")


def read_numbers(text: bytes) -> Numbers:
    """Read whitespace-separated decimal numbers; "nan" and "inf" are numbers too.

    Raises:
        ValueError: A word is not a number; names the word and its line.
    """
    text = text.removeprefix(b"\xef\xbb\xbf")
    values, lines, spans, hard = _scan(np.frombuffer(text, np.uint8), _POWERS, _EXACT)
    numbers = Numbers(values, lines, text, spans)
    for index in np.flatnonzero(hard):
        word = numbers.word(index)
        try:
            if "_" in word:  # which Python allows
                raise ValueError
            values[index] = float(word)
        except ValueError:
            raise ValueError(f"line {lines[index]}: {word[:40]!r} is no number") from None
    return numbers


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no folder to keep compiled code in: it is compiled once per process instead
        return numba.njit(nogil=True)(function)


@_compiled
def _scan(
    text: np.ndarray, powers: np.ndarray, exact: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # pragma: no cover (compiled)
    """Values, lines, [N, 2] spans of bytes, and which ones Python must read: not finite, or of too many digits."""
    most = len(text) // 2 + 1
    values, lines = np.empty(most), np.empty(most, np.int64)
    spans, hard = np.empty((most, 2), np.int64), np.zeros(most, np.bool_)
    count, line, at = 0, 1, 0
    while at < len(text):
        if text[at] == 32 or 9 <= text[at] <= 13:  # white space
            line += text[at] == 10
            at += 1
            continue
        begin = at
        negative = text[at] == 45
        if negative or text[at] == 43:
            at += 1
        mantissa, exponent, digits, point = 0, 0, 0, False
        while at < len(text) and (48 <= text[at] <= 57 or (text[at] == 46 and not point)):
            if text[at] == 46:
                point = True
            else:
                digits += 1
                if mantissa < exact:
                    mantissa = mantissa * 10 + (text[at] - 48)
                    exponent -= point
                else:
                    digits = -(1 << 40)  # too many for a float64: never above 0 again
            at += 1
        easy = digits > 0 and mantissa <= exact
        if easy and at < len(text) and (text[at] == 101 or text[at] == 69):
            at += 1
            down = at < len(text) and text[at] == 45
            if at < len(text) and (down or text[at] == 43):
                at += 1
            shift, easy = 0, at < len(text) and 48 <= text[at] <= 57
            while at < len(text) and 48 <= text[at] <= 57:
                shift = min(shift * 10 + (text[at] - 48), 9999)
                at += 1
            exponent += -shift if down else shift
        while at < len(text) and not (text[at] == 32 or 9 <= text[at] <= 13):
            easy = False  # whatever else the word holds
            at += 1
        value = np.nan
        if easy and -23 < exponent < 23:  # one correctly rounded operation on two exact numbers
            value = mantissa / powers[-exponent] if exponent < 0 else mantissa * powers[exponent]
        else:
            easy = False
        values[count], lines[count], hard[count] = -value if negative else value, line, not easy
        spans[count, 0], spans[count, 1] = begin, at
        count += 1
    return values[:count], lines[:count], spans[:count], hard[:count]
