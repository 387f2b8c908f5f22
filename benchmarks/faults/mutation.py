"""Mutated copies of files: flipped bits, cut, repeated, moved and overwritten parts, impossible numbers and texts."""

import re

import numpy as np

Random = np.random.Generator

EXTREMES = (b"\x00", b"\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\xff" * 8, b"\x00" * 8, b"\x00\x00\xc0\x7f")
WORDS = (
    "nan", "-inf", "1e999", "-1", "0", "99999999999999999999", "1e-320", "''", "[]", "{}", "null", "true", "~",
    "x" * 5000, "[" * 500, "&a *a", "!!python/object/apply:os.system ['false']", "../../../../etc/passwd",
    "\N{PILE OF POO}", "\x00", "2026-01-01", "- - -", ": :", "%s",
)  # fmt: skip
NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


def mutate(data: bytes, random: Random) -> bytes:
    """Return a copy with one to four mutations; of text in half of all cases a number or word is replaced."""
    is_text = b"\x00" not in data[:4000]
    for _ in range(int(random.integers(1, 5))):
        kinds = (_flip, _overwrite, _cut, _repeat, _remove, _swap, *((_replace, _line) * 3 if is_text else ()))
        data = kinds[int(random.integers(len(kinds)))](data, random)
    return data


def _place(data: bytes, random: Random) -> int:
    """Return a position; in half of all cases near the start or the end, where headers and indices are."""
    near = int(random.integers(min(len(data), 200) + 1))
    anywhere = [int(random.integers(len(data) + 1)) for _ in range(2)]
    return int(random.choice([*anywhere, near, len(data) - near]))


def _flip(data: bytes, random: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(int(random.integers(1, 9)) if data else 0):
        changed[min(_place(data, random), len(data) - 1)] ^= 1 << int(random.integers(8))
    return bytes(changed)


def _overwrite(data: bytes, random: Random) -> bytes:
    at, value = _place(data, random), EXTREMES[int(random.integers(len(EXTREMES)))]
    return data[:at] + value + data[at + len(value) :]


def _cut(data: bytes, random: Random) -> bytes:
    return data[: _place(data, random)]


def _part(data: bytes, random: Random) -> tuple[int, int]:
    at = _place(data, random)
    return at, at + int(random.integers(1, max(2, min(len(data) // 4, 5000))))


def _repeat(data: bytes, random: Random) -> bytes:
    begin, end = _part(data, random)
    return data[:end] + data[begin:end] * int(random.integers(1, 4)) + data[end:]


def _remove(data: bytes, random: Random) -> bytes:
    begin, end = _part(data, random)
    return data[:begin] + data[end:]


def _swap(data: bytes, random: Random) -> bytes:
    (begin, end), at = _part(data, random), _place(data, random)
    moved, left = data[begin:end], data[:begin] + data[end:]
    return left[:at] + moved + left[at:]


def _replace(data: bytes, random: Random) -> bytes:
    """Replace a number by a word."""
    found = list(NUMBER.finditer(data))
    if not found:
        return data
    match, word = found[int(random.integers(len(found)))], WORDS[int(random.integers(len(WORDS)))]
    return data[: match.start()] + word.encode() + data[match.end() :]


def _line(data: bytes, random: Random) -> bytes:
    """Remove, repeat or exchange lines, or replace the value of one."""
    lines = data.split(b"\n")
    one, other = (int(random.integers(len(lines))) for _ in range(2))
    kind = int(random.integers(4))
    if kind == 0:
        del lines[one]
    elif kind == 1:
        lines.insert(other, lines[one])
    elif kind == 2:
        lines[one], lines[other] = lines[other], lines[one]
    else:
        key, mark, _ = lines[one].partition(b":")
        lines[one] = key + mark + b" " + WORDS[int(random.integers(len(WORDS)))].encode()
    return b"\n".join(lines)
