"""The networks by name."""

from typing import TYPE_CHECKING, Any

from actrec.registry import Registry

if TYPE_CHECKING:
    from torch import nn

NETWORKS = Registry(
    "network",
    {"deepacts_graph": "actrec_models.networks.deepacts:DeepActsGraph"},
    install={"torch": "pip install torch"},
)


def list_models() -> list[str]:
    """The names that `create` takes."""
    return NETWORKS.names()


def create(name: str, *, num_classes: int, **options: Any) -> "nn.Module":
    """The network `name` with `num_classes` outputs; `options` are the fields of its configuration.

    Raises:
        ConfigError: Unknown name or option; the known ones are listed.
    """
    return NETWORKS.create(name, num_classes=num_classes, **options)
