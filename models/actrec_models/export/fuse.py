"""Networks trained apart as one package: the streams that `actrec eval --fuse` adds up, for a robot to run.

Several networks' ONNX graphs as one, whose logits have the softmax that fusing their scores gives.
"""

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
from actrec_models.evaluation.target import comparable
from actrec_models.export import exporter
from actrec_models.export.onnx_graph import PARITY, inputs_for, logits_of, to_onnx
from actrec_models.training import initial_weights, provenance
from actrec_models.training import provenance as provenances
from actrec_models.training.recipe import Recipe

_LOGITS = "logits"


def joined(contents: Sequence[bytes], names: Sequence[Mapping[str, str]], how: str, shares: Sequence[float]) -> bytes:
    """One graph of several.

    By "softmax" the logits are log Σ wₛ softmax(zₛ) + Σ wₛ log Σ exp(zₛ): the second term is the same for all classes
    and keeps how strong the streams' logits are, which the rejection looks at; without it all clips would be alike
    there. By "logits" they are Σ wₛ zₛ.

    Args:
        contents: The graphs, each with one output, logits [N, classes], and inputs [N, …] in float32.
        names: Of each, its inputs' names to those of the one graph. Inputs of the same name are one.
        how: "softmax" or "logits" (`evaluation.fusion.fuse`).
        shares: w, one a stream, above 0, with sum 1.

    Raises:
        PackageError: Graphs of different ONNX versions.
    """
    loaded = [onnx.load_model_from_string(content) for content in contents]
    parts = [onnx.compose.add_prefix(part, f"stream_{k}/") for k, part in enumerate(loaded)]
    opsets = [{entry.domain: entry.version for entry in part.opset_import} for part in parts]
    if any(opset != opsets[0] for opset in opsets):
        versions = " and ".join(sorted({str(opset.get("")) for opset in opsets}))
        raise PackageError(
            f"networks of ONNX operator sets {versions} are no one graph: export them with the same version of actrec"
        )
    for k, (part, known) in enumerate(zip(parts, names, strict=True)):
        _rename(part, {f"stream_{k}/{name}": shared for name, shared in known.items()})
    inputs = {value.name: value for part in parts for value in part.graph.input}
    logits = [part.graph.output[0].name for part in parts]
    nodes, constants = _softmaxes(logits, shares) if how == "softmax" else _weighted(logits, shares, _LOGITS)
    output = helper.make_tensor_value_info(_LOGITS, onnx.TensorProto.FLOAT, ["batch", _classes(parts[0])])
    graph = helper.make_graph(
        [*(node for part in parts for node in part.graph.node), *nodes],
        "fused",
        list(inputs.values()),
        [output],
        [
            *(tensor for part in parts for tensor in part.graph.initializer),
            *(numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()),
        ],
    )
    model = helper.make_model(graph, opset_imports=parts[0].opset_import, producer_name="actrec")
    model.ir_version = max(part.ir_version for part in parts)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _rename(model: ModelProto, names: Mapping[str, str]) -> None:
    for value in model.graph.input:
        value.name = names[value.name]
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = names.get(name, name)


def _classes(model: ModelProto) -> int:
    return int(model.graph.output[0].type.tensor_type.shape.dim[1].dim_value)


def _softmaxes(logits: Sequence[str], shares: Sequence[float]) -> tuple[list[Any], dict[str, float]]:
    """Makes log Σ exp(log wₛ + log softmax(zₛ)), the largest taken out of the sum, + Σ wₛ log Σ exp(zₛ)."""
    nodes, constants, logs, strengths = [], {}, [], []
    for k, (name, share) in enumerate(zip(logits, shares, strict=True)):
        own = f"fused/{k}"
        constants[f"{own}/log_share"] = math.log(share)
        nodes += [
            helper.make_node("LogSoftmax", [name], [f"{own}/log"], f"{own}/LogSoftmax", axis=1),
            helper.make_node("Add", [f"{own}/log", f"{own}/log_share"], [f"{own}/weighted"], f"{own}/Add"),
            # z − log softmax(z) is log Σ exp(z) in every class; of the largest it is exact.
            helper.make_node("ReduceMax", [name], [f"{own}/best"], f"{own}/Best", axes=[1], keepdims=1),
            helper.make_node("ReduceMax", [f"{own}/log"], [f"{own}/sure"], f"{own}/Sure", axes=[1], keepdims=1),
            helper.make_node("Sub", [f"{own}/best", f"{own}/sure"], [f"{own}/strength"], f"{own}/Strength"),
        ]
        logs.append(f"{own}/weighted")
        strengths.append(f"{own}/strength")
    nodes.append(helper.make_node("Max", logs, ["fused/most"], "fused/Max"))
    for k, name in enumerate(logs):
        nodes += [
            helper.make_node("Sub", [name, "fused/most"], [f"fused/{k}/less"], f"fused/{k}/Less"),
            helper.make_node("Exp", [f"fused/{k}/less"], [f"fused/{k}/times"], f"fused/{k}/Exp"),
        ]
    nodes += _added([f"fused/{k}/times" for k in range(len(logs))], "fused/sum")
    nodes += [
        helper.make_node("Log", ["fused/sum"], ["fused/log"], "fused/Log"),
        helper.make_node("Add", ["fused/log", "fused/most"], ["fused/scores"], "fused/Scores"),
    ]
    more, shared = _weighted(strengths, shares, "fused/strength")
    nodes += [*more, helper.make_node("Add", ["fused/scores", "fused/strength"], [_LOGITS], "fused/Logits")]
    return nodes, constants | shared


def _weighted(values: Sequence[str], shares: Sequence[float], output: str) -> tuple[list[Any], dict[str, float]]:
    """Makes Σ wₛ vₛ."""
    constants = {f"{output}/{k}/share": share for k, share in enumerate(shares)}
    shared = [f"{output}/{k}/shared" for k in range(len(values))]
    nodes = [
        helper.make_node("Mul", [value, share], [made], made)
        for value, share, made in zip(values, constants, shared, strict=True)
    ]
    return nodes + _added(shared, output), constants


def _added(values: Sequence[str], output: str) -> list[Any]:
    """Their sum, two at a time: an Add, which computes in any precision."""
    sums = [f"{output}/to_{k}" for k in range(1, len(values) - 1)] + [output]
    return [
        helper.make_node("Add", [before, value], [made], made)
        for before, value, made in zip([values[0], *sums], values[1:], sums, strict=False)
    ]


logger = logging.getLogger(__name__)

_CLIPS = 3

_ALIKE = {"softmax": "mean", "logits": "logits"}
"""Way of fusing to the way of combining clips with which it does not matter which of the two comes first."""


@dataclass(frozen=True)
class Stream:
    """One of the networks.

    Attributes:
        name: Of the package, or run and file of the checkpoint.
        described: What its package says, or would.
        content: Its network as ONNX.
        recipe: It was trained by; None for a package from before packages kept it.
        identity: Name and hash of the checkpoint, or of the package's network.
        source: As it was named.
    """

    name: str
    described: ModelPackage
    content: bytes
    recipe: Recipe | None
    identity: str
    source: str


def fuse(
    sources: Sequence[str | Path],
    folder: Path,
    data_root: str,
    how: str = "softmax",
    weights: Sequence[float] = (),
    *,
    overwrite: bool = False,
    float16: bool = False,
    root: str = "",
) -> ModelPackage:
    """Writes one package of several networks, with its own rejection threshold and accuracy.

    It is judged by the recipe of the first that names actions outside the classes, or else of the first that has one.

    Args:
        sources: Checkpoints of `actrec train`, packages, or names of packages in the zoo.
        folder: Where to; its name becomes the package's.
        data_root: Folder that holds a folder a dataset.
        how: "softmax" or "logits" (`evaluation.fusion.fuse`).
        weights: One a network, above 0; none for all alike.
        overwrite: Replace a package that is there.
        float16: Write the network in half precision beside it.
        root: Folder of their dataset itself; empty for its own in `data_root`.

    Raises:
        ConfigError: Too few networks, or weights that do not fit.
        PackageError: A source is none, the networks are not streams of one, or none of them tells its recipe.
    """
    if len(sources) < 2:
        raise ConfigError(f"--fuse needs two networks or more, got {sources[0] if sources else 'none'} alone")
    fusion.check_how(how)
    shares = fusion.normalized(weights, len(sources))
    if (shares == 0).any():
        raise ConfigError(f"{sources[int(np.argmin(shares))]} has weight 0: leave it out")
    target = files.check_place(folder, package.FILES, overwrite)
    streams = [_open(source) for source in sources]
    for other in streams[1:]:
        _check(streams[0], other)
    recipe = _recipe(streams)
    _warn_of_clips(streams[0].described.window, recipe, how)
    inputs, names = _inputs([stream.described for stream in streams])
    content = joined([stream.content for stream in streams], names, how, shares.tolist())
    last = ["--fuse", how, "--weights", *(f"{share:g}" for share in shares), "--out", str(folder)]
    draft = _described(streams, recipe, inputs, how, shares, shlex.join(last))
    _check_parity(draft, content, streams, names, how, shares)
    return exporter.write(draft, content, target, recipe, (data_root, root), overwrite=overwrite, float16=float16)


def _open(source: str | Path) -> Stream:
    """A checkpoint, a package's folder or the name of one in the zoo."""
    path = Path(source).expanduser()
    if path.is_file():
        identity = initial_weights.identity(path)
        trained, described, network = exporter.open_checkpoint(path)
        if initial_weights.identity(path) != identity:  # its training goes on, and has just replaced it
            return _open(source)
        name = f"{path.resolve().parent.name}/{path.name}"
        return Stream(name, described, to_onnx(network), trained, identity, str(source))
    found = zoo.find(source)
    settings = found.provenance.settings
    recipe = config.build(Recipe, settings) if settings else None
    identity = f"{found.name} sha256:{found.provenance.onnx_sha256}"
    return Stream(found.name, found, found.read_onnx(), recipe, identity, str(source))


def _check(first: Stream, other: Stream) -> None:
    """Refuses what is no stream of the same network.

    Raises:
        PackageError: Says by what the two differ.
    """
    ours, theirs = first.described, other.described
    for what in ("labels", "window", "bodies"):
        if getattr(ours, what) != getattr(theirs, what):
            told = "" if what == "labels" else f" ({_told_of(ours, what)} and {_told_of(theirs, what)})"
            raise PackageError(
                f"{first.name} and {other.name} differ by their {what}{told}: they are no streams of one"
            )
    for what in ("dataset", "split"):
        trained = [getattr(each.provenance, what) for each in (ours, theirs)]
        if trained[0] != trained[1]:
            raise PackageError(f"{first.name} was trained on {what} {trained[0]}, {other.name} on {trained[1]}")
    options = [each.provenance.settings.get("dataset_options", {}) for each in (ours, theirs)]
    if options[0] != options[1] and ours.provenance.settings and theirs.provenance.settings:
        raise PackageError(
            f"{first.name} was trained with dataset_options {options[0]}, {other.name} with {options[1]}"
        )
    taken = [each.provenance.settings.get("clips", "live") for each in (ours, theirs)]
    if taken[0] != taken[1]:
        raise PackageError(f"{first.name} looks at {taken[0]} recordings, {other.name} at {taken[1]} ones")


def _told_of(described: ModelPackage, what: str) -> str:
    """A package's window, or number of bodies, in words."""
    if what == "bodies":
        return str(described.bodies)
    window = described.window
    clips = f", clips of {window.clip} by {window.stride}, {window.combine}" if window.clip else ""
    return f"{window.seconds:g} s, {window.frames} frames{clips}"


def _recipe(streams: Sequence[Stream]) -> Recipe:
    known = [stream.recipe for stream in streams if stream.recipe is not None]
    if not known:
        raise PackageError(
            f"none of {', '.join(stream.name for stream in streams)} tells the recipe that it was trained by, so that "
            "nothing says what to judge them on: name a checkpoint, or export one of them again from its own"
        )
    return next((recipe for recipe in known if recipe.unknown_dataset), known[0])


def _warn_of_clips(window: WindowSpec, recipe: Recipe, how: str) -> None:
    """Says where scores are not those of `actrec eval --fuse`: a package fuses first, and combines clips then."""
    if (recipe.clips == "whole" or len(window.starts) > 1) and window.combine != _ALIKE[how]:
        logger.warning(
            "scores are fused clip by clip and then combined over the clips (%s): `actrec eval --fuse %s`, which "
            "combines each network's clips first, may say otherwise", window.combine, how,
        )  # fmt: skip


def _inputs(streams: Sequence[ModelPackage]) -> tuple[tuple[InputSpec, ...], list[dict[str, str]]]:
    """The inputs of all, those that are alike once, and each stream's own names of them to theirs."""
    made: list[InputSpec] = []
    names = []
    for stream in streams:
        own = {}
        for spec in stream.inputs:
            same = next((one for one in made if _alike(one, spec)), None)
            if same is None:
                taken = {one.name for one in made}
                numbered = (f"{spec.name}_{k}" for k in range(2, len(made) + 3))
                free = spec.name if spec.name not in taken else next(name for name in numbered if name not in taken)
                same = dataclasses.replace(spec, name=free)
                made.append(same)
            own[spec.name] = same.name
        names.append(own)
    return tuple(made), names


def _alike(one: InputSpec, other: InputSpec) -> bool:
    return bool(comparable([one]) == comparable([dataclasses.replace(other, name=one.name)]))


def _described(
    streams: Sequence[Stream],
    recipe: Recipe,
    inputs: tuple[InputSpec, ...],
    how: str,
    shares: np.ndarray,
    options: str,
) -> ModelPackage:
    first = streams[0].described
    families = list(dict.fromkeys(stream.described.family for stream in streams))
    return dataclasses.replace(
        first,
        family=" + ".join(families),
        variant=f"{len(streams)} networks, {'softmaxes' if how == 'softmax' else 'logits'} added "
        + " : ".join(f"{share:.3g}" for share in shares),
        inputs=inputs,
        rejection=package.Rejection(),
        provenance=_provenance(streams, recipe, shares, options),
        float16=None,
        int8=None,
        path=Path(),
    )


def _provenance(streams: Sequence[Stream], recipe: Recipe, shares: np.ndarray, options: str) -> Provenance:
    each = [stream.described.provenance for stream in streams]
    last = f"{shlex.join(['actrec', 'export', *(stream.source for stream in streams)])} {options}"
    recordings = _recordings(each)
    figures: dict[str, Any] = {
        "parameters": sum(part.figures.get("parameters", 0) for part in each),
        "fused": [_told(*pair) for pair in zip(streams, shares.tolist(), strict=True)],
        **({"recordings": recordings} if recordings else {}),
        **provenance.kept(one for part in each for one in part.figures.get(provenance.KEY, ())),
    }
    return dataclasses.replace(
        exporter.trained(recipe, {"epochs": sum(part.epochs for part in each), "commit": provenances.commit()}),
        recipe=_again(each, last),
        command=last,
        data_sha256=each[0].data_sha256 if len({part.data_sha256 for part in each}) == 1 else "",
        hours=round(sum(part.hours for part in each), 4),
        packages=provenances.packages(),
        figures=figures,
    )


def _again(trained: Sequence[Provenance], last: str) -> str:
    """The commands that make the networks, each once, and then the package.

    The recipe of a network that is made for a package of several may end in that package's export: then no other.
    """
    whole = [part.recipe for part in trained if "--fuse" in part.recipe and "fused" not in part.figures]
    steps = [part.recipe for part in trained if part.recipe and part.recipe not in whole]
    return " && ".join(dict.fromkeys([*steps, *(whole or [last])]))


def _recordings(trained: Sequence[Provenance]) -> list[str]:
    """A person's own recordings that any of the networks has learnt; none where of one of them nobody knows."""
    told = [part.figures.get("recordings", None if part.dataset == "folder" else ()) for part in trained]
    return list(dict.fromkeys(one for part in told for one in part or ())) if None not in told else []


def _told(stream: Stream, share: float) -> dict[str, Any]:
    """What the package keeps of one of its networks."""
    described, trained = stream.described, stream.described.provenance
    return {
        "name": stream.name,
        "share": round(share, 6),
        "network": f"{described.family} ({described.variant})",
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
    how: str,
    shares: np.ndarray,
) -> None:
    """Refuses a graph whose probabilities are not those of its streams, on clips of simulated people.

    Raises:
        PackageError: They differ.
    """
    inputs = inputs_for(draft.inputs, draft.window, draft.bodies, _CLIPS)
    logits = [
        logits_of(stream.content, {own: inputs[shared] for own, shared in known.items()})
        for stream, known in zip(streams, names, strict=True)
    ]
    expected = fusion.fuse(logits, how, shares.tolist())
    difference = float(np.abs(fusion.softmax(logits_of(content, inputs)) - expected).max())
    if not difference <= PARITY:
        raise PackageError(f"fused, the probabilities differ by {difference:.2g} from the networks' own: not written")
