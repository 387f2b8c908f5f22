"""ROS parameters from the fields of a settings dataclass: name, default, description, range and unit."""

import dataclasses
import types
import typing
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from actrec.utils import config
from actrec.utils.errors import ConfigError

T = TypeVar("T")

_PROBLEMS: "WeakKeyDictionary[Node, dict[str, tuple[str, Parameter]]]" = WeakKeyDictionary()
"""By node and parameter: the message for an invalid start value, and the value used instead.

Kept over all transitions, because each `configure` declares a driver's or a backend's settings again.
"""


class Parameters(Generic[T]):
    """The parameters of one settings dataclass, declared on a node.

    `read` reports a value of a wrong type in a parameter file, so that the node fails to configure with one line until
    it is corrected with `ros2 param set`.

    Args:
        node: The node.
        config_class: Frozen dataclass whose fields are made by `setting`. Fields that are dictionaries
            have no ROS type and keep their default; fields that are settings dataclasses are declared as `field.name`.
        prefix: Prefix of each name, without its dot.
    """

    def __init__(self, node: Node, config_class: type[T], prefix: str = ""):
        self._node, self._class, self._prefix = node, config_class, prefix
        self._hints = typing.get_type_hints(config_class)
        self._problems = _PROBLEMS.setdefault(node, {})
        self._nested: dict[str, Parameters[Any]] = {}
        self._fields = []
        for field in dataclasses.fields(config_class):  # type: ignore[arg-type]
            hint = self._hints[field.name]
            if dataclasses.is_dataclass(hint):
                self._nested[field.name] = Parameters(node, hint, self.name(field.name))  # type: ignore[arg-type]
            elif dict not in (hint, typing.get_origin(hint)):
                self._fields.append(field)
                self._declare(field)

    def name(self, field: str) -> str:
        """Return the full parameter name of a field."""
        return f"{self._prefix}.{field}" if self._prefix else field

    def read(self) -> T:
        """Return the current values, validated.

        Raises:
            ConfigError: A value is of the wrong type or out of range; the message names both.
        """
        self._check_names()
        values = {field.name: self._value(field) for field in self._fields}
        values.update({name: nested.read() for name, nested in self._nested.items()})
        try:
            return config.build(self._class, values)
        except ConfigError as error:
            # The dataclass's name means nothing to the author of the parameter file.
            line = str(error).replace(self._class.__name__ + ".", self.name(""), 1)
            raise ConfigError(f"parameter {line}") from error

    def _check_names(self) -> None:
        """Refuse undeclared parameters under our own prefix: ROS ignores them, but here they are typing errors."""
        if not self._prefix:
            return
        known = {self.name(field) for field in self._hints}
        for name in getattr(self._node, "_parameter_overrides", {}):
            inside = any(name.startswith(f"{self.name(field)}.") for field in self._nested)
            if name.startswith(f"{self._prefix}.") and name not in known and not inside:
                raise ConfigError(f"unknown parameter {name}; known: {', '.join(sorted(known))}")

    def _declare(self, field: "dataclasses.Field[Any]") -> None:
        name, hint = self.name(field.name), self._hints[field.name]
        if self._node.has_parameter(name):
            return
        default = _default(field)
        descriptor = _descriptor(field, hint, default)
        override = getattr(self._node, "_parameter_overrides", {}).get(name)
        # In a parameter file 30 may mean 30.0 or a serial number, which rcl refuses.
        whole = override is not None and type(default) in (float, str) and override.type_ == Parameter.Type.INTEGER
        try:
            value = type(default)(override.value) if override is not None and whole else default
            self._node.declare_parameter(name, value, descriptor, ignore_override=whole)
        except (InvalidParameterTypeException, InvalidParameterValueException):
            given = repr(override.value) if override is not None else "unreadable"
            self._node.declare_parameter(name, default, descriptor, ignore_override=True)
            line = f"parameter {name} is {given}, {_allowed(field, hint)}"
            self._problems[name] = line, self._node.get_parameter(name)

    def _value(self, field: "dataclasses.Field[Any]") -> Any:
        name, hint = self.name(field.name), self._hints[field.name]
        parameter = self._node.get_parameter(name)
        value = parameter.value
        problem, instead = self._problems.get(name, ("", None))
        # `ros2 param set` makes another object, even with the same value; Humble has no callback after a change.
        if parameter is instead:
            raise ConfigError(problem)
        if value is None and type(None) in typing.get_args(hint):
            return None
        kind = typing.get_origin(hint) or hint
        if kind in (tuple, list) and isinstance(value, str):
            return kind([value])
        return kind(value or ()) if kind in (tuple, list) else value


def as_options(settings: Any) -> dict[str, Any]:
    """Return the fields of a settings dataclass as keyword arguments, nested dataclasses as they are."""
    return {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}


def _default(field: "dataclasses.Field[Any]") -> Any:
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    return list(value) if isinstance(value, tuple) else value


def _descriptor(field: "dataclasses.Field[Any]", hint: Any, default: Any) -> ParameterDescriptor:
    metadata = field.metadata
    unit = f" [{metadata['unit']}]" if metadata.get("unit") else ""
    descriptor = ParameterDescriptor(description=f"{metadata.get('description', '')}{unit}")
    descriptor.read_only = bool(metadata.get("read_only"))
    if metadata.get("choices"):
        descriptor.additional_constraints = f"one of: {', '.join(metadata['choices'])}"
    # ROS has no type for None or an empty list; `read` checks such values.
    descriptor.dynamic_typing = (
        default is None or default == [] or typing.get_origin(hint) in (typing.Union, types.UnionType)
    )
    bounds = metadata.get("range")
    if bounds and isinstance(default, float):
        descriptor.floating_point_range = [FloatingPointRange(from_value=float(bounds[0]), to_value=float(bounds[1]))]
    elif bounds and isinstance(default, int):
        descriptor.integer_range = [IntegerRange(from_value=int(bounds[0]), to_value=int(bounds[1]))]
    return descriptor


def _allowed(field: "dataclasses.Field[Any]", hint: Any) -> str:
    bounds, unit = field.metadata.get("range"), field.metadata.get("unit") or ""
    expected = getattr(hint, "__name__", str(hint))
    return f"allowed: {expected} in {bounds[0]} to {bounds[1]} {unit}".rstrip() if bounds else f"expected {expected}"
