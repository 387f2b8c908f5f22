"""Recovery of unfinished and damaged bags."""

import itertools
from pathlib import Path
from typing import Any

from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.errors import WriterError
from rosbags.rosbag2.metadata import parse_qos
from rosbags.typesys import Stores, TypesysError, get_types_from_msg, get_typestore

from actrec.recordings import existing_path, log
from actrec.recordings.rosbag.bag_files import recorded_messages
from actrec.recordings.rosbag.bag_writer import METADATA_VERSION, typestore_with
from actrec.recordings.rosbag.mcap_file import Channel
from actrec.utils.errors import DeviceError, InputError
from actrec.utils.folders import expanded


def recover(path: str | Path, out: str | Path) -> dict[str, int]:
    """Copy every whole message of an unfinished or damaged bag, in one file or several, to a new, finished mcap.

    Returns:
        Number of recovered messages by topic.

    Raises:
        DeviceError: The bag does not exist, or `out` exists.
        InputError: It is no bag, or holds no message.
    """
    path = existing_path(path)
    messages = recorded_messages(path)
    first = next(messages, None)
    if first is None:
        raise InputError(f"'{path}' holds no whole message: nothing can be recovered")
    counts: dict[str, int] = {}
    connections: dict[Channel, Any] = {}
    try:
        with Writer(expanded(out), version=METADATA_VERSION, storage_plugin=StoragePlugin.MCAP) as writer:
            known: dict[tuple[str, str], Any] = {}  # the files of a bag declare the same topics
            for channel, stamp, raw in itertools.chain([first], messages):  # one by one: a bag may exceed the memory
                if channel not in connections:
                    key = channel.topic, channel.msgtype
                    known[key] = known[key] if key in known else _add_connection(writer, channel)
                    connections[channel] = known[key]
                if connections[channel] is not None:
                    writer.write(connections[channel], stamp, raw)
                    counts[channel.topic] = counts.get(channel.topic, 0) + 1
    except (WriterError, OSError) as error:
        raise DeviceError(f"cannot write the bag '{out}': {getattr(error, 'strerror', None) or error}") from error
    return counts


def _add_connection(writer: Writer, channel: Channel) -> Any:
    """Return the connection, or None, with a warning, if the messages are not of ROS 2 or have no known definition."""
    try:
        if channel.foreign:
            raise InputError("its messages are not of ROS 2")
        if channel.language == "ros2msg":
            store = get_typestore(Stores.EMPTY)
            store.register(get_types_from_msg(channel.definition, channel.msgtype))
        else:
            store = typestore_with(channel.msgtype)
        return writer.add_connection(
            channel.topic, channel.msgtype, typestore=store, offered_qos_profiles=parse_qos(channel.qos)
        )
    except (TypesysError, InputError) as error:
        log.warning("skipping %s: %s", channel, error or "its definition in the bag cannot be read")
        return None
