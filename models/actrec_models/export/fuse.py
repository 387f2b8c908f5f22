"""Fusion of separately trained networks into one package, which scores as `actrec eval --fuse`."""

import dataclasses
import itertools
import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from scipy.special import softmax
from torch import Tensor, nn

from actrec.features.clips import example_windows
from actrec.features.specs import InputSpec, WindowSpec
from actrec.inference import package, zoo
from actrec.inference.package import ModelPackage, Provenance
from actrec.scene_flow import identity
from actrec.utils import config, folders
from actrec.utils.errors import ConfigError, PackageError
from actrec_models.evaluation import scoring
from actrec_models.evaluation.evaluator import comparable_inputs
from actrec_models.export import rejection
from actrec_models.export.exporter import write_package
from actrec_models.export.onnx_graph import PARITY, run_onnx, simplify, to_onnx, trace_module
from actrec_models.training import initial_weights, provenance
from actrec_models.training.checkpoints import open_checkpoint
from actrec_models.training.recipe import Recipe

logger = logging.getLogger(__name__)

_PARITY_CLIPS = 3
_COMMUTING = {"softmax": "mean", "logits": "logits"}
"""Fusion method to the way of combining clips for which the order of both does not matter."""

# -- graphs ------------------------------------------------------------------------------------------------------------


def join_graphs(
    contents: Sequence[bytes], names: Sequence[Mapping[str, str]], method: str, shares: Sequence[float]
) -> bytes:
    """Join several graphs into one.

    For "softmax", the logits are log Σ wₛ softmax(zₛ) + Σ wₛ log Σ exp(zₛ). The second term is the same for all classes
    and keeps the level of the streams' logits, which the rejection uses. For "logits", they are Σ wₛ zₛ.

    Args:
        contents: Graphs with one output, logits [N, classes], and float32 inputs [N, …].
        names: For each graph, the names of its inputs in the joined graph; equal names are shared.
        method: "softmax" or "logits" (`evaluation.scoring.fuse`).
        shares: w, one per stream, above 0, with sum 1.

    Raises:
        PackageError: The graphs have different ONNX versions.
    """
    loaded = [onnx.load_model_from_string(content) for content in contents]
    parts = [onnx.compose.add_prefix(part, f"stream_{k}/") for k, part in enumerate(loaded)]
    opsets = [{entry.domain: entry.version for entry in part.opset_import} for part in parts]
    if any(opset != opsets[0] for opset in opsets):
        versions = " and ".join(sorted({str(opset.get("")) for opset in opsets}))
        raise PackageError(
            f"networks of ONNX operator sets {versions} cannot be joined: export them with the same version of actrec"
        )
    for k, (part, known) in enumerate(zip(parts, names, strict=True)):
        _rename(part, {f"stream_{k}/{name}": shared for name, shared in known.items()})
    logits = [part.graph.output[0].name for part in parts]
    classes = int(parts[0].graph.output[0].type.tensor_type.shape.dim[1].dim_value)
    examples = {f"logits_{k}": torch.zeros(2, classes) for k in range(len(parts))}
    head_graph = trace_module(Fusion(method, shares), examples, opset=opsets[0][""])
    traced = onnx.load_model_from_string(simplify(head_graph))
    head = onnx.compose.add_prefix(traced, "fused/")
    _rename(head, {f"fused/logits_{k}": name for k, name in enumerate(logits)} | {"fused/logits": "logits"})
    graph = onnx.helper.make_graph(
        [node for part in (*parts, head) for node in part.graph.node],
        "fused",
        list({value.name: value for part in parts for value in part.graph.input}.values()),
        head.graph.output,
        [tensor for part in (*parts, head) for tensor in part.graph.initializer],
    )
    model = onnx.helper.make_model(graph, opset_imports=parts[0].opset_import, producer_name="actrec")
    model.ir_version = max(part.ir_version for part in parts)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _rename(model: onnx.ModelProto, names: Mapping[str, str]) -> None:
    """Rename inputs and outputs of a graph."""
    for value in (*model.graph.input, *model.graph.output):
        value.name = names.get(value.name, value.name)
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]


class Fusion(nn.Module):
    """Fuse logits zₛ (N, classes) by "softmax" or "logits", as `join_graphs` defines, with shares wₛ."""

    def __init__(self, method: str, shares: Sequence[float]):
        super().__init__()
        self.method = method
        self.w: Tensor
        self.register_buffer("w", torch.tensor(shares, dtype=torch.float32).reshape(-1, 1, 1))

    def forward(self, *logits: Tensor) -> Tensor:
        """Return (N, classes)."""
        z = torch.stack(logits)  # (S, N, classes)
        if self.method == "logits":
            return (self.w * z).sum(dim=0)
        log = z.log_softmax(dim=2)
        # z − log softmax(z) is log Σ exp(z) for every class; it is most exact for the largest.
        level = z.amax(dim=2, keepdim=True) - log.amax(dim=2, keepdim=True)  # (S, N, 1)
        terms = log + self.w.log()
        best = terms.amax(dim=0)
        return best + (terms - best).exp().sum(dim=0).log() + (self.w * level).sum(dim=0)


# -- packages ----------------------------------------------------------------------------------------------------------


class Stream(NamedTuple):
    """One of the fused networks.

    Attributes:
        name: Name of the package, or run and file of the checkpoint.
        description: Description of its package; for a checkpoint, the one it would be exported with.
        recipe: Recipe of its training; None for a package that does not store it.
        identity: Name and hash of the checkpoint, or of the package's network.
        source: Source as given.
    """

    name: str
    description: ModelPackage
    content: bytes
    recipe: Recipe | None
    identity: str
    source: str


def fuse(
    sources: Sequence[str | Path],
    folder: Path,
    data_root: str,
    method: str = "softmax",
    weights: Sequence[float] = (),
    *,
    overwrite: bool = False,
    float16: bool = False,
    root: str = "",
) -> ModelPackage:
    """Write one package of several networks, with its own rejection threshold and accuracy.

    It is evaluated by the first recipe with actions to reject, or else the first known recipe.

    Args:
        sources: Checkpoints of `actrec train`, packages, or names of packages in the zoo.
        folder: Output folder; its name becomes the package's.
        data_root: Folder that contains a folder per dataset.
        method: "softmax" or "logits" (`evaluation.scoring.fuse`).
        weights: One per network, above 0; empty for equal weights.
        root: Folder of their dataset; empty for its folder in `data_root`.

    Raises:
        ConfigError: Too few networks, weights that do not fit, or networks that held out different clips, on which the
            threshold would be chosen.
        PackageError: An invalid source, networks that do not fit together, or no known recipe.
    """
    shares = _shares(sources, method, weights)
    target = folders.check_output_folder(folder, package.FILES, overwrite)
    streams = [_open(source) for source in sources]
    for other in streams[1:]:
        _check_compatible(streams[0], other)
    recipe = _recipe(streams)
    window = streams[0].description.window
    if (recipe.clips in ("whole", "subsequences") or len(window.starts) > 1) and window.combine != _COMMUTING[method]:
        logger.warning(
            "scores are fused clip by clip and then combined over the clips (%s): `actrec eval --fuse %s`, which "
            "combines each network's clips first, may give other scores", window.combine, method,
        )  # fmt: skip
    inputs, names = _merge_inputs([stream.description for stream in streams])
    content = join_graphs([stream.content for stream in streams], names, method, shares.tolist())
    if not rejection.calibration_obstacle(recipe, inputs, data_root, root):
        for stream in streams:
            if stream.recipe is not None:
                rejection.check_held_out(
                    recipe, stream.recipe, inputs, f"{stream.name} was trained on clips that others of these networks "
                    "held out for the threshold: train all of them with one validation and seed, or fuse their scores "
                    "with actrec eval --fuse",
                )  # fmt: skip
    options = ["--fuse", method, "--weights", *(f"{share:g}" for share in shares), "--out", str(folder)]
    summed = "softmaxes" if method == "softmax" else "logits"
    has_background = all(stream.recipe is not None and stream.recipe.background for stream in streams)
    draft = dataclasses.replace(
        streams[0].description,
        family=" + ".join(dict.fromkeys(stream.description.family for stream in streams)),
        variant=f"{len(streams)} networks, {summed} added " + " : ".join(f"{share:.3g}" for share in shares),
        inputs=inputs,
        rejection=package.Rejection(background=0.0 if has_background else None),  # until one is chosen
        events=package.EventThresholds(),
        provenance=_provenance(streams, recipe, shares, shlex.join(options)),
        float16=None,
        int8=None,
        path=Path(),
    )
    _check_parity(draft, content, streams, names, method, shares)
    return write_package(draft, content, target, recipe, (data_root, root), overwrite=overwrite, float16=float16)


def _shares(sources: Sequence[str | Path], method: str, weights: Sequence[float]) -> np.ndarray:
    """Return weights [streams] with sum 1, after checking method and weights."""
    if len(sources) < 2:
        raise ConfigError(f"--fuse needs two networks or more, got {sources[0] if sources else 'none'} alone")
    shares = scoring.fusion_weights(method, weights, len(sources))
    if (shares == 0).any():
        raise ConfigError(f"{sources[int(np.argmin(shares))]} has weight 0: remove it")
    return shares


def _open(source: str | Path) -> Stream:
    """Open a checkpoint, a package's folder or the name of one in the zoo."""
    path = Path(source).expanduser()
    if path.is_file():
        identity = initial_weights.identity(path)
        recipe, description, network = open_checkpoint(path)
        if initial_weights.identity(path) != identity:  # replaced meanwhile by its running training
            return _open(source)
        name = f"{path.resolve().parent.name}/{path.name}"
        return Stream(name, description, to_onnx(network), recipe, identity, str(source))
    found = zoo.find(source)
    settings = found.provenance.settings
    stored = config.build(Recipe, settings) if settings else None
    identity = f"{found.name} sha256:{found.provenance.onnx_sha256}"
    return Stream(found.name, found, found.read_onnx(), stored, identity, str(source))


def _check_compatible(first: Stream, other: Stream) -> None:
    """Check that two networks are streams of the same task; a PackageError contains the difference."""
    ours, theirs = first.description, other.description
    trained = ours.provenance, theirs.provenance
    differing = [field for field in ("labels", "window", "bodies") if getattr(ours, field) != getattr(theirs, field)]
    if differing:
        values = {
            "window": (_window_text(ours.window), _window_text(theirs.window)),
            "bodies": (ours.bodies, theirs.bodies),
        }
        text = " ({} and {})".format(*values[differing[0]]) if differing[0] in values else ""
        raise PackageError(f"{first.name} and {other.name} differ by their {differing[0]}{text}: they cannot be fused")
    for field in ("dataset", "split"):
        one, another = (getattr(each, field) for each in trained)
        if one != another:
            raise PackageError(f"{first.name} was trained on {field} {one}, {other.name} on {another}")
    one, another = (each.settings.get("dataset_options", {}) for each in trained)
    if one != another and all(each.settings for each in trained):
        raise PackageError(f"{first.name} was trained with dataset_options {one}, {other.name} with {another}")
    one, another = (each.scene_flow for each in trained)
    if identity.differing(one, another):
        raise PackageError(f"{first.name} was trained with scene flow of {dict(one)}, {other.name} of {dict(another)}")
    one, another = (each.settings.get("clips", "live") for each in trained)
    if one != another:
        raise PackageError(f"{first.name} takes {one} clips of a recording, {other.name} {another} ones")


def _window_text(window: WindowSpec) -> str:
    clips = f", clips of {window.clip} by {window.stride}, {window.combine}" if window.clip else ""
    return f"{window.seconds:g} s, {window.frames} frames{clips}"


def _recipe(streams: Sequence[Stream]) -> Recipe:
    known = [stream.recipe for stream in streams if stream.recipe is not None]
    if not known:
        raise PackageError(
            f"none of {', '.join(stream.name for stream in streams)} stores its training's recipe, which defines the "
            "test part: pass a checkpoint, or export one of them again from its checkpoint"
        )
    return next((recipe for recipe in known if recipe.unknown_dataset), known[0])


def _merge_inputs(streams: Sequence[ModelPackage]) -> tuple[tuple[InputSpec, ...], list[dict[str, str]]]:
    """Return the inputs of all streams, equal ones once, and each stream's own input names to the merged ones."""
    merged: list[InputSpec] = []
    names = []
    for stream in streams:
        own = {}
        for spec in stream.inputs:
            same = next((each for each in merged if _comparable(each) == _comparable(spec)), None)
            if same is None:
                used = {each.name for each in merged}
                candidates = [spec.name, *(f"{spec.name}_{k}" for k in range(2, len(merged) + 3))]
                same = dataclasses.replace(spec, name=next(name for name in candidates if name not in used))
                merged.append(same)
            own[spec.name] = same.name
        names.append(own)
    return tuple(merged), names


def _comparable(spec: InputSpec) -> Any:
    """Return the input without its name, and with all feature options filled in."""
    return comparable_inputs([dataclasses.replace(spec, name="")])


def _provenance(streams: Sequence[Stream], recipe: Recipe, shares: np.ndarray, options: str) -> Provenance:
    parts = [stream.description.provenance for stream in streams]
    command = f"{shlex.join(['actrec', 'export', *(stream.source for stream in streams)])} {options}"
    # The user's recordings that any network was trained on, if this is known for all of them.
    known = [part.figures.get("recordings", None if part.dataset == "folder" else ()) for part in parts]
    recordings = list(dict.fromkeys(one for part in known for one in part or ())) if None not in known else []
    absent = set.intersection(*(set(part.figures.get(provenance.ABSENT, ())) for part in parts))
    figures: dict[str, Any] = {
        **({provenance.ABSENT: sorted(absent)} if absent else {}),
        "parameters": sum(part.figures.get("parameters", 0) for part in parts),
        "fused": [_stream_figures(*pair) for pair in zip(streams, shares.tolist(), strict=True)],
        **({"recordings": recordings} if recordings else {}),
        **provenance.as_figures(one for part in parts for one in part.figures.get(provenance.INITIAL_TRAININGS, ())),
    }
    # The recipe of a network made for fusion may end with the export of the fused package; it then replaces `command`.
    whole = [part.recipe for part in parts if "--fuse" in " ".join(part.recipe) and "fused" not in part.figures]
    steps = [part.recipe for part in parts if part.recipe not in whole]
    return dataclasses.replace(
        provenance.package_provenance(
            recipe,
            {
                "epochs": sum(part.epochs for part in parts),
                "commit": provenance.commit(),
                "frame_rates": sorted({rate for part in parts for rate in part.frame_rates}),
                "scene_flow": next((part.scene_flow for part in parts if part.scene_flow), {}),
            },
        ),
        license="; ".join(dict.fromkeys(text for part in parts for text in part.license.split("; "))),
        recipe=tuple(dict.fromkeys(itertools.chain(*steps, *(whole or [(command,)])))),
        command=command,
        data_sha256=parts[0].data_sha256 if len({part.data_sha256 for part in parts}) == 1 else "",
        hours=round(sum(part.hours for part in parts), 4),
        packages=provenance.packages(),
        figures=figures,
    )


def _stream_figures(stream: Stream, share: float) -> dict[str, Any]:
    """Return the facts that the package stores on one of its networks."""
    description, trained = stream.description, stream.description.provenance
    return {
        "name": stream.name,
        "share": round(share, 6),
        "network": f"{description.family} ({description.variant})",
        "seed": trained.seed,
        "epochs": trained.epochs,
        "hours": trained.hours,
        "commit": trained.commit,
        "trained_on": trained.trained_on,
        "command": trained.command,
        "init": list(trained.init),
        "file": stream.identity,
    }


def _check_parity(
    draft: ModelPackage, content: bytes, streams: Sequence[Stream], names: Sequence[dict[str, str]], method: str,
    shares: np.ndarray,
) -> None:  # fmt: skip
    """Compare the graph's probabilities with its streams', on clips of simulated people."""
    inputs = example_windows(draft.inputs, draft.window, draft.bodies, _PARITY_CLIPS)
    logits = [
        run_onnx(stream.content, {own: inputs[shared] for own, shared in known.items()})
        for stream, known in zip(streams, names, strict=True)
    ]
    expected = scoring.fuse(logits, method, shares.tolist())
    difference = float(np.abs(softmax(run_onnx(content, inputs), axis=1) - expected).max())
    if not difference <= PARITY:
        raise PackageError(f"fused, the probabilities differ by {difference:.2g} from the networks' own: not written")
