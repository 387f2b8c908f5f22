"""Settings written KEY=VALUE on a command line."""

import re
from collections.abc import Iterable
from typing import Any

import yaml

from actrec.errors import ConfigError

_NUMBERED = re.compile(r"0\d+")


def read(pairs: Iterable[str], what: str) -> dict[str, Any]:
    """KEY=VALUE words as settings; a value is read as YAML reads it, an empty one is an empty text.

    Digits after a zero stay a text: they are a serial number, which YAML would read in base 8.

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
        try:
            settings[key] = yaml.safe_load(value) if value and not _NUMBERED.fullmatch(value) else value
        except (yaml.YAMLError, ValueError) as error:  # the latter of 2024-13-45, which looks like a date
            raise ConfigError(f"{what} '{pair}': the value cannot be read as YAML; quote it") from error
    return settings
