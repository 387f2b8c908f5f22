"""A network in int8: Q/DQ nodes by ONNX Runtime's quantiser, as TensorRT reads them, with ranges of recorded clips."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationMethod, QuantType, create_calibrator
from onnxruntime.quantization.calibrate import HistogramCollector
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

from actrec.errors import ConfigError, PackageError
from actrec.inference.layer_groups import group_of, is_kept
from actrec.inference.session import RUN_BYTES
from actrec.package import LowerPrecision
from actrec_models import tensorrt_operators
from actrec_models.half_precision import difference
from actrec_models.scratch import scratch

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
class Quantised:
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


def quantised(
    content: bytes, calibration: Sequence[Inputs], held_out: Sequence[Inputs], keep: Sequence[str] = ()
) -> Quantised:
    """The network in int8; where it disagrees with float32, the layer groups that disturb it most stay in float32.

    Args:
        content: The ONNX graph in float32, simplified.
        calibration: Inputs of recorded clips, without the batch axis; asked for again and again.
        held_out: Those of others, to compare on.
        keep: Layer groups that stay in float32 (`actrec.inference.layer_groups`).

    Raises:
        ConfigError: There is no such group.
        PackageError: ONNX Runtime cannot quantise it, or it disagrees even with half of its groups in float32.
        DeviceError: The disk of temporary files is full.
    """
    check_groups(content, keep)
    with scratch(_COPIES * len(content)) as folder:
        quantiser = _Quantiser(content, folder, calibration)
        expected = _logits(content, held_out)

        def judged(kept: Sequence[str]) -> Quantised:
            made = quantiser.made(kept)
            found = _logits(made, held_out)
            agreement = float((found.argmax(axis=1) == expected.argmax(axis=1)).mean())
            return Quantised(made, difference(found, expected), agreement, tuple(kept))

        best = judged(keep)
        if best.agreement >= LEAST_AGREEMENT:
            return best
        logger.info("int8 agrees on %.1f %% of the clips: looking for the layers that disturb it", 100 * best.agreement)
        for kept in _ever_more(quantiser, expected, held_out, keep):
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
    groups = _groups(_quantisable_nodes(onnx.load_model_from_string(content)))
    if groups and (absent := sorted(set(keep) - set(groups))):
        raise ConfigError(f"no layer group '{absent[0]}'; there are {', '.join(groups)}")


def _ever_more(
    quantiser: "_Quantiser", expected: np.ndarray, held_out: Sequence[Inputs], keep: Sequence[str]
) -> Iterator[list[str]]:
    """Lists of groups, the one that disturbs the logits most alone, then with the next, up to half of all."""
    others = [group for group in quantiser.groups if group not in keep]
    harm = {}
    for group in others:
        alone = quantiser.made([name for name in quantiser.groups if name != group])
        harm[group] = float(np.abs(_logits(alone, held_out) - expected).mean())
    ranked = sorted(others, key=lambda group: -harm[group])
    for count in range(1, max(len(ranked) // 2, 1) + 1):
        yield [*keep, *ranked[:count]]


class _Quantiser:
    """Quantises one network, some of its layer groups or others, with ranges found once."""

    def __init__(self, content: bytes, folder: Path, calibration: Sequence[Inputs]):
        self._file = folder / "model.onnx"
        self._file.write_bytes(content)
        self._nodes = _quantisable_nodes(onnx.load_model_from_string(content))
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
        quantiser = QDQQuantizer(
            model, True, False, QuantType.QInt8, QuantType.QInt8, self._ranges, chosen, [], list(OPERATORS), _OPTIONS
        )
        quantiser.quantize_model()
        made = quantiser.model.model
        del made.graph.value_info[:]
        found = tensorrt_operators.problems(made)
        if found:
            raise PackageError(f"in int8, {found[0]}")
        return bytes(made.SerializeToString())


def _quantisable_nodes(model: Any) -> list[str]:
    return [node.name for node in model.graph.node if _quantisable(node, model.graph)]


def _groups(nodes: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(group_of(name) for name in nodes))


def _quantisable(node: Any, graph: Any) -> bool:
    """Matrices are quantised by column, which ONNX Runtime has for matrices alone, not for stacks of them."""
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
