"""Message definitions for a bag: as installed, else from this repository, else those that `rosbags` brings."""

import os
import re
from functools import cache
from pathlib import Path
from typing import Any

from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from actrec.errors import InputError

_SOURCES = Path(__file__).resolve().parents[2] / "ros2_ws" / "src"


def typestore_with(*names: str) -> Any:
    """A `rosbags` typestore that knows these message types ("sensor_msgs/msg/Image") and all that they are made of.

    Raises:
        InputError: A type is found nowhere; says where was looked.
    """
    known: dict[str, Any] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in known:
            continue
        found = _definition(name)
        known.update(found)
        waiting += [other for other in _members(found) if other not in known]
    store = get_typestore(Stores.EMPTY)
    store.register(known)
    return store


@cache
def _definition(name: str) -> dict[str, Any]:
    package, _, message = name.split("/")
    folders = [
        Path(prefix) / "share" / package for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(":") if prefix
    ]
    for folder in [*folders, _SOURCES / package]:
        file = folder / "msg" / f"{message}.msg"
        if file.is_file():
            return get_types_from_msg(file.read_text(), name)
    store = get_typestore(Stores.ROS2_HUMBLE)
    if name in store.fielddefs:
        return {name: store.fielddefs[name]}
    raise InputError(
        f"the definition of {name} is found neither under AMENT_PREFIX_PATH nor in {_SOURCES}: "
        f"source the workspace that builds {package}"
    )


def _members(definitions: dict[str, Any]) -> set[str]:
    """Message types named anywhere in these definitions."""
    return set(re.findall(r"'(\w+/msg/\w+)'", repr(list(definitions.values()))))
