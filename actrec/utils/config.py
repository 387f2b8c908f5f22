"""Typed settings: a frozen dataclass per component is the only place where a default lives."""

import dataclasses
import difflib
import math
import re
import reprlib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import yaml
from yaml.composer import ComposerError

from actrec.utils.errors import ActrecError, ConfigError, PackageError

T = TypeVar("T")

MAX_ALIASED = 100_000
"""Values that the aliases of a YAML file may add to the ones written in it."""

_SCIENTIFIC = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")
_LEADING_ZERO = re.compile(r"0\d+")
_QUOTED_STARTS = ('"', "'", "[", "{")  # of YAML's quoted strings, lists and mappings
_WORDS: dict[Any, str] = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "keys and values",
    list: "a list",
    tuple: "a list",
    type(None): "null",
}


class BoundedLoader(yaml.SafeLoader):
    """Safe, and refuses a short file whose aliases stand for very many values, with which working would never end."""

    def get_single_node(self) -> yaml.Node | None:
        """Return the content, before mappings are merged and values are made."""
        node = super().get_single_node()
        if node is not None:
            sizes: dict[int, int] = {}
            if _size(node, sizes) - len(sizes) > MAX_ALIASED:
                raise ComposerError(problem=f"its aliases add more than {MAX_ALIASED:,} values: write them out")
        return node


def _size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Return the number of values in a node with all aliases written out; `sizes` has the nodes that were counted."""
    if (known := sizes.get(id(node))) is not None:
        if not known:
            raise ComposerError(problem="an alias stands for a value around it: write the value out")
        return known
    total, sizes[id(node)] = 1, 0  # 0: counting
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            total += _size(item, sizes)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            total += _size(key, sizes) + _size(value, sizes)
    sizes[id(node)] = total
    return total


def parse_yaml(content: str | bytes, loader: type[BoundedLoader] = BoundedLoader) -> Any:
    """Return the value of YAML; raise YAMLError, ValueError or RecursionError, the latter two for impossible values."""
    return yaml.load(content, loader)


def setting(
    default: Any,
    description: str,
    *,
    unit: str = "",
    range: tuple[float, float] | None = None,
    choices: tuple[str, ...] | None = None,
    read_only: bool = False,
) -> Any:
    """Return a dataclass field with the metadata of a ROS parameter and of `--help`; `range` includes its bounds.

    A `read_only` parameter is set when its node starts, and cannot be changed later.
    """
    metadata = {"description": description, "unit": unit, "range": range, "choices": choices, "read_only": read_only}
    if isinstance(default, (list, dict, set)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def build(config_class: type[T], options: dict[str, Any] | None = None) -> T:
    """Make a validated `config_class`; raise ConfigError if an option is unknown, mistyped or out of range."""
    options = dict(options or {})
    hints = _hints(config_class)
    if unknown := sorted(str(name) for name in options if name not in hints):
        known = ", ".join(sorted(hints))
        raise ConfigError(f"unknown option {', '.join(unknown)} of {config_class.__name__}; known: {known}")
    for name, value in options.items():
        if dataclasses.is_dataclass(hints[name]) and isinstance(value, Mapping):
            options[name] = build(hints[name], dict(value))
        elif hints[name] is str and type(value) is int:  # YAML and shells read a serial number as a number
            options[name] = str(value)
        elif hints[name] is float and type(value) is int:
            options[name] = float(value)
        elif isinstance(value, str) and _SCIENTIFIC.fullmatch(value) and not _fits(hints[name], value):
            options[name] = float(value) if _fits(hints[name], 0.5) else value  # YAML reads 1e-3 as a string
    config = config_class(**options)
    validate(config)
    return config


def check_names(options: dict[str, Any], reserved: tuple[str, ...], source: str) -> None:
    """Raise ConfigError if a name of the options `source` ("dataset_options") is not a string, or is reserved."""
    for name in options:
        if not isinstance(name, str):
            raise ConfigError(f"{source} has the name {name!r}, expected a string")
        if name in reserved:
            raise ConfigError(f"{source} cannot set '{name}', which has an option of its own")


def validate(config: Any) -> None:
    """Raise ConfigError if a field of a settings dataclass does not fit its type, range or choices."""
    for field in dataclasses.fields(config):
        value, hint = getattr(config, field.name), _hints(type(config))[field.name]
        where = f"{type(config).__name__}.{field.name}"
        _convert(hint, value, where, ConfigError)
        if dataclasses.is_dataclass(hint):
            validate(value)
        bounds, choices = field.metadata.get("range"), field.metadata.get("choices")
        if bounds and value is not None and not bounds[0] <= value <= bounds[1]:
            unit = field.metadata.get("unit") or ""
            raise ConfigError(f"{where} is {value}, allowed: {bounds[0]} to {bounds[1]} {unit}".rstrip())
        if choices and value is not None and value not in choices:
            raise ConfigError(f"{where} is '{value}', allowed: {', '.join(choices)}")


def parse_pairs(pairs: Iterable[str], kind: str) -> dict[str, Any]:
    """Return KEY=VALUE words as settings; a value is read as YAML, an empty one is an empty string.

    Without quotes or brackets, only numbers, switches and `null` are converted. YAML would cut "run #3" short and read
    "a: b" as a mapping, 2026-11-22 as a date, 2026_11_22 as a number, and a serial number with a leading 0 in base 8.

    Raise ConfigError, which calls a word `kind` ("driver option"), if it is not KEY=VALUE or its value is not YAML.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise ConfigError(f"{kind} is '{pair}', expected KEY=VALUE")
        settings.pop(key, None)  # the last of two values wins, in its position
        try:
            settings[key] = _parse_value(value)
        except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: 2024-13-45, which looks like a date
            raise ConfigError(f"{kind} '{pair}': the value cannot be read as YAML; quote it") from error
    return settings


def merge_settings(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of `settings` with `changes`; `schedule.every` is the field `every` of the mapping `schedule`.

    Raise ConfigError if a dotted name goes through a value that is not a mapping.
    """
    result = dict(settings)
    for name, value in changes.items():
        *outer, last = name.split(".")
        inner, path = result, ""
        for part in outer:
            path = f"{path}.{part}".strip(".")
            current = inner.get(part, {})
            if not isinstance(current, Mapping):
                raise ConfigError(f"{name} cannot be set: {path} is {current!r}, no mapping; set it as a whole")
            inner[part] = dict(current)
            inner = inner[part]
        inner[last] = value
    return result


def read_mapping(cls: type[T], mapping: Any, where: str) -> T:
    """Make `cls` from a mapping, checking keys and types of nested dataclasses too.

    Fields may be str, int, float, bool, dict, tuples of these, optional ones, or dataclasses again. Raise PackageError,
    which names `where` ("model.yaml"), if a key is missing or unknown, or a value has the wrong type.
    """
    if not isinstance(mapping, dict):
        raise PackageError(f"{where} is {_describe(mapping)}, expected keys and values")
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    hidden = {name for name, f in fields.items() if f.metadata.get("hidden")}
    unknown = sorted(str(key) for key in mapping if key not in fields or key in hidden)
    if unknown:
        similar = difflib.get_close_matches(unknown[0], set(fields) - hidden, n=1)
        hint = f"; did you mean '{similar[0]}'?" if similar else ""
        raise PackageError(f"{where} has the unknown key '{reprlib.repr(unknown[0])[1:-1]}'{hint}")
    for name, field in fields.items():
        if name not in mapping and field.default is field.default_factory is dataclasses.MISSING:
            raise PackageError(f"{where} lacks the key '{name}'")
    hints = _hints(cls)
    return cls(
        **{name: _convert(hints[name], value, f"{where}: {name}", PackageError) for name, value in mapping.items()}
    )


def to_plain(value: Any) -> Any:
    """Turn dataclasses into mappings and tuples into lists, ready for YAML; hidden fields are skipped."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [f.name for f in dataclasses.fields(value) if not f.metadata.get("hidden")]
        return {name: to_plain(getattr(value, name)) for name in fields}
    if isinstance(value, (tuple, list)):
        return [to_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    return value


_cached_hints: dict[Any, dict[str, Any]] = {}


def _hints(config_class: Any) -> dict[str, Any]:
    """Return the types of the fields; cached, since features are configured for every clip."""
    if config_class not in _cached_hints:
        hints = typing.get_type_hints(config_class)
        _cached_hints[config_class] = {field.name: hints[field.name] for field in dataclasses.fields(config_class)}
    return _cached_hints[config_class]


def _parse_value(text: str) -> Any:
    if not text or _LEADING_ZERO.fullmatch(text):
        return text
    value = parse_yaml(text)
    if text.startswith(_QUOTED_STARTS):
        return value
    converted = value is None or isinstance(value, (bool, int, float))
    return value if converted and not set(text) & set("_:#") else text


def _fits(hint: Any, value: Any) -> bool:
    try:
        _convert(hint, value, "", ConfigError)
    except ConfigError:
        return False
    return True


def _convert(hint: Any, value: Any, where: str, error: type[ActrecError]) -> Any:
    """Return `value` as the type `hint`: whole numbers as float, lists as tuples, mappings as dataclasses."""
    origin, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        options = [option for option in inner if option is not type(None)]
        if len(options) == 1:
            return _convert(options[0], value, where, error)
        if any(_fits(option, value) for option in options):
            return value
        raise error(f"{where} is {_describe(value)}, expected {' or '.join(map(_name, options))}")
    if dataclasses.is_dataclass(hint) and not isinstance(value, hint):  # type: ignore[arg-type]
        return read_mapping(hint, value, where)  # type: ignore[arg-type]
    if origin in (tuple, list) and isinstance(value, (tuple, list)):
        same_type = origin is list or not inner or inner[1:] == (...,)
        hints = (inner[:1] or (Any,)) * len(value) if same_type else inner
        if len(hints) != len(value):
            raise error(f"{where} has {len(value)} entries, expected {len(hints)}")
        return origin(_convert(h, v, f"{where}[{i}]", error) for i, (h, v) in enumerate(zip(hints, value, strict=True)))
    if origin is float and type(value) is int:
        value = float(value)
    if not isinstance(value, origin) or (isinstance(value, bool) and origin is not bool):
        raise error(f"{where} is {_describe(value)}, expected {_name(hint)}")
    if error is PackageError and isinstance(value, float) and not math.isfinite(value):
        raise error(f"{where} is {value}, expected a finite number")
    return value


def _name(hint: Any) -> str:
    return _WORDS.get(typing.get_origin(hint) or hint, str(hint))


def _describe(value: Any) -> str:
    """Return a short description of a value; never megabytes of a hostile file."""
    if value is None:
        return "empty"
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "keys and values"
    return reprlib.repr(value)
