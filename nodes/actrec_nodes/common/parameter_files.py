"""Entries of ROS parameter files, and the nodes and parameters that they set: ROS ignores all others silently."""

import difflib
import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from actrec.utils import config, folders
from actrec.utils.errors import ConfigError

PARAMETERS = "ros__parameters"

_ALIKE = 0.8  # similarity to a known name above which another name may be a typing error
_LISTED = 25  # known names that fit a line

_FORM = f"'NODE: {{{PARAMETERS}: {{NAME: VALUE}}}}'"


class _Loader(config.BoundedLoader):
    """Safe, and reads the lists in the files that launch writes: it tags them as tuples, which ROS ignores."""

    def construct_tuple(self, node: yaml.SequenceNode) -> list[Any]:
        return self.construct_sequence(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:python/tuple", _Loader.construct_tuple)


def read(path: str) -> dict[str, dict[str, Any]]:
    """Return the parameters of a file by the full name of their node, which may have wildcards, as `/*/camera_node`.

    Raises:
        ConfigError: There is no such file, or it is no YAML of nodes and their parameters.
    """
    try:
        content = config.parse_yaml(folders.read_file(Path(path)), _Loader)
    except FileNotFoundError as error:
        raise ConfigError(f"there is no parameter file {path}") from error
    except OSError as error:
        raise ConfigError(f"cannot read parameter file {path}: {error.strerror}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"parameter file {path} is not YAML: {str(error).splitlines()[0]}") from error
    if content is not None and not isinstance(content, dict):
        raise ConfigError(f"parameter file {path} sets no parameters, expected {_FORM}")
    found: dict[str, dict[str, Any]] = {}
    for name, settings in _nodes(path, content or {}, ""):
        if any("*" in part and part not in ("*", "**") for part in name.split("/")):
            raise ConfigError(f"parameter file {path}: in {name}, write * or ** for a whole part of the name")
        found.setdefault(name, {}).update(settings)
    if content and not found:
        raise ConfigError(f"parameter file {path} sets no parameters, expected {_FORM}")
    return found


def rekeyed(path: str, namespace: str) -> str:
    """Return a file whose entries without a namespace are in `namespace` (full, or empty), as Nav2 re-keys its files.

    It is the same file if there is nothing to change; else a new one in the folder of temporary files.

    Raises:
        ConfigError: As `read`.
        DeviceError: No temporary file can be written.
    """
    entries = read(path)
    bare = {name for name in entries if name.count("/") == 1 and "*" not in name}
    if not namespace or not bare:
        return path
    # Entries with a namespace come later: they win, as the more special ones.
    content = {f"{namespace}{name}": {PARAMETERS: {**entries[name]}} for name in entries if name in bare}
    for name in (name for name in entries if name not in bare):
        content.setdefault(name, {PARAMETERS: {}})[PARAMETERS].update(entries[name])
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    number = hashlib.sha256(text.encode()).hexdigest()[:12]
    file = folders.temporary("parameters") / f"{Path(path).stem}_{number}.yaml"
    folders.write_file(file, text.encode())
    return str(file)


def _nodes(path: str, content: dict[Any, Any], above: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for key, value in content.items():
        name = f"{above}/{str(key).strip('/')}"
        if key == PARAMETERS and above:
            yield above, dict(_flat(value, "")) if isinstance(value, dict) else {}
        elif isinstance(value, dict):
            yield from _nodes(path, value, name)
        elif value is not None:
            *_, node, parameter = ("", *name.split("/"))
            if difflib.get_close_matches(node, [PARAMETERS], 1, _ALIKE):
                raise ConfigError(f"parameter file {path}: '{node}' must be '{PARAMETERS}'")
            raise ConfigError(
                f"parameter file {path} sets {parameter} without {PARAMETERS}, expected "
                f"'{node or 'NODE'}: {{{PARAMETERS}: {{{parameter}: …}}}}'"
            )


def _flat(settings: dict[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def fits(pattern: str, node: str) -> bool:
    """Return whether an entry fits a node, both full names: `*` is any one part of a name, `**` any number of parts."""
    parts = {"*": r"/\w+", "**": r"(/\w+)*"}
    regex = "".join(parts.get(part, f"/{re.escape(part)}") for part in pattern.strip("/").split("/"))
    return re.fullmatch(regex, node) is not None


def check(path: str, nodes: Sequence[str]) -> list[str]:
    """Return a line for each entry of a file that is meant for one of these nodes (full names), but does not fit it.

    Raises:
        ConfigError: The file cannot be read, or none of its entries fits any of the nodes; an empty file is accepted.
    """
    entries = read(path)
    useless = [name for name in entries if not any(fits(name, node) for node in nodes)]
    meant = {name: remedy for name in useless if (remedy := _remedy(name, nodes))}
    if entries and len(useless) == len(entries):
        remedy = "; ".join(dict.fromkeys(meant.values())) or "name one of these nodes, or /** for all"
        raise ConfigError(
            f"parameter file {path} has no effect: it is for {', '.join(entries)}, but the nodes here are "
            f"{', '.join(nodes)}: {remedy}"
        )
    return [f"parameter file {path}: its entry {name} fits no node: {remedy}" for name, remedy in meant.items()]


def _remedy(entry: str, nodes: Sequence[str]) -> str:
    """Return how to make an entry fit; empty if it is for another package's node."""
    *above, base = entry.strip("/").split("/")
    named = {node.rsplit("/", 1)[-1]: node for node in nodes}
    if base in named or "*" in base:
        namespace = "/" + "/".join(above)
        remedy = f"write '/**/{base}'" if base in named else "write '/**'"
        own = nodes[0].rsplit("/", 1)[0] or "/"
        if "*" not in namespace:
            remedy += f", or start in {namespace} (--ros-args -r __ns:={namespace}; launch: namespace:={namespace})"
        return f"it is for namespace {namespace}, the nodes are in {own}: {remedy}"
    alike = difflib.get_close_matches(base, list(named), 1, _ALIKE)
    return f"{base} is no node here, did you mean {named[alike[0]]}?" if alike else ""


def given(arguments: Sequence[str]) -> list[str]:
    """Return the parameter files of a command line."""
    return [value for option, value in itertools.pairwise(arguments) if option == "--params-file"]


def namespace(arguments: Sequence[str]) -> str:
    """Return the namespace that a command line remaps all nodes to, without the last slash; empty for the root."""
    found = [argument.split(":=", 1)[1] for argument in arguments if argument.startswith("__ns:=")]
    return "/" + found[-1].strip("/") if found and found[-1].strip("/") else ""


def value(arguments: Sequence[str], node: str, name: str) -> Any:
    """Return the last value of a node's parameter in ROS arguments and their parameter files; None if there is none."""
    found, full_name = None, f"{namespace(arguments)}/{node}"
    for option, text in itertools.pairwise(arguments):
        if option == "--params-file":
            for entry, settings in read(text).items():
                found = settings.get(name, found) if fits(entry, full_name) else found
        elif option in ("-p", "--param") and text.partition(":=")[0] in (name, f"{node}:{name}"):
            found = config.parse_yaml(text.partition(":=")[2])
    return found


def ineffective(files: Sequence[str], node: Any, others: Sequence[str]) -> list[str]:
    """Return a line for each entry of parameter files and each name that is meant for an rclpy node without effect.

    Entries for `others`, the names of the nodes of the graph, are ignored.
    """
    name = node.get_fully_qualified_name()
    lines = []
    for path in files:
        entries = read(path)
        effective = [entry for entry in entries if fits(entry, name)]
        meant = {entry: remedy for entry in entries if entry not in effective and (remedy := _remedy(entry, [name]))}
        file = f"parameter file {path}"
        lines += [f"{file}: its entry {entry} does not set {name}: {why}" for entry, why in meant.items()]
        if not effective and not meant and not any(entry.rsplit("/", 1)[-1] in others for entry in entries):
            lines.append(f"{file} sets nothing in {name}: it is for {', '.join(entries)}")
        for entry in effective:
            told = unknown(node, list(entries[entry]), everyone="*" in entry.rsplit("/", 1)[-1])
            lines += [f"{file}: {line}" for line in told]
    return lines


def unknown(node: Any, names: Sequence[str], everyone: bool) -> list[str]:
    """Return a line for each name that is no parameter of an rclpy node.

    With `everyone`, the names may be parameters of other nodes: only typing errors are returned.
    """
    hints = {name: unknown_name(name, sorted(node._parameters)) for name in names}
    return [
        f"{node.get_name()} has no parameter {name}, it is ignored{hint}"
        for name, hint in hints.items()
        if hint is not None and (not everyone or "did you mean" in hint)
    ]


def unknown_name(name: str, known: Sequence[str]) -> str | None:
    """Return a hint at the known parameters if a name is not one of them; None for a known one.

    The settings of drivers, methods and backends are declared later, and refused there.
    """
    from actrec import cameras, inference, scene_flow  # not needed by launch files

    later = [*cameras.DRIVERS.names(), *scene_flow.METHODS.names(), *inference.BACKENDS.names(), "qos_overrides"]
    prefix, dot, rest = name.partition(".")
    if name in known or (dot and prefix in later):
        return None
    if dot and (alike := difflib.get_close_matches(prefix, later, 1, _ALIKE)):
        return f"; did you mean {alike[0]}.{rest}?"
    alike = difflib.get_close_matches(name, known, 1, _ALIKE)
    listed = f"; known: {', '.join(known)}" if len(known) <= _LISTED else "; list the known ones with `ros2 param list`"
    return f"; did you mean {alike[0]}?" if alike else listed
