"""What a network attends to in one clip: the values that the figures of its paper show, read from its graph."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.spatial import procrustes

from actrec.explanation.inner_values import Graph
from actrec.features.scene_flow import first_visible_frame
from actrec.inference.package import ModelPackage
from actrec.types import Clip

LAYERS = 4  # BJCN-1 to BJCN-4, of which the informativeness of Eq. 2 is made
PLANES = 3
TOP_FILTERS = 6


@dataclass
class NetworkAttention:
    """Values of one clip; the ones that its network does not have are empty.

    Attributes:
        probabilities: [classes].
        parts: P-I3D's attention α of each part (Eq. 3).
        joints: [V] by name of the figure: informativeness (scene flow), or mean activation.
        over_time: [T, V] by name of the figure: activation of each joint over time.
        filters: [filters, V] responses of BJCN-1's strongest filters.
        pairs: [V, V] attention between joints by stream (SEM-Net); rows attend to columns.
        regions, steps: [m, n] and [t_c] spatial and temporal attention A_S and A_T (VPN).
        branches: Logits [classes] of each modality (DeepActsNet).
        embedding: [D] features from which the logits are made.
        dynamicity: Mean Procrustes distance between successive poses.
    """

    probabilities: np.ndarray
    parts: dict[str, float] = field(default_factory=dict)
    joints: dict[str, np.ndarray] = field(default_factory=dict)
    over_time: dict[str, np.ndarray] = field(default_factory=dict)
    filters: np.ndarray | None = None
    pairs: dict[str, np.ndarray] = field(default_factory=dict)
    regions: np.ndarray | None = None
    steps: np.ndarray | None = None
    branches: dict[str, np.ndarray] = field(default_factory=dict)
    embedding: np.ndarray | None = None
    dynamicity: float = float("nan")


class Reader:
    """Reads the evidence of clips from a network's graph.

    Args:
        package: The model's description.
        content: Its ONNX graph.
        where: The graph's path, for errors.

    Raises:
        MissingLibraryError, PackageError: As `Graph`.
    """

    def __init__(self, package: ModelPackage, content: bytes, where: str):
        self._package, self._graph = package, Graph(content, where)
        self._nodes = self._find()

    def _find(self) -> dict[str, str]:
        """Return the nodes to read, by key."""
        find, found = self._graph.find, dict[str, str]()

        def last(key: str, pattern: str) -> None:
            if names := find(pattern):
                found[key] = names[-1]

        last("alpha", "/network/attention/Softmax")
        last("A_S", "/network/vpn/attention/Sigmoid")
        last("A_T", "/network/vpn/attention/Softmax")
        last("graphs", "/network/vpn/attention/backbone/graphs/MatMul_1")
        last("points", r"/network(?:/spa)?/levels\.0\.\d+/Relu(?:_\d+)?")
        layers = [
            *find("/network/(?:skeleton/)?bjcn/first/filters/Conv"),
            *find(r"/network/(?:skeleton/)?bjcn/units\.[012]/Add"),
        ]
        found |= {f"bjcn_{number}": name for number, name in enumerate(layers)} if len(layers) == LAYERS else {}
        for name in find(r"/network/(?:\w+/)*blocks/blocks\.\d+/attention/Softmax"):
            found[f"pairs {name}"] = name
            last(f"block {name}", name.split("/attention")[0] + "/feed_forward/Relu")
        if self._package.family.startswith("deepacts"):
            # A branch's scores are zeroed (Mul) or averaged over the bodies (Div) at its end.
            for name in find(r"/network/(?:\w+/)?\w+/(?:Mul|Div)"):
                found[f"branch {name.rpartition('/network/')[2].rpartition('/')[0]}"] = name
        return found

    def read(self, inputs: Mapping[str, np.ndarray], clip: Clip) -> NetworkAttention:
        """Return the evidence of one clip by its inputs, without the batch axis."""
        embedding = self._graph.embedding
        names = {**self._nodes, **({"embedding": embedding} if embedding else {})}
        values = self._graph.values({**names, "logits": "logits"}, inputs)
        raised = np.exp(values["logits"] - values["logits"].max())
        made = NetworkAttention(raised / raised.sum(), dynamicity=dynamicity(clip["bodies"][0]))
        if "embedding" in values:
            made.embedding = values["embedding"].reshape(-1)
        if "alpha" in values:
            parts = [spec.name for spec in self._package.inputs if spec.name != "pose"]
            made.parts = dict(zip(parts, map(float, values["alpha"]), strict=True))
        if "A_S" in values:
            side = round(values["A_S"].size ** 0.5)
            made.regions, made.steps = values["A_S"].reshape(side, side), values.get("A_T")
        if "graphs" in values:  # (t_p, J, 64)
            made.over_time["activation of the pose backbone"] = np.linalg.norm(values["graphs"], axis=-1)
        if "bjcn_0" in values:
            self._read_bjcn(made, values, inputs["joint_map"])
        if "points" in values:
            self._read_points(made, values["points"])
        self._read_pairs(made, values)
        branches = {key.removeprefix("branch "): value for key, value in values.items() if key.startswith("branch ")}
        classes = len(self._package.labels)
        made.branches = {name: value.reshape(-1) for name, value in branches.items() if value.size == classes}
        if len(made.branches) < 2:
            made.branches = {}
        return made

    def _read_bjcn(self, made: NetworkAttention, values: Mapping[str, np.ndarray], joint_map: np.ndarray) -> None:
        options: Any = self._package.provenance.settings.get("options", {})
        made_of = [values[f"bjcn_{number}"] for number in range(LAYERS)]
        joints = len(made_of[0][0]) // PLANES // self._package.bodies
        score = informativeness(made_of, str(options.get("layer", "sum")), joint_map)
        made.joints["informativeness (Eq. 2)"] = score[:joints]
        responses = np.abs(made_of[0][:, : PLANES * joints]).reshape(len(made_of[0]), joints, PLANES).sum(axis=2)
        made.filters = responses[np.argsort(-responses.sum(axis=1))[:TOP_FILTERS]]

    def _read_points(self, made: NetworkAttention, points: np.ndarray) -> None:
        spec = next(spec for spec in self._package.inputs if spec.name == "voxel_features")
        bodies, frames, joints, _ = spec.shape
        activation = np.linalg.norm(points, axis=-1).reshape(bodies, frames, joints)
        made.over_time["activation of SPA-Net"] = activation[0]

    def _read_pairs(self, made: NetworkAttention, values: Mapping[str, np.ndarray]) -> None:
        streams: dict[str, list[np.ndarray]] = {}
        others = ("bones", "body_motion", "bones_motion")
        for key in [key for key in values if key.startswith("pairs ")]:
            stream = next((part for part in key.split("/") if part in others), "body")
            weights = values[key]
            if weights.ndim == 3 and weights.shape[1] == weights.shape[2]:  # (S, V, V); body 0 comes first
                streams.setdefault(stream, []).append(weights.mean(axis=0))
            block = values.get(f"block {key.removeprefix('pairs ')}")
            if block is not None and block.ndim == 3:  # (C, T, V)
                # Of the first block: later ones have mixed all joints.
                made.over_time.setdefault(f"activation of SEM-Net, {stream}", np.linalg.norm(block, axis=0))
        made.pairs = {stream: np.mean(weights, axis=0) for stream, weights in streams.items()}


def informativeness(layers: list[np.ndarray], layer: str, joint_map: np.ndarray) -> np.ndarray:
    """Return Eq. 2's score of each joint [K], 0..1, of BJCN-1 to BJCN-4 [filters, 3·K] and the joint map [3·K, frames].

    Joints of an absent body, which are 0 in the map, have no part in the extrema.
    """
    x = np.sum(layers, axis=0) if layer == "sum" else layers[int(layer) - 1]
    score = x.sum(axis=0).reshape(-1, PLANES).sum(axis=1)
    known = score[joint_map.reshape(len(score), -1).any(axis=1)]
    low, high = (known.min(), known.max()) if len(known) else (0.0, 0.0)
    return np.asarray(np.clip((score - low) / (high - low + 1e-5), 0, 1))


def dynamicity(poses: np.ndarray) -> float:
    """Return the mean Procrustes distance between successive poses [T, V, 3], without missing joints; NaN for none.

    Frames before the recording, which repeat its first pose, are skipped.
    """
    recorded = poses[first_visible_frame(poses[None]) :]
    distances = []
    for before, after in itertools.pairwise(recorded if len(recorded) > 1 else poses):
        seen = np.isfinite(before).all(axis=1) & np.isfinite(after).all(axis=1)
        if seen.sum() >= 3 and np.ptp(before[seen], axis=0).any() and np.ptp(after[seen], axis=0).any():
            distances.append(procrustes(before[seen], after[seen])[2])
    return float(np.mean(distances)) if distances else float("nan")
