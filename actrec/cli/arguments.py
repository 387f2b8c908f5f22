"""What numbers on the command line may be: others are wrong use, told in one line."""

import argparse
import math


def count(text: str) -> int:
    """Return a whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number from 1 on")
    return int(text)


def amount(text: str) -> float:
    """Return a number above 0."""
    number = _number(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is no number above 0")
    return number


def finite(text: str) -> float:
    """Return a number of either sign."""
    number = _number(text)
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"'{text}' is no finite number")
    return number


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
