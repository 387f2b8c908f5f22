"""Frame-by-frame networks: a step takes a new frame and the state of earlier ones, and returns the logits.

Evaluated à trous: a layer behind temporal strides of s is computed at every frame, and its temporal kernel reaches over
frames s apart. So at every frame the step equals the window form on the window that ends there, with the same
weights, and computes each layer for one frame only. The window forms are `deepacts_graph` with padding: none, of
any T that its kernel allows (the step gives the same after T frames, whatever came before), and `sem_net` with causal:
true, of all frames since the first (its running means of Eq. 6 never end).

What a step needs of the past are values of its own, equally spaced in time (`State.step`). Whoever runs it keeps them
in rings (`actrec.inference.onnxruntime_backend`), so that nothing in the graph is shifted or copied.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from actrec.utils.errors import ConfigError
from actrec_models.layers.common import sizes
from actrec_models.layers.st_gcn import GraphBlock, present
from actrec_models.networks.base import Network
from actrec_models.networks.deepacts import DeepActsGraph, GraphBranch
from actrec_models.networks.sem_net import (
    GrCfsa,
    MultiScaleFeedForward,
    SemBlock,
    SemNet,
    SemStream,
    TemporalBranch,
    combine,
)


@dataclass(frozen=True)
class State:
    """A value that a step passes to later steps.

    Attributes:
        name: The step takes `past_<name>` (N·M, C, count, V) and gives `new_<name>` (N·M, C, 1, V).
        shape: (C, V).
        step, count: It takes the values of `count` frames, `step` frames apart, the oldest first; the newest is `step`
            frames ago. Before the first frame a value is zero.
    """

    name: str
    shape: tuple[int, int]
    step: int
    count: int


class Past:
    """The state of earlier frames that a step reads and updates.

    Args:
        values: State name to (N·M, C, count, V); None to read zeros and find out which states there are.
    """

    def __init__(self, values: dict[str, Tensor] | None):
        self.values = values
        self.states: dict[str, State] = {}
        self.new: dict[str, Tensor] = {}

    def read(self, name: str, like: Tensor, step: int, count: int = 1) -> Tensor:
        """Return the last `count` values, `step` frames apart, (N·M, C, count, V), each of (N·M, C, 1, V)."""
        channels, _, joints = sizes(like)
        self.states[name] = State(name, (channels, joints), step, count)
        if self.values is None:
            return like.new_zeros(like.shape[0], channels, count, joints)
        return self.values[name]

    def write(self, name: str, value: Tensor) -> None:
        """Store this frame's value (N·M, C, 1, V)."""
        self.new[name] = value

    def window(self, name: str, value: Tensor, step: int, count: int) -> Tensor:
        """Return this frame's value after the `count` − 1 values before it, `step` apart: (N·M, C, count, V)."""
        if count == 1:
            return value
        past = self.read(name, value, step, count - 1)
        self.write(name, value)
        return torch.cat([past, value], dim=2)

    def delayed(self, name: str, value: Tensor, step: int) -> Tensor:
        """Return the value `step` frames ago, (N·M, C, 1, V)."""
        if step == 0:
            return value
        before = self.read(name, value, step)
        self.write(name, value)
        return before

    def mean(self, name: str, value: Tensor, step: int, memory: int) -> Tensor:
        """Return the running mean of the values `step` frames apart, fading after `memory` of them: (N·M, C, 1, V)."""
        before = self.read(name, value, step)
        mean = before + (value - before) / self.count(f"{name}.count", value, step, memory)
        self.write(name, mean)
        return mean

    def count(self, name: str, value: Tensor, step: int, most: int) -> Tensor:
        """Return the number of values so far, `step` frames apart, with this one, at most `most`: (N·M, 1, 1, 1)."""
        count = (self.read(name, value[:, :1, :, :1], step) + 1).clamp(max=most)
        self.write(name, count)
        return count


class Step(nn.Module):
    """A network's step, which shares its weights; `states` are the values to pass to the next step.

    Raises:
        ConfigError: The network has no such form (`ADAPTERS`), or was not made for it.
    """

    def __init__(self, network: Network):
        super().__init__()
        self.network = network
        self._logits = next((adapter for kind, adapter in ADAPTERS.items() if isinstance(network, kind)), _refuse)
        past = Past(None)
        with torch.no_grad():
            self._logits(
                network.eval(), {name: torch.zeros(1, *shape) for name, shape in self.frame_shapes.items()}, past
            )
        self.states = tuple(past.states.values())

    @property
    def frame_shapes(self) -> dict[str, tuple[int, ...]]:
        """Input name to the shape of one frame, (M, 3, 1, V)."""
        return {s.name: (*s.shape[:2], 1, s.shape[3]) for s in self.network.input_specs}

    def past_shape(self, state: State, batch: int = 1) -> tuple[int, ...]:
        """Return (N·M, C, count, V), the part of a state that the step reads."""
        rows = batch * next(iter(self.frame_shapes.values()))[0]
        return (rows, state.shape[0], state.count, state.shape[1])

    @property
    def example_inputs(self) -> dict[str, Tensor]:
        """Zeros for all inputs of a first step."""
        frames = {name: torch.zeros(1, *shape) for name, shape in self.frame_shapes.items()}
        return {**frames, **{f"past_{s.name}": torch.zeros(self.past_shape(s)) for s in self.states}}

    def forward(self, **inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the logits (N, classes) at this frame, and each state's new value.

        Args:
            inputs: The frame by input name, (N, M, 3, 1, V), and `past_<state>` of each state.
        """
        past = Past({s.name: inputs[f"past_{s.name}"] for s in self.states})
        logits = self._logits(self.network, {name: inputs[name] for name in self.frame_shapes}, past)
        return logits, past.new


Logits = Callable[..., Tensor]


def _refuse(network: Network, *_: object) -> Tensor:
    names = ", ".join(kind.__name__ for kind in ADAPTERS)
    raise ConfigError(f"{type(network).__name__} cannot run frame by frame; these can: {names}")


def _sem_net(network: SemNet, frames: dict[str, Tensor], past: Past) -> Tensor:
    if not network.config.causal:
        raise ConfigError("this sem_net looks ahead, so it cannot run frame by frame: train it with causal: true")
    streams = [(name, stream) for name, stream in network.streams.items() if isinstance(stream, SemStream)]
    return combine([_sem_stream(stream, frames[name], past, name) for name, stream in streams])


def _sem_stream(stream: SemStream, x: Tensor, past: Past, name: str) -> Tensor:
    bodies = sizes(x)[0]
    f, step = stream.normalize(x), 1
    for i, block in enumerate(stream.blocks):
        assert isinstance(block, SemBlock)
        f = _sem_block(block, f, past, f"{name}.{i}", step)
        step *= block.feed_forward.stride
    f = _pool(f, past, f"{name}.pool", step, stream.length)
    return stream.fc(f.reshape(-1, bodies, stream.fc.in_features).mean(dim=1))  # mean of (N, M, C) over M


def _sem_block(block: SemBlock, x: Tensor, past: Past, name: str, step: int) -> Tensor:
    attention: GrCfsa = block.attention
    described_by = x
    if attention.mode == "cross_frame":
        described_by = past.mean(f"{name}.mean", x, step, attention.memory)
    f = block.mix(x, attention.within_frames(x, described_by))
    return _feed_forward(block.feed_forward, f, past, name, step)


def _feed_forward(layer: MultiScaleFeedForward, x: Tensor, past: Past, name: str, step: int) -> Tensor:
    outputs = []
    for i, (branch, part) in enumerate(zip(layer.branches, layer.parts(x), strict=True)):
        assert isinstance(branch, TemporalBranch)
        window = past.window(f"{name}.branch{i}", part, step * branch.dilation, branch.kernel)
        outputs.append(branch.norm(_convolve(branch.conv, window)))
    return torch.relu(torch.cat(outputs, dim=1) + x)


def _deepacts_graph(network: DeepActsGraph, frames: dict[str, Tensor], past: Past) -> Tensor:
    branches = [branch for branch in network.branches.values() if isinstance(branch, GraphBranch)]
    scores = [
        _graph_branch(branch, frames[name], past, name, network.config.frames)
        for name, branch in zip(network.names, branches, strict=True)
    ]
    return sum(scores[1:], scores[0])


def _graph_branch(branch: GraphBranch, f_in: Tensor, past: Past, name: str, frames: int) -> Tensor:
    bodies, step = sizes(f_in)[0], 1
    f = branch.normalize(f_in)
    for i, block in enumerate(branch.blocks):
        assert isinstance(block, GraphBlock)
        f = _graph_block(block, f, past, f"{name}.{i}", step)
        step *= block.stride
    f = _pool(f, past, f"{name}.pool", step, branch.length)
    f = f.reshape(-1, bodies, branch.fc.in_features).mean(dim=1)  # (N, C)
    return branch.fc(f) * _present_lately(f_in, past, f"{name}.present", frames)


def _graph_block(block: GraphBlock, f_in: Tensor, past: Past, name: str, step: int) -> Tensor:
    norm, relu, conv, norm_after, _ = block.temporal
    assert isinstance(conv, nn.Conv2d)
    window = past.window(f"{name}.time", relu(norm(block.spatial(f_in))), step, block.kernel)
    f = norm_after(_convolve(conv, window))
    if block.residual is not None:
        # An output is about the middle of its kernel, which is that many frames ago.
        f = f + block.residual(past.delayed(f"{name}.shortcut", f_in, step * (block.kernel // 2)))
    return torch.relu(f)


def _convolve(conv: nn.Conv2d, window: Tensor) -> Tensor:
    """Return the temporal convolution's one output for exactly the frames that its kernel meets."""
    return nn.functional.conv2d(window, conv.weight, conv.bias)


def _pool(f: Tensor, past: Past, name: str, step: int, count: int) -> Tensor:
    """Return the mean over V and the last `count` outputs, or all so far: (N·M, C, 1, 1)."""
    f = f.mean(dim=3, keepdim=True)
    outputs = past.window(name, f, step, count).sum(dim=2, keepdim=True)
    return outputs / past.count(f"{name}.count", f, step, count)


def _present_lately(f_in: Tensor, past: Past, name: str, frames: int) -> Tensor:
    """Return (N, 1): 1 if any of the last `frames` frames of (N, M, 3, 1, V) has a nonzero value."""
    bodies = sizes(f_in)[0]
    here = present(f_in).repeat(1, bodies).reshape(-1, 1, 1, 1)  # (N·M, 1, 1, 1)
    left = (past.read(name, here, 1) - 1).clamp(min=0)  # frames for which the last presence still counts
    left = torch.maximum(left, here * frames)
    past.write(name, left)
    return left.reshape(-1, bodies)[:, :1].clamp(max=1)


ADAPTERS: dict[type, Logits] = {SemNet: _sem_net, DeepActsGraph: _deepacts_graph}
