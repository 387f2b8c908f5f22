"""ROS parameter files that would do nothing: ROS passes over nodes that it does not know, without a word.

Imports no ROS, so that a launch file can call it.
"""

import difflib
import logging
import os
from collections.abc import Iterator
from typing import Any

import yaml

from actrec.errors import ConfigError
from actrec_nodes import graph

logger = logging.getLogger(__name__)

PARAMETERS = "ros__parameters"
_ALIKE = 0.8
"""How much of a name of ours another has, from which on it is taken for a mistyped one."""


def check(path: str) -> None:
    """Refuses a parameter file that sets nothing of any node of the graph. An empty one is let through.

    Beside a node of ours other people's may be named; one that is called almost as ours are is warned of.

    Raises:
        ConfigError: There is no such file, it is no YAML of nodes and their parameters, or it names other nodes alone.
    """
    if not os.path.isfile(path):
        raise ConfigError(f"there is no parameter file {path}")
    content = _read(path)
    if content is None:
        return
    named = list(_nodes(content))
    if not named:
        raise ConfigError(
            f"parameter file {path} sets no parameters, expected 'NODE: {{{PARAMETERS}: {{NAME: VALUE}}}}'"
        )
    ours = [spec.name for spec in graph.GRAPH]
    if not any(name in ours or "*" in name for name in named):
        raise ConfigError(f"parameter file {path} is for {', '.join(named)}; the nodes here are {', '.join(ours)}")
    for name in named:
        if name not in ours and (meant := difflib.get_close_matches(name, ours, 1, _ALIKE)):
            logger.warning("parameter file %s is for %s too, which is no node here: %s is", path, name, meant[0])


def _read(path: str) -> Any:
    try:
        with open(path, encoding="utf-8") as file:
            return yaml.safe_load(file)
    except OSError as error:
        raise ConfigError(f"cannot read parameter file {path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"parameter file {path} is not YAML: {str(error).splitlines()[0]}") from error


def _nodes(content: Any) -> Iterator[str]:
    """Names of the nodes that have parameters, without their namespaces, which are part of a key or keys above it."""
    for key, value in content.items() if isinstance(content, dict) else ():
        if isinstance(value, dict) and PARAMETERS in value:
            yield str(key).rsplit("/", 1)[-1]
        else:
            yield from _nodes(value)
