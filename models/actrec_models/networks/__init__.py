"""The networks by name, imported on first use; one file per paper, and `joint_tcn`."""

from typing import TYPE_CHECKING, Any

from actrec.utils.registry import Registry

if TYPE_CHECKING:
    from actrec_models.networks.base import Network

NETWORKS = Registry(
    "network",
    {
        "deepacts_cnn": "actrec_models.networks.deepacts:DeepActsCnn",
        "deepacts_graph": "actrec_models.networks.deepacts:DeepActsGraph",
        "deepacts": "actrec_models.networks.deepacts:DeepActs",
        "deepacts_multi": "actrec_models.networks.deepacts:DeepActsMulti",
        "res_tcn_bjcn": "actrec_models.networks.flow_skeleton:ResTcnBjcn",
        "c3d_flow": "actrec_models.networks.flow_skeleton:C3dFlow",
        "c3d_flow_at1": "actrec_models.networks.flow_skeleton:C3dFlowAt1",
        "c3d_flow_at2": "actrec_models.networks.flow_skeleton:C3dFlowAt2",
        "flow_skeleton": "actrec_models.networks.flow_skeleton:FlowSkeleton",
        "p_i3d": "actrec_models.networks.p_i3d:PI3d",
        "joint_tcn": "actrec_models.networks.joint_tcn:JointTcn",
        "sem_net": "actrec_models.networks.sem_net:SemNet",
        "spa_net_3p1d": "actrec_models.networks.spa_net:SpaNet3p1d",
        "spa_net_4d": "actrec_models.networks.spa_net:SpaNet4d",
        "sem_spa": "actrec_models.networks.spa_net:SemSpa",
        "vpn_i3d": "actrec_models.networks.vpn:VpnI3d",
        "vpn_resnext101": "actrec_models.networks.vpn:VpnResnext101",
    },
    install={"torch": "pip install torch"},
)

RESERVED = ("name", "num_classes")  # what `create` takes beside a network's own options


def list_models() -> list[str]:
    """Return the names that `create` takes."""
    return NETWORKS.names()


def create(name: str, *, num_classes: int, **options: Any) -> "Network":
    """Return the network `name` with `num_classes` outputs; `options` are the fields of its configuration.

    Raises:
        ConfigError: Unknown name or option; the known ones are listed.
    """
    return NETWORKS.create(name, num_classes=num_classes, **options)
