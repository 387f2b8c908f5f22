"""Typed settings: a frozen dataclass per component is the only place where a default lives."""

import dataclasses
import re
import types
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

from actrec.errors import ConfigError

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
    """A dataclass field that carries what a person and a ROS parameter need to know of it.

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
    """Makes a validated `config_class` from a plain dictionary.

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
    """Checks each field of a settings dataclass against its type, range and choices.

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
