"""Runs a network frame by frame: each step computes one frame and reuses what earlier ones left.

    session = StreamingSession("model.stream.onnx")
    logits = session.step({"body": frame})      # [classes], as of this frame
    session.reset()                             # another person

The ONNX file is what `actrec_models.export.onnx_graph.step_to_onnx` writes. No torch here.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime

from actrec.utils.errors import InputError, PackageError

METADATA = "actrec.streaming"
"""Key of the ONNX file's metadata: state name to the frames between the values of it that a step takes, as JSON."""


class _Ring:
    """The last values of one state, `step` frames apart; the frames between are other such series.

    Each value is kept twice, one length apart, so that any `count` successive ones lie in one piece.

    Args:
        shape: (rows, C, count, V) of a step's input.
        step: Frames from one value to the next.
    """

    def __init__(self, shape: tuple[int, int, int, int], step: int):
        rows, channels, self.count, joints = shape
        self.step = step
        self.values = np.zeros((step, rows, channels, 2 * self.count, joints), dtype=np.float32)
        self.taken = np.zeros(shape, dtype=np.float32)

    def read(self, time: int) -> np.ndarray:
        """[rows, C, count, V], the oldest first, before frame `time` is written; valid until the next call."""
        turn, series = divmod(time, self.step)
        first = turn % self.count
        np.copyto(self.taken, self.values[series, :, :, first : first + self.count])
        return self.taken

    def write(self, time: int, value: np.ndarray) -> None:
        """Keep frame `time`'s value [rows, C, 1, V]."""
        turn, series = divmod(time, self.step)
        self.values[series, :, :, turn % self.count :: self.count] = value


class StreamingSession:
    """A step network, and its memory of one stream of frames.

    Args:
        onnx: The file's content, or its path.
        batch: N streams that are stepped together.
        threads: CPU threads for one step.

    Raises:
        PackageError: The file is missing, corrupt or no step network.
    """

    def __init__(self, onnx: bytes | str | Path, batch: int = 1, threads: int = 1):
        where = "the step network" if isinstance(onnx, bytes) else str(onnx)
        self.batch = batch
        self._session = _open(onnx if isinstance(onnx, bytes) else _read(Path(onnx)), where, threads)
        shapes = {value.name: value.shape for value in self._session.get_inputs()}
        steps = _steps(self._session, where)
        self.frames = {name: tuple(shape[1:]) for name, shape in shapes.items() if not name.startswith("past_")}
        """Input name to the shape of one frame, (M, 3, 1, V)."""
        self.bodies = next(iter(self.frames.values()))[0]
        self._rings = {
            name: _Ring((batch * self.bodies, *shapes[f"past_{name}"][1:]), step) for name, step in steps.items()
        }
        self._outputs = [value.name for value in self._session.get_outputs()]
        self.time = 0
        """Frames since the start."""

    def reset(self) -> None:
        """Forgets all frames: the next one is the first."""
        self.time = 0
        for ring in self._rings.values():
            ring.values.fill(0)

    def step(self, frame: Mapping[str, np.ndarray]) -> np.ndarray:
        """Logits [N, classes] as of this frame.

        Args:
            frame: Input name to (N, M, 3, 1, V) float32, made as for the window form; the batch axis is optional
                where N is 1, and then it lacks in the result too.

        Raises:
            InputError: A frame's input is absent or has another shape; the message has both shapes.
        """
        given = {name: self._batched(name, frame) for name in self.frames}
        past = {f"past_{name}": ring.read(self.time) for name, ring in self._rings.items()}
        values = dict(zip(self._outputs, self._session.run(None, {**given, **past}), strict=True))
        for name, ring in self._rings.items():
            ring.write(self.time, values[f"new_{name}"])
        self.time += 1
        single = all(np.ndim(frame[name]) == len(shape) for name, shape in self.frames.items())
        return values["logits"][0] if single else values["logits"]

    def _batched(self, name: str, frame: Mapping[str, np.ndarray]) -> np.ndarray:
        if name not in frame:
            raise InputError(f"a frame holds {', '.join(sorted(frame)) or 'nothing'}, but the network takes '{name}'")
        value, shape = np.asarray(frame[name], dtype=np.float32), self.frames[name]
        batched = value[None] if value.ndim == len(shape) else value
        if batched.shape != (self.batch, *shape):
            raise InputError(
                f"input '{name}' is {list(value.shape)}, expected [N, M, 3, 1, V] = {[self.batch, *shape]}"
            )
        return batched


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PackageError(f"{path}: {error.strerror or error}: export the step network again") from error


def _open(content: bytes, where: str, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # faults are raised, in one line
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise PackageError(f"{where} cannot be opened: {str(error).splitlines()[0][:200]}: export it again") from error


def _steps(session: onnxruntime.InferenceSession, where: str) -> dict[str, int]:
    stated = session.get_modelmeta().custom_metadata_map.get(METADATA)
    inputs = {value.name for value in session.get_inputs()}
    outputs = {value.name for value in session.get_outputs()}
    steps: dict[str, int] = json.loads(stated) if stated else {}
    if not steps or not all(f"past_{name}" in inputs and f"new_{name}" in outputs for name in steps):
        raise PackageError(f"{where} is no step network: write one with actrec_models.export.onnx_graph.step_to_onnx")
    return steps
