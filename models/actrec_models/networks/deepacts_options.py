"""Options and inputs of the DeepActsNet family, and the rows of its paper's tables that they reproduce."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from actrec.config import setting
from actrec.errors import ConfigError
from actrec.features import feature
from actrec.features.skeleton import OF_A_HAND
from actrec.package import InputSpec
from actrec.skeleton import layouts


@dataclass(frozen=True)
class Joints:
    """What a modality is made of: so many sets of a layout's joints, in a unit."""

    layout: str
    sets: int
    unit: str

    def __len__(self) -> int:
        """N, the nodes of the modality's graph."""
        return self.sets * len(layouts.get(self.layout))


MODALITIES = {
    "body": Joints("kinect_v2_25", 1, "m"),
    "bones": Joints("kinect_v2_25", 1, "m"),
    "hands": Joints("hand_21", 2, "px"),
    "face": Joints("face_68", 1, "px"),
    "motion": Joints("kinect_v2_25", 1, "px/s"),
}
"""The five parts of Deep Action Stamps (Fig. 2 A, C, B, D, E): N = 25, 25, 42, 68, 25."""

MOVED = {name: Joints("kinect_v2_25", 1, "m") for name in ("body_motion", "bones_motion")}
"""Beyond the paper, for the graph network and HCN: what each joint and bone has moved since the frame before."""

HAND_MODALITIES = ("body", "bones", *MOVED)
"""Those that a clip of a hand has."""

PICTURE_NETWORKS = ("efficientnet_b0", "resnet50")


@dataclass(frozen=True)
class DeepActsOptions:
    """Options that all of the family have."""

    num_classes: int = setting(60, "classes", range=(1, 100_000))
    modalities: tuple[str, ...] = setting(
        tuple(MODALITIES),
        f"branches, one a modality: {', '.join(MODALITIES)}; beyond the paper, of joints alone, {', '.join(MOVED)}",
    )
    frames: int = setting(60, "T, frames of a clip (200 on SYSU)", range=(1, 1000))
    bodies: int = setting(1, "M, bodies of a clip, averaged", range=(1, 8))
    layout: str = setting(
        "kinect_v2_25",
        "joints of body and bones: 25 of a body, or, beyond the paper and with no other modality, 22 of a hand",
        choices=("kinect_v2_25", "hand_22"),
    )


@dataclass(frozen=True)
class DeepActsGraphConfig(DeepActsOptions):
    """Options of `deepacts_graph`; the defaults are the paper's."""

    width: int = setting(64, "channels of the first block", range=(4, 512))
    kernel: int = setting(9, "temporal kernel of a block, odd", range=(1, 31))
    padding: str = setting(
        "same",
        "of the temporal convolutions; none: as streaming has it, with no zeros beyond the clip",
        choices=("same", "none"),
    )
    dropout: float = setting(0.0, "in each block of the graph network", range=(0.0, 0.9))


@dataclass(frozen=True)
class CnnOptions(DeepActsOptions):
    """Options of the convolutional branches."""

    size: int = setting(224, "width and height of a stamp", unit="px", range=(32, 1024))
    cnn_width: float = setting(1.0, "multiple of the convolutional networks' published channels", range=(0.05, 4.0))
    cnn_depth: float = setting(1.0, "multiple of their published blocks a stage; HCN has none", range=(0.05, 4.0))
    cnn_dropout: float | None = setting(
        None, "in the convolutional networks; none: as each was published (0.2, 0, HCN 0.5)", range=(0.0, 0.9)
    )
    extrema: dict = setting({}, "modality to [c_min, c_max] of Eq. 1; see actrec.features.stamps.extrema")


@dataclass(frozen=True)
class DeepActsCnnConfig(CnnOptions):
    """Options of `deepacts_cnn`; the defaults are the paper's."""

    cnn: str = setting(
        "efficientnet_b0", "the branches' network: on stamps, or HCN on joints", choices=(*PICTURE_NETWORKS, "hcn")
    )


@dataclass(frozen=True)
class DeepActsConfig(DeepActsCnnConfig, DeepActsGraphConfig):
    """Options of `deepacts`; the defaults are the paper's."""


@dataclass(frozen=True)
class DeepActsMultiConfig(CnnOptions, DeepActsGraphConfig):
    """Options of `deepacts_multi`; the defaults are the paper's."""

    cnns: tuple[str, ...] = setting(PICTURE_NETWORKS, f"networks on stamps: {', '.join(PICTURE_NETWORKS)}")


def check_choice(name: str, chosen: tuple[str, ...] | list[str], known: tuple[str, ...]) -> None:
    """Refuses an empty choice, an unknown one and a repeated one.

    Raises:
        ConfigError: The option and what it may hold are named.
    """
    if not chosen or not set(chosen) <= set(known) or len(set(chosen)) < len(chosen):
        raise ConfigError(f"{name} is {', '.join(chosen) or 'empty'}; choose from {', '.join(known)}, each once")


def joints_of(options: DeepActsOptions, modality: str) -> Joints:
    """What a modality is made of.

    Raises:
        ConfigError: A clip of a hand does not have it.
    """
    joints = {**MODALITIES, **MOVED}[modality]
    if options.layout == "kinect_v2_25":
        return joints
    if modality not in HAND_MODALITIES:
        raise ConfigError(f"a clip of {options.layout} has no {modality}: set modalities to [body, bones]")
    return dataclasses.replace(joints, layout=options.layout)


def graph_specs(options: DeepActsOptions) -> list[InputSpec]:
    """An input (M, 3, T, N) a modality: joints over time, as the graph network and HCN take them.

    Raises:
        ConfigError: The network is to run frame by frame, and a modality needs two.
    """
    shape = (options.bodies, 3, options.frames)
    streamed = isinstance(options, DeepActsGraphConfig) and options.padding == "none"
    if streamed and (moved := [name for name in options.modalities if name in MOVED]):
        raise ConfigError(f"padding none is for one frame at a time, and {moved[0]} needs two: choose padding same")
    return [
        _spec(
            name,
            joints_of(options, name),
            (*shape, len(joints_of(options, name))),
            {"placing": "running"} if streamed and name in ("body", "bones") else {},
        )
        for name in options.modalities
    ]


def stamp_specs(options: CnnOptions) -> list[InputSpec]:
    """A Deep Action Stamp (M, 3, size, size) a modality, with Eq. 1's extrema in its preprocessing.

    Raises:
        ConfigError: `extrema` names an unknown modality, or is not a pair in order; a modality has no stamp.
    """
    if moved := [name for name in options.modalities if name in MOVED]:
        raise ConfigError(f"there is no stamp of {moved[0]}: choose from {', '.join(MODALITIES)}, or cnn: hcn")
    foreign = sorted(set(options.extrema) - set(MODALITIES))
    if foreign:
        raise ConfigError(f"extrema names {', '.join(map(str, foreign))}; known: {', '.join(MODALITIES)}")
    shape = (options.bodies, 3, options.size, options.size)
    return [
        _spec(f"{name}_stamp", joints_of(options, name), shape, {"frames": options.frames, **_extrema(options, name)})
        for name in options.modalities
    ]


def _extrema(options: CnnOptions, name: str) -> dict[str, float]:
    if name not in options.extrema:
        return {}
    try:
        low, high = (float(value) for value in options.extrema[name])
    except (TypeError, ValueError):
        low = high = 0.0
    if not low < high:
        raise ConfigError(f"extrema: {name} is {options.extrema[name]}, expected [c_min, c_max], the lesser first")
    return {"minimum": low, "maximum": high}


def _spec(modality: str, joints: Joints, shape: tuple[int, ...], preprocessing: dict[str, Any]) -> InputSpec:
    hand = OF_A_HAND if joints.layout == "hand_22" else {}
    chosen = dataclasses.asdict(feature(modality).config_class(**hand, **preprocessing))
    return InputSpec(modality, modality, joints.layout, shape, unit=joints.unit, preprocessing=chosen)


_BODY, _BODY_FACE_HANDS = ("body",), ("body", "hands", "face")
TABLE_ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "1, HCN, body": ("deepacts_cnn", {"cnn": "hcn", "modalities": _BODY}),
    "1, ResNet50, body": ("deepacts_cnn", {"cnn": "resnet50", "modalities": _BODY}),
    "1, EfficientNet, body": ("deepacts_cnn", {"modalities": _BODY}),
    "1, ST-GCN, body": ("deepacts_graph", {"modalities": _BODY}),
    "1, HCN, DeepActs": ("deepacts_cnn", {"cnn": "hcn"}),
    "1, ResNet50, DeepActs": ("deepacts_cnn", {"cnn": "resnet50"}),
    "1, EfficientNet, DeepActs": ("deepacts_cnn", {}),
    "1, ST-GCN, DeepActs": ("deepacts_graph", {}),
    "2, A": ("deepacts", {"modalities": _BODY}),
    "2, B": ("deepacts", {"modalities": _BODY_FACE_HANDS}),
    "2, C": ("deepacts", {"modalities": (*_BODY_FACE_HANDS, "motion")}),
    "2, D": ("deepacts", {"modalities": tuple(MODALITIES)}),
    "2, E": ("deepacts_graph", {}),
    "2, F": ("deepacts_cnn", {}),
    "2, G": ("deepacts", {}),
    "2, H": ("deepacts_multi", {}),
}
"""Row of the paper's Tables 1 and 2 to the network and the options that reproduce it."""
