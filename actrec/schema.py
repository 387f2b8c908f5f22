"""Reads plain mappings (from YAML) into frozen dataclasses, refusing whatever the dataclass does not state."""

import dataclasses
import math
import reprlib
import types
import typing
from typing import Any, TypeVar

from actrec.errors import PackageError

T = TypeVar("T")


def read(cls: type[T], mapping: Any, where: str) -> T:
    """Makes `cls` from a mapping, checking keys and types all the way down.

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
    return cls(**{name: _value(hints[name], value, f"{where}: {name}") for name, value in mapping.items()})


def plain(value: Any) -> Any:
    """The reverse of `read`: dataclasses become mappings, tuples lists, ready for YAML; hidden fields are left out."""
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


def _value(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in typing.get_args(hint):
            return None
        return _value(next(h for h in typing.get_args(hint) if h is not type(None)), value, where)
    if dataclasses.is_dataclass(hint):
        return read(hint, value, where)  # type: ignore[arg-type]
    if origin is tuple:
        if not isinstance(value, list):
            raise PackageError(f"{where} is {_kind(value)}, expected a list")
        return tuple(_value(typing.get_args(hint)[0], item, f"{where}[{i}]") for i, item in enumerate(value))
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
    """A short description of what stands there; never prints a hostile file's megabytes."""
    if value is None:
        return "empty"
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "keys and values"
    return reprlib.repr(value)
