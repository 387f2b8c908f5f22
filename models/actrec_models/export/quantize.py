"""A network in int8: Q/DQ nodes by ONNX Runtime's quantizer, as TensorRT reads them, with ranges of recorded clips.

Adds the network in int8 to a model package, with ranges of the clips that it was trained on or of one's own.
"""

import contextlib
import copy
import dataclasses
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationMethod, QuantType, create_calibrator
from onnxruntime.quantization.calibrate import HistogramCollector
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

from actrec import datasets
from actrec.datasets.base import ClipDataset
from actrec.inference import zoo
from actrec.inference.package import FILES, LowerPrecision, ModelPackage
from actrec.inference.session import RUN_BYTES
from actrec.inference.tensorrt.builder import group_of, is_kept
from actrec.utils import files
from actrec.utils.errors import ConfigError, PackageError
from actrec_models.evaluation import scoring
from actrec_models.export import onnx_graph, repackage
from actrec_models.export.half_precision import difference
from actrec_models.export.onnx_graph import scratch

logger = logging.getLogger(__name__)

OPERATORS = ("Conv", "Gemm", "MatMul")
"""What is computed in int8: all that holds weights or multiplies matrices."""

LEAST_AGREEMENT = 0.98
"""Share of the clips left out of the calibration that int8 must call what float32 calls them."""

_COPIES = 4
"""Of the network, that ONNX Runtime writes: as it is, watched, with its shapes."""

_BATCH = 16
"""Clips at once, or fewer where their pictures are large: a network's memory grows with them."""

_OPTIONS = {
    "ActivationSymmetric": True, "WeightSymmetric": True,  # there are no zero points
    "AddQDQPairToWeight": True, "DedicatedQDQPair": True,  # a pair for each reader, float32 weights behind one too
    "QuantizeBias": False, "OpTypesToExcludeOutputQuantization": list(OPERATORS),
}  # fmt: skip
"""As TensorRT wants it (microsoft/onnxruntime issues 14142, 14229)."""

Inputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class Quantized:
    """A network in int8.

    Attributes:
        content: The ONNX graph.
        difference: As `LowerPrecision` has it.
        agreement: Share of clips, left out of the calibration, that it calls what float32 calls them.
        kept: Layer groups in float32.
    """

    content: bytes
    difference: float
    agreement: float
    kept: tuple[str, ...]

    def described(self, calibrated_on: str) -> LowerPrecision:
        """What the package says of it."""
        return LowerPrecision(self.difference, calibrated_on=calibrated_on, kept=self.kept)


def quantized(
    content: bytes, calibration: Sequence[Inputs], held_out: Sequence[Inputs], keep: Sequence[str] = ()
) -> Quantized:
    """The network in int8; where it disagrees with float32, the layer groups that disturb it most stay in float32.

    Args:
        content: The ONNX graph in float32, simplified.
        calibration: Inputs of recorded clips, without the batch axis; asked for again and again.
        held_out: Those of others, to compare on.
        keep: Layer groups that stay in float32 (`actrec.inference.tensorrt.builder`).

    Raises:
        ConfigError: There is no such group.
        PackageError: ONNX Runtime cannot quantize it, or it disagrees even with half of its groups in float32.
        DeviceError: The disk of temporary files is full.
    """
    check_groups(content, keep)
    with scratch(_COPIES * len(content)) as folder:
        quantizer = _Quantizer(content, folder, calibration)
        expected = _logits(content, held_out)

        def judged(kept: Sequence[str]) -> Quantized:
            made = quantizer.made(kept)
            found = _logits(made, held_out)
            agreement = float((found.argmax(axis=1) == expected.argmax(axis=1)).mean())
            return Quantized(made, difference(found, expected), agreement, tuple(kept))

        best = judged(keep)
        if best.agreement >= LEAST_AGREEMENT:
            return best
        logger.info("int8 agrees on %.1f %% of the clips: looking for the layers that disturb it", 100 * best.agreement)
        for kept in _ever_more(quantizer, expected, held_out, keep):
            best = max(best, judged(kept), key=lambda each: each.agreement)
            if best.agreement >= LEAST_AGREEMENT:
                return best
    raise PackageError(
        f"in int8 it calls {best.agreement:.1%} of the clips what float32 calls them, allowed: {LEAST_AGREEMENT:.0%} "
        "and more, even with half of its layer groups in float32: take float16"
    )


def check_groups(content: bytes, keep: Sequence[str]) -> None:
    """Refuses names of layer groups that a network does not have.

    Args:
        content: The ONNX graph.
        keep: The names.

    Raises:
        ConfigError: Names one, and the groups that there are.
    """
    groups = _groups(_quantizable_nodes(onnx.load_model_from_string(content)))
    if groups and (absent := sorted(set(keep) - set(groups))):
        raise ConfigError(f"no layer group '{absent[0]}'; there are {', '.join(groups)}")


def _ever_more(
    quantizer: "_Quantizer", expected: np.ndarray, held_out: Sequence[Inputs], keep: Sequence[str]
) -> Iterator[list[str]]:
    """Lists of groups, the one that disturbs the logits most alone, then with the next, up to half of all."""
    others = [group for group in quantizer.groups if group not in keep]
    harm = {}
    for group in others:
        alone = quantizer.made([name for name in quantizer.groups if name != group])
        harm[group] = float(np.abs(_logits(alone, held_out) - expected).mean())
    ranked = sorted(others, key=lambda group: -harm[group])
    for count in range(1, max(len(ranked) // 2, 1) + 1):
        yield [*keep, *ranked[:count]]


class _Quantizer:
    """Quantizes one network, some of its layer groups or others, with ranges found once."""

    def __init__(self, content: bytes, folder: Path, calibration: Sequence[Inputs]):
        self._file = folder / "model.onnx"
        self._file.write_bytes(content)
        self._nodes = _quantizable_nodes(onnx.load_model_from_string(content))
        self.groups = _groups(self._nodes)
        if not self._nodes:
            raise PackageError("it has no layer that int8 could compute")
        # Of four ways, this left the logits of other training clips nearest to float32's (docs/tensorrt.md).
        calibrator = create_calibrator(
            self._file, list(OPERATORS), str(folder / "watched.onnx"), calibrate_method=CalibrationMethod.Percentile,
            extra_options={"symmetric": True, "percentile": 99.99},
        )  # fmt: skip
        calibrator.collector = _histograms(calibrator, calibration)
        with contextlib.redirect_stdout(None):  # it prints
            self._ranges = calibrator.compute_data()

    def made(self, kept: Sequence[str]) -> bytes:
        """The graph with all groups but these in int8."""
        model = load_model_with_shape_infer(self._file)
        chosen = [name for name in self._nodes if not is_kept(name, tuple(kept))]
        if not chosen:
            raise PackageError("with all of its layer groups in float32, nothing is left for int8")
        quantizer = QDQQuantizer(
            model, True, False, QuantType.QInt8, QuantType.QInt8, self._ranges, chosen, [], list(OPERATORS), _OPTIONS
        )
        quantizer.quantize_model()
        made = quantizer.model.model
        del made.graph.value_info[:]
        found = onnx_graph.problems(made)
        if found:
            raise PackageError(f"in int8, {found[0]}")
        return bytes(made.SerializeToString())


def _quantizable_nodes(model: Any) -> list[str]:
    return [node.name for node in model.graph.node if _quantizable(node, model.graph)]


def _groups(nodes: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(group_of(name) for name in nodes))


def _quantizable(node: Any, graph: Any) -> bool:
    """Matrices are quantized by column, which ONNX Runtime has for matrices alone, not for stacks of them."""
    if node.op_type not in OPERATORS or not node.name:
        return False
    constant = {tensor.name: tensor for tensor in graph.initializer}
    stacked = [name for name in node.input if name in constant and len(constant[name].dims) > 2]
    return node.op_type == "Conv" or not stacked


def _histograms(calibrator: Any, clips: Sequence[Inputs]) -> HistogramCollector:
    """What the clips' tensors hold, as the calibrator's own `collect_data` finds it.

    That keeps every tensor of every clip until it has seen the last: 66 GB of 200 clips of `deepacts_graph`. Here each
    clip goes through twice, for the ends of the histograms and for what lies between them, and is forgotten.
    """
    lows: dict[str, np.ndarray] = {}
    highs: dict[str, np.ndarray] = {}
    for name, values in _tensors(calibrator, clips):
        size = np.abs(values)
        low, high = np.array([values.min(), size.min()]), np.array([values.max(), size.max()])
        lows[name], highs[name] = np.minimum(lows.get(name, low), low), np.maximum(highs.get(name, high), high)
    collector = HistogramCollector(
        calibrator.method, calibrator.symmetric, calibrator.num_bins, calibrator.num_quantized_bins,
        calibrator.percentile, calibrator.scenario,
    )  # fmt: skip
    counts: dict[str, np.ndarray] = {}
    for name, values in _tensors(calibrator, clips):
        (least, smallest), (most, largest) = lows[name], highs[name]
        inside, edges = np.histogram(np.abs(values), calibrator.num_bins, (smallest, largest))
        counts[name] = counts.get(name, 0) + inside
        collector.histogram_dict[name] = (counts[name], edges.astype(values.dtype), least, most)
    return collector


def _tensors(calibrator: Any, clips: Sequence[Inputs]) -> Iterator[tuple[str, np.ndarray]]:
    """The values that ranges are asked of, by name, clip by clip."""
    session = calibrator.infer_session
    names = [value.name for value in session.get_outputs()]
    for clip in clips:
        values = session.run(None, {name: value[None] for name, value in clip.items()})
        yield from (
            (name, made) for name, made in zip(names, values, strict=True) if name in calibrator.tensors_to_calibrate
        )


def _logits(content: bytes, clips: Sequence[Inputs]) -> np.ndarray:
    """[N, classes] of N clips."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised, in one line
    at_once = max(1, min(_BATCH, RUN_BYTES // sum(value.nbytes for value in clips[0].values())))
    session, rows = None, []
    for at in range(0, len(clips), at_once):
        batch = list(clips[at : at + at_once])
        inputs = {name: np.stack([clip[name] for clip in batch]) for name in batch[0]}
        try:
            session = session or onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            rows.append(session.run(None, inputs)[0])
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise PackageError(f"ONNX Runtime does not run it in int8: {reason[0][:200]}") from error
    return np.concatenate(rows)


CLIPS = 200

_HELD_OUT = 100

_LEAST = 20


def add(
    source: str | Path,
    folder: Path,
    data_root: str,
    *,
    dataset: str = "",
    root: str = "",
    clips: int = CLIPS,
    keep: tuple[str, ...] = (),
    overwrite: bool = False,
) -> ModelPackage:
    """Writes a copy of a package with the network in int8 beside it, scored where its test part is at hand.

    Args:
        source: A package's folder, or the name of one in the zoo.
        folder: Where to; may be the source's own with `overwrite`.
        data_root: Folder that holds a folder a dataset.
        dataset: The clips whose training part the ranges come of; empty for the one that it was trained on.
        root: Folder of that dataset itself; empty for its own in `data_root`.
        clips: How many; besides them, up to 100 others are compared on.
        keep: Layer groups that stay in float32.
        overwrite: Replace a package that is there.

    Raises:
        PackageError: The package is missing or corrupt, or int8 disagrees with float32.
        ConfigError: The dataset is not at hand, or has too few clips.
    """
    files.check_place(folder, FILES, overwrite)
    base = zoo.find(source)
    name = dataset or base.provenance.dataset
    own = name == base.provenance.dataset
    part = _training_part(base, name, root or datasets.folder(data_root, name))
    scoring.check_fit(base, part)
    content = base.read_onnx()
    check_groups(content, keep)  # before minutes of work, not after
    drawn = Drawn(base, part, clips + _HELD_OUT)
    if len(drawn) < _LEAST:
        raise ConfigError(
            f"{name}'s training part gives {len(drawn)} clips, at least {_LEAST} are needed for int8's ranges"
        )
    used = drawn[: min(clips, len(drawn) * 2 // 3)]
    others = drawn[len(used) :]
    try:
        found = quantized(content, used, others, keep)
    except PackageError as error:
        raise PackageError(f"{base.name}: {error}") from error
    logger.info("int8 calls %.1f %% of %d other clips what float32 calls them", 100 * found.agreement, len(others))
    lower = {precision: base.read_onnx(precision) for precision in base.precisions[1:]}
    lower["int8"] = found.content
    described = found.described(f"{len(used)} clips of {name}'s training part")
    draft = dataclasses.replace(base, int8=described)
    # Of another dataset, `root` is not the folder of the one whose test part tells the accuracy.
    draft = repackage.scored(draft, content, lower, "int8", data_root, root if own else "")
    return repackage.write_like(base, draft, content, lower, folder, overwrite)


def _training_part(base: ModelPackage, name: str, root: str) -> ClipDataset:
    """The training part of a dataset: of its own, by the split, fold and people that the package was trained on.

    Raises:
        ConfigError: There is no such dataset.
    """
    trained = base.provenance
    if name not in datasets.DATASETS.names():
        known = ", ".join(datasets.DATASETS.names())
        what = f"{base.name} was trained on '{name}'" if name == trained.dataset else f"--dataset is '{name}'"
        raise ConfigError(f"{what}, which is no dataset here: name one with --dataset: {known}")
    if name != trained.dataset:
        return datasets.create(name, root, part="train")
    return datasets.create(name, root, split=trained.split, part="train", **trained.settings.get("dataset_options", {}))


class Drawn(Sequence[Inputs]):
    """A network's inputs of clips drawn evenly at random, as it is evaluated; one of a window's clips each.

    Made whenever they are looked at: the pictures of 300 clips of P-I3D are 35 GB.

    Args:
        base: The package.
        clips: What is drawn from.
        count: How many, or all where there are fewer.
    """

    def __init__(self, base: ModelPackage, clips: ClipDataset, count: int):
        self._base, self._clips = base, clips
        self._mode = str(base.provenance.settings.get("clips", "live"))
        self._order = np.random.default_rng(0).permutation(len(clips))[:count]

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, index: int) -> Inputs: ...

    @overload
    def __getitem__(self, index: slice) -> "Drawn": ...

    def __getitem__(self, index: int | slice) -> "Inputs | Drawn":
        if isinstance(index, slice):
            part = copy.copy(self)
            part._order = self._order[index]
            return part
        return next(iter(scoring.inputs_of(self._clips[int(self._order[index])], self._base, self._mode)))
