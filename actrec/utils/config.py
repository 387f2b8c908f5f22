"""Typed settings: a frozen dataclass per component is the only place where a default lives.

Settings written KEY=VALUE on a command line.

Reads plain mappings (from YAML) into frozen dataclasses, refusing whatever the dataclass does not state.
"""

import dataclasses
import math
import re
import reprlib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import yaml

from actrec.utils.errors import ConfigError, PackageError

T = TypeVar("T")

_POWER = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


def setting(
    default: Any,
    description: str,
    *,
    unit: str = "",
    range: tuple[float, float] | None = None,
    choices: tuple[str, ...] | None = None,
) -> Any:
    """Return a dataclass field that carries what a person and a ROS parameter need to know of it.

    Args:
        default: The default value; its type (or the annotation) is the setting's type.
        description: One sentence, shown by `ros2 param describe` and `--help`.
        unit: SI unit, empty for none.
        range: Inclusive lower and upper bound of a number.
        choices: The strings allowed.
    """
    metadata = {"description": description, "unit": unit, "range": range, "choices": choices}
    if isinstance(default, (list, dict, set)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def build(config_class: type[T], options: dict[str, Any] | None = None) -> T:
    """Make a validated `config_class` from a plain dictionary.

    Raises:
        ConfigError: An option is unknown (the known ones are listed), mistyped or out of range.
    """
    options = dict(options or {})
    known = {f.name for f in dataclasses.fields(config_class)}  # type: ignore[arg-type]
    unknown = sorted(map(str, set(options) - known))
    if unknown:
        names, allowed = ", ".join(unknown), ", ".join(sorted(known))
        raise ConfigError(f"unknown option {names} of {config_class.__name__}; known: {allowed}")
    hints = _hints(config_class)
    # YAML and shells take a serial number for a number.
    texts = {name: str(value) for name, value in options.items() if hints[name] is str and type(value) is int}
    # And YAML takes 1e-3, which lacks a point, for a text.
    numbers = {name: float(value) for name, value in options.items() if _is_power(value, hints[name])}
    config = config_class(**{**options, **texts, **numbers})
    validate(config)
    return config


def check_names(options: dict[str, Any], reserved: tuple[str, ...], what: str) -> None:
    """Refuses options that cannot be passed on by name.

    Args:
        options: To be passed on as keywords.
        reserved: Names that something else gives.
        what: What the options are called in messages ("dataset_options").

    Raises:
        ConfigError: A name is no text, or one of the reserved.
    """
    for name in options:
        if not isinstance(name, str):
            raise ConfigError(f"{what} has the name {name!r}, expected a text")
        if name in reserved:
            raise ConfigError(f"{what} cannot set '{name}', which has a place of its own")


def validate(config: Any) -> None:
    """Check each field of a settings dataclass against its type, range and choices.

    Raises:
        ConfigError: names the field, its value and what is allowed.
    """
    hints = _hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        where = f"{type(config).__name__}.{field.name}"
        if not _is_instance(value, hints[field.name]):
            raise ConfigError(f"{where} is {value!r}, expected {_type_name(hints[field.name])}")
        _check_bounds(where, value, field.metadata)


_read: dict[type, dict[str, Any]] = {}


def _hints(config_class: type) -> dict[str, Any]:
    """Types of the fields, read once a class: features are configured for every clip."""
    if config_class not in _read:
        _read[config_class] = typing.get_type_hints(config_class)
    return _read[config_class]


def _check_bounds(where: str, value: Any, metadata: Any) -> None:
    bounds, choices, unit = metadata.get("range"), metadata.get("choices"), metadata.get("unit") or ""
    if bounds and value is not None and not bounds[0] <= value <= bounds[1]:
        raise ConfigError(f"{where} is {value}, allowed: {bounds[0]} to {bounds[1]} {unit}".rstrip())
    if choices and value is not None and value not in choices:
        raise ConfigError(f"{where} is '{value}', allowed: {', '.join(choices)}")


def _is_instance(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_is_instance(value, h) for h in typing.get_args(hint))
    if origin in (list, tuple):
        return isinstance(value, (list, tuple)) and _are_instances(value, typing.get_args(hint))
    if origin is dict:
        return isinstance(value, dict)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return hint is Any or isinstance(value, hint)


def _are_instances(values: Sequence[Any], hints: tuple[Any, ...]) -> bool:
    """Whether each entry is of its type: of the one that is given, or of its own in a tuple of so many."""
    if len(hints) == 1 or hints[1:] == (Ellipsis,):
        return all(_is_instance(value, hints[0]) for value in values)
    return len(values) == len(hints) and all(map(_is_instance, values, hints))


def _is_power(value: Any, hint: Any) -> bool:
    """Whether a text is a number as 1e-3 where one belongs."""
    wanted = not _is_instance(value, hint) and _is_instance(0.5, hint)
    return wanted and isinstance(value, str) and bool(_POWER.fullmatch(value))


def _type_name(hint: Any) -> str:
    whole = typing.get_args(hint) or not hasattr(hint, "__name__")
    return str(hint).replace("typing.", "") if whole else str(hint.__name__)


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
    """Return settings with some changed, in the order given; `schedule.every` is the field `every` of the mapping `schedule`.

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


def read_mapping(cls: type[T], mapping: Any, where: str) -> T:
    """Make `cls` from a mapping, checking keys and types all the way down.

    Args:
        cls: A dataclass; a field without default is required. Fields may be str, int, float, bool, dict, tuples of
            these, optional ones, or dataclasses again.
        mapping: What the YAML file held.
        where: What to call it in messages ("model.yaml").

    Raises:
        PackageError: A key is missing or unknown, or a value has the wrong type; names the key.
    """
    if not isinstance(mapping, dict):
        raise PackageError(f"{where} is {_kind(mapping)}, expected keys and values")
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    hidden = {name for name, f in fields.items() if f.metadata.get("hidden")}
    unknown = sorted(str(key) for key in mapping if key not in fields or key in hidden)
    if unknown:
        raise PackageError(f"{where} has the unknown key '{reprlib.repr(unknown[0])[1:-1]}'")
    missing = [name for name, f in fields.items() if name not in mapping and _required(f)]
    if missing:
        raise PackageError(f"{where} lacks the key '{missing[0]}'")
    hints = typing.get_type_hints(cls)
    return cls(**{name: _typed_value(hints[name], value, f"{where}: {name}") for name, value in mapping.items()})


def plain(value: Any) -> Any:
    """Return the reverse of `read`: dataclasses become mappings, tuples lists, ready for YAML; hidden fields are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [f.name for f in dataclasses.fields(value) if not f.metadata.get("hidden")]
        return {name: plain(getattr(value, name)) for name in fields}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    return value


def _required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _typed_value(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in typing.get_args(hint):
            return None
        return _typed_value(next(h for h in typing.get_args(hint) if h is not type(None)), value, where)
    if dataclasses.is_dataclass(hint):
        return read_mapping(hint, value, where)  # type: ignore[arg-type]
    if origin is tuple:
        if not isinstance(value, list):
            raise PackageError(f"{where} is {_kind(value)}, expected a list")
        return tuple(_typed_value(typing.get_args(hint)[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict or hint is dict:
        return dict(_checked(dict, value, where))
    return _checked(hint, value, where)


def _checked(hint: type, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise PackageError(f"{where} is {_kind(value)}, expected {_WORDS[hint]}")
    if isinstance(value, float) and not math.isfinite(value):
        raise PackageError(f"{where} is {value}, expected a finite number")
    return value


_WORDS: dict[type, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "keys and values",
}


def _kind(value: Any) -> str:
    """Return a short description of what stands there; never prints a hostile file's megabytes."""
    if value is None:
        return "empty"
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "keys and values"
    return reprlib.repr(value)
