"""Settings written KEY=VALUE on a command line."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from actrec.errors import ConfigError

_NUMBERED = re.compile(r"0\d+")
_WRITTEN_OUT = ('"', "'", "[", "{")
"""What YAML's texts, lists and mappings start with where they are written as such."""


def read(pairs: Iterable[str], what: str) -> dict[str, Any]:
    """KEY=VALUE words as settings; a value is read as YAML reads it, an empty one is an empty text.

    What is no number, switch or `null` stays a text as it is, unless it is written as YAML's with quotes or brackets:
    YAML would cut "run #3" short, and take "a: b" for keys and values, 2026-11-22 for a date, 2026_11_22 for a number.
    So do digits after a zero: they are a serial number, which YAML would read in base 8.

    Args:
        pairs: The words.
        what: What to call one of them in messages ("driver option").

    Raises:
        ConfigError: One is not KEY=VALUE, or its value is no YAML.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise ConfigError(f"{what} is '{pair}', expected KEY=VALUE")
        settings.pop(key, None)  # of two the last counts, also after what was set in between
        try:
            settings[key] = _value(value)
        except (yaml.YAMLError, ValueError) as error:  # the latter of 2024-13-45, which looks like a date
            raise ConfigError(f"{what} '{pair}': the value cannot be read as YAML; quote it") from error
    return settings


def merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with some changed, in the order given; `schedule.every` is the field `every` of the mapping `schedule`.

    Raises:
        ConfigError: What a field is to be changed of is no mapping.
    """
    result = dict(settings)
    for name, value in changes.items():
        *outer, last = name.split(".")
        inner, path = result, ""
        for part in outer:
            path = f"{path}.{part}".strip(".")
            held = inner.get(part, {})
            if not isinstance(held, Mapping):
                raise ConfigError(f"{name} cannot be set: {path} is {held!r}, no mapping; set it as a whole")
            inner[part] = dict(held)
            inner = inner[part]
        inner[last] = value
    return result


def _value(text: str) -> Any:
    if not text or _NUMBERED.fullmatch(text):
        return text
    value = yaml.safe_load(text)
    if text.startswith(_WRITTEN_OUT):
        return value
    plain = value is None or isinstance(value, (bool, int, float))
    return value if plain and not set(text) & set("_:#") else text
