"""Values inside a network, read from its ONNX graph by the names of its nodes."""

import importlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime

from actrec.utils.errors import MissingLibraryError, PackageError, first_line

INSTALL = "pip install onnx matplotlib, or: pip install 'actrec[train]'"


class Graph:
    """An ONNX graph whose inner values can be read.

    Args:
        content: The ONNX file.
        where: Its path, for errors.

    Raises:
        MissingLibraryError: The package `onnx` is not installed.
        PackageError: The graph cannot be read.
    """

    def __init__(self, content: bytes, where: str):
        try:
            onnx: Any = importlib.import_module("onnx")
        except ImportError:
            raise MissingLibraryError(f"figures of a network need the package onnx: {INSTALL}") from None
        self._onnx, self._where = onnx, where
        try:
            self._model = onnx.load_model_from_string(content)
        except Exception as error:  # protobuf's errors share no base class with ours
            raise PackageError(f"{where} cannot be read: {first_line(error)}: export it again") from error
        self._final = {value.name for value in self._model.graph.output}
        self._session: onnxruntime.InferenceSession | None = None
        self._wanted: tuple[str, ...] = ()

    def find(self, pattern: str) -> list[str]:
        """Return the names of the nodes that a regular expression matches whole, in the order of the graph.

        In a package of fused networks, the names of each network's nodes have a prefix, which may be anything.
        """
        whole = re.compile(rf"(?:stream_\d+/)?{pattern}")
        return [node.name for node in self._model.graph.node if whole.fullmatch(node.name)]

    @property
    def embedding(self) -> str | None:
        """The value from which the last linear layer makes the logits; None if they are a sum of several layers."""
        made = {output: node for node in self._model.graph.node for output in node.output}
        node = made.get(next(iter(self._final)))
        while node is not None and node.op_type not in ("Gemm", "MatMul", "Conv"):
            parents = [name for name in node.input if name in made]
            node = made[parents[0]] if len(parents) == 1 else None
        return None if node is None else str(node.input[0])

    def values(self, names: Mapping[str, str], inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return values by key for one clip, without the batch axis.

        Args:
            names: Key to the name of a node, whose first output is meant, or of a value.
            inputs: By name, without the batch axis.
        """
        outputs = {node.name: node.output[0] for node in self._model.graph.node}
        wanted = {key: outputs.get(name, name) for key, name in names.items()}
        chosen = tuple(dict.fromkeys([*wanted.values(), *self._final]))
        if self._session is None or set(chosen) != set(self._wanted):
            self._session, self._wanted = self._open(chosen), chosen
        batch = {name: value[None] for name, value in inputs.items()}
        found = dict(zip(self._wanted, self._session.run(list(self._wanted), batch), strict=True))
        return {key: found[value][0] for key, value in wanted.items()}

    def _open(self, names: tuple[str, ...]) -> onnxruntime.InferenceSession:
        model = self._onnx.ModelProto()
        model.CopyFrom(self._model)
        model.graph.output.extend(self._onnx.ValueInfoProto(name=name) for name in names if name not in self._final)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        try:
            return onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise PackageError(f"{self._where} cannot be opened: {first_line(error)}: export it again") from error
