"""Fonts of a report's pictures: what is installed, for labels in any script."""

import functools

from matplotlib import font_manager

_FIRST = "DejaVu Sans"
"""Comes with Matplotlib: Latin, Greek, Cyrillic, Arabic."""
_OTHERS = (
    "Noto Sans CJK",
    "Source Han Sans",
    "WenQuanYi",
    "IPA",
    "Nanum",
    "Droid Sans Fallback",
    "Hiragino",
    "PingFang",
    "Microsoft YaHei",
    "MS Gothic",
    "Malgun Gothic",
    "Arial Unicode MS",
    "Noto Sans",
)


@functools.cache
def families() -> tuple[str, ...]:
    """Names of the fonts to take, in this order for each character."""
    installed = sorted(font_manager.get_font_names())
    return (_FIRST, *(name for start in _OTHERS for name in installed if name.startswith(start)))


@functools.cache
def _characters() -> frozenset[int]:
    found: set[int] = set()
    for family in families():
        found |= font_manager.get_font(font_manager.findfont(family)).get_charmap().keys()
    return frozenset(found)


def drawable(text: str) -> bool:
    """Whether the fonts have every character of a text."""
    return all(ord(character) in _characters() for character in text)


def spelt(text: str) -> str:
    """A text with "?" in place of the characters that no font has."""
    return "".join(character if drawable(character) else "?" for character in text)
