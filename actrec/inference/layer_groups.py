"""Groups of a network's layers, named as people name them: "bones/blocks.3"."""

import re

_LEVELS = 2
_STREAM = re.compile(r"stream_\d+")
"""What comes first in the names of one of several networks that are one graph (`actrec export --fuse`)."""


def group_of(node: str) -> str:
    """The group of an ONNX node, by the module that it was written from: its first two levels below the network.

    `/network/bones/blocks/blocks.3/attention/MatMul` is of "bones/blocks.3"; a name without a module is its own group.
    Of networks that were fused, the network comes first: "stream_1/bones/blocks.3".
    """
    parts = [part for part in node.split("/") if part]
    streams = 0
    while streams < len(parts) - 1 and _STREAM.fullmatch(parts[streams]):
        streams += 1
    before, parts, own = parts[:streams], parts[streams:-1], parts[-1:]
    if parts and parts[0] == "network":
        parts = parts[1:]
    # A list of modules and the module in it: blocks, blocks.3.
    inner = [*parts[1:], ""]
    nested = [part for part, next_one in zip(parts, inner, strict=False) if not next_one.startswith(f"{part}.")]
    return "/".join([*before, *(nested[:_LEVELS] or own)]) or node


def is_kept(node: str, kept: tuple[str, ...]) -> bool:
    """Whether a node belongs to one of these groups, or to one of the modules within or above them."""
    group = group_of(node)
    return any(group == name or group.startswith(f"{name}/") for name in kept)
