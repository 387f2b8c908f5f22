"""Fusion of separately trained networks into one package, as `actrec eval --fuse` fuses their scores."""

import dataclasses
import logging
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, helper, numpy_helper

from actrec.features.specs import InputSpec, WindowSpec
from actrec.inference import package, zoo
from actrec.inference.package import ModelPackage, Provenance
from actrec.utils import config, files
from actrec.utils.errors import ConfigError, PackageError
from actrec_models.evaluation import fusion
from actrec_models.evaluation.evaluator import comparable_inputs
from actrec_models.export.exporter import write_package
from actrec_models.export.onnx_graph import PARITY, example_arrays, run_onnx, to_onnx
from actrec_models.training import initial_weights, provenance
from actrec_models.training.checkpoints import open_checkpoint
from actrec_models.training.recipe import Recipe

logger = logging.getLogger(__name__)

_LOGITS = "logits"

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
        method: "softmax" or "logits" (`evaluation.fusion.fuse`).
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
        _rename_inputs(part, {f"stream_{k}/{name}": shared for name, shared in known.items()})
    inputs = {value.name: value for part in parts for value in part.graph.input}
    logits = [part.graph.output[0].name for part in parts]
    classes = int(parts[0].graph.output[0].type.tensor_type.shape.dim[1].dim_value)
    join = _softmax_fusion if method == "softmax" else _weighted_sum
    nodes, constants = join(logits, shares, _LOGITS)
    graph = helper.make_graph(
        [*(node for part in parts for node in part.graph.node), *nodes],
        "fused",
        list(inputs.values()),
        [helper.make_tensor_value_info(_LOGITS, onnx.TensorProto.FLOAT, ["batch", classes])],
        [
            *(tensor for part in parts for tensor in part.graph.initializer),
            *(numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()),
        ],
    )
    model = helper.make_model(graph, opset_imports=parts[0].opset_import, producer_name="actrec")
    model.ir_version = max(part.ir_version for part in parts)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _rename_inputs(model: ModelProto, names: Mapping[str, str]) -> None:
    for value in model.graph.input:
        value.name = names[value.name]
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = names.get(name, name)


def _softmax_fusion(logits: Sequence[str], shares: Sequence[float], output: str) -> tuple[list[Any], dict[str, float]]:
    """Return nodes for log Σ exp(log wₛ + log softmax(zₛ)) + Σ wₛ log Σ exp(zₛ), the largest term factored out."""
    nodes, constants, logs, levels = [], {}, [], []
    for k, (name, share) in enumerate(zip(logits, shares, strict=True)):
        own = f"fused/{k}"
        constants[f"{own}/log_share"] = math.log(share)
        nodes += [
            helper.make_node("LogSoftmax", [name], [f"{own}/log"], f"{own}/LogSoftmax", axis=1),
            helper.make_node("Add", [f"{own}/log", f"{own}/log_share"], [f"{own}/weighted"], f"{own}/Add"),
            # z − log softmax(z) is log Σ exp(z) for every class; it is most exact for the largest.
            helper.make_node("ReduceMax", [name], [f"{own}/best"], f"{own}/Best", axes=[1], keepdims=1),
            helper.make_node("ReduceMax", [f"{own}/log"], [f"{own}/best_log"], f"{own}/BestLog", axes=[1], keepdims=1),
            helper.make_node("Sub", [f"{own}/best", f"{own}/best_log"], [f"{own}/level"], f"{own}/Level"),
        ]
        logs.append(f"{own}/weighted")
        levels.append(f"{own}/level")
    nodes.append(helper.make_node("Max", logs, ["fused/max"], "fused/Max"))
    for k, name in enumerate(logs):
        nodes += [
            helper.make_node("Sub", [name, "fused/max"], [f"fused/{k}/shifted"], f"fused/{k}/Sub"),
            helper.make_node("Exp", [f"fused/{k}/shifted"], [f"fused/{k}/exp"], f"fused/{k}/Exp"),
        ]
    nodes += _sum([f"fused/{k}/exp" for k in range(len(logs))], "fused/sum")
    nodes += [
        helper.make_node("Log", ["fused/sum"], ["fused/log"], "fused/Log"),
        helper.make_node("Add", ["fused/log", "fused/max"], ["fused/scores"], "fused/Scores"),
    ]
    more, shared = _weighted_sum(levels, shares, "fused/level")
    nodes += [*more, helper.make_node("Add", ["fused/scores", "fused/level"], [output], "fused/Logits")]
    return nodes, constants | shared


def _weighted_sum(values: Sequence[str], shares: Sequence[float], output: str) -> tuple[list[Any], dict[str, float]]:
    """Return nodes for Σ wₛ vₛ."""
    constants = {f"{output}/{k}/share": share for k, share in enumerate(shares)}
    weighted = [f"{output}/{k}/weighted" for k in range(len(values))]
    nodes = [
        helper.make_node("Mul", [value, share], [result], result)
        for value, share, result in zip(values, constants, weighted, strict=True)
    ]
    return nodes + _sum(weighted, output), constants


def _sum(values: Sequence[str], output: str) -> list[Any]:
    """Return nodes for the sum, by Add, which computes in any precision."""
    sums = [f"{output}/to_{k}" for k in range(1, len(values) - 1)] + [output]
    return [
        helper.make_node("Add", [before, value], [result], result)
        for before, value, result in zip([values[0], *sums], values[1:], sums, strict=False)
    ]


# -- packages ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stream:
    """One of the fused networks.

    Attributes:
        name: Name of the package, or run and file of the checkpoint.
        description: Description of its package; for a checkpoint, the one it would be exported with.
        content: Its ONNX graph.
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
        method: "softmax" or "logits" (`evaluation.fusion.fuse`).
        weights: One per network, above 0; empty for equal weights.
        overwrite: Replace an existing package.
        float16: Also write the network in half precision.
        root: Folder of their dataset; empty for its folder in `data_root`.

    Raises:
        ConfigError: Too few networks, or weights that do not fit.
        PackageError: An invalid source, networks that do not fit together, or no known recipe.
    """
    if len(sources) < 2:
        raise ConfigError(f"--fuse needs two networks or more, got {sources[0] if sources else 'none'} alone")
    fusion.check_method(method)
    shares = fusion.normalized_weights(weights, len(sources))
    if (shares == 0).any():
        raise ConfigError(f"{sources[int(np.argmin(shares))]} has weight 0: remove it")
    target = files.check_place(folder, package.FILES, overwrite)
    streams = [_open(source) for source in sources]
    for other in streams[1:]:
        _check_compatible(streams[0], other)
    recipe = _recipe(streams)
    window = streams[0].description.window
    if (recipe.clips == "whole" or len(window.starts) > 1) and window.combine != _COMMUTING[method]:
        logger.warning(
            "scores are fused clip by clip and then combined over the clips (%s): `actrec eval --fuse %s`, which "
            "combines each network's clips first, may give other scores", window.combine, method,
        )  # fmt: skip
    inputs, names = _merge_inputs([stream.description for stream in streams])
    content = join_graphs([stream.content for stream in streams], names, method, shares.tolist())
    options = ["--fuse", method, "--weights", *(f"{share:g}" for share in shares), "--out", str(folder)]
    summed = "softmaxes" if method == "softmax" else "logits"
    draft = dataclasses.replace(
        streams[0].description,
        family=" + ".join(dict.fromkeys(stream.description.family for stream in streams)),
        variant=f"{len(streams)} networks, {summed} added " + " : ".join(f"{share:.3g}" for share in shares),
        inputs=inputs,
        rejection=package.Rejection(),
        provenance=_provenance(streams, recipe, shares, shlex.join(options)),
        float16=None,
        int8=None,
        path=Path(),
    )
    _check_parity(draft, content, streams, names, method, shares)
    return write_package(draft, content, target, recipe, (data_root, root), overwrite=overwrite, float16=float16)


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
    """Check that two networks are streams of the same task.

    Raises:
        PackageError: Contains the difference.
    """
    ours, theirs = first.description, other.description
    for field in ("labels", "window", "bodies"):
        if getattr(ours, field) != getattr(theirs, field):
            values = "" if field == "labels" else f" ({_field_text(ours, field)} and {_field_text(theirs, field)})"
            raise PackageError(f"{first.name} and {other.name} differ by their {field}{values}: they cannot be fused")
    for field in ("dataset", "split"):
        trained = [getattr(each.provenance, field) for each in (ours, theirs)]
        if trained[0] != trained[1]:
            raise PackageError(f"{first.name} was trained on {field} {trained[0]}, {other.name} on {trained[1]}")
    options = [each.provenance.settings.get("dataset_options", {}) for each in (ours, theirs)]
    if options[0] != options[1] and ours.provenance.settings and theirs.provenance.settings:
        raise PackageError(
            f"{first.name} was trained with dataset_options {options[0]}, {other.name} with {options[1]}"
        )
    modes = [each.provenance.settings.get("clips", "live") for each in (ours, theirs)]
    if modes[0] != modes[1]:
        raise PackageError(f"{first.name} takes {modes[0]} clips of a recording, {other.name} {modes[1]} ones")


def _field_text(description: ModelPackage, field: str) -> str:
    """Return a package's window, or number of bodies, as text."""
    if field == "bodies":
        return str(description.bodies)
    window: WindowSpec = description.window
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
            same = next((each for each in merged if _same_input(each, spec)), None)
            if same is None:
                used = {each.name for each in merged}
                candidates = [spec.name, *(f"{spec.name}_{k}" for k in range(2, len(merged) + 3))]
                same = dataclasses.replace(spec, name=next(name for name in candidates if name not in used))
                merged.append(same)
            own[spec.name] = same.name
        names.append(own)
    return tuple(merged), names


def _same_input(one: InputSpec, other: InputSpec) -> bool:
    return bool(comparable_inputs([one]) == comparable_inputs([dataclasses.replace(other, name=one.name)]))


def _provenance(streams: Sequence[Stream], recipe: Recipe, shares: np.ndarray, options: str) -> Provenance:
    parts = [stream.description.provenance for stream in streams]
    command = f"{shlex.join(['actrec', 'export', *(stream.source for stream in streams)])} {options}"
    recordings = _recordings(parts)
    figures: dict[str, Any] = {
        "parameters": sum(part.figures.get("parameters", 0) for part in parts),
        "fused": [_stream_figures(*pair) for pair in zip(streams, shares.tolist(), strict=True)],
        **({"recordings": recordings} if recordings else {}),
        **provenance.as_figures(one for part in parts for one in part.figures.get(provenance.INITIAL_TRAININGS, ())),
    }
    return dataclasses.replace(
        provenance.package_provenance(
            recipe, {"epochs": sum(part.epochs for part in parts), "commit": provenance.commit()}
        ),
        recipe=_recipe_commands(parts, command),
        command=command,
        data_sha256=parts[0].data_sha256 if len({part.data_sha256 for part in parts}) == 1 else "",
        hours=round(sum(part.hours for part in parts), 4),
        packages=provenance.packages(),
        figures=figures,
    )


def _recipe_commands(parts: Sequence[Provenance], command: str) -> str:
    """Return the commands that train the networks, each once, and then write the package.

    The recipe of a network made for fusion may end with the export of the fused package; it then replaces `command`.
    """
    whole = [part.recipe for part in parts if "--fuse" in part.recipe and "fused" not in part.figures]
    steps = [part.recipe for part in parts if part.recipe and part.recipe not in whole]
    return " && ".join(dict.fromkeys([*steps, *(whole or [command])]))


def _recordings(parts: Sequence[Provenance]) -> list[str]:
    """Return the user's recordings that any network was trained on; empty if this is unknown for one of them."""
    known = [part.figures.get("recordings", None if part.dataset == "folder" else ()) for part in parts]
    return list(dict.fromkeys(one for part in known for one in part or ())) if None not in known else []


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
    draft: ModelPackage,
    content: bytes,
    streams: Sequence[Stream],
    names: Sequence[dict[str, str]],
    method: str,
    shares: np.ndarray,
) -> None:
    """Compare the graph's probabilities with its streams', on clips of simulated people.

    Raises:
        PackageError: They differ.
    """
    inputs = example_arrays(draft.inputs, draft.window, draft.bodies, _PARITY_CLIPS)
    logits = [
        run_onnx(stream.content, {own: inputs[shared] for own, shared in known.items()})
        for stream, known in zip(streams, names, strict=True)
    ]
    expected = fusion.fuse(logits, method, shares.tolist())
    difference = float(np.abs(fusion.softmax(run_onnx(content, inputs)) - expected).max())
    if not difference <= PARITY:
        raise PackageError(f"fused, the probabilities differ by {difference:.2g} from the networks' own: not written")
