"""Sparse convolution and sparse max-pooling (SEM-Net and SPA-Net, Eq. 9 and 10) as gathers and matrix products.

Neighbors are found outside the network (`actrec.features.voxels`), so that shapes are static and the graph holds no
search. Rows of the tables count from 1; row 0 reads as zeros. `PaddedNeighborhood` reads the padded tables, for export.
`Points` drops the padding of a whole batch, for training; its features are (points, C).
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from actrec.features.voxels import offsets
from actrec.utils import jit


class PaddedNeighborhood(NamedTuple):
    """The neighbors on one level. Sizes are plain numbers, which are constants in an exported graph.

    Attributes:
        points, size, pairs, addends: P, B, Q·B and J.
        kernel: (N, Q) int64, which W_{R(i) − R(j)} each tile uses.
        tiles: (N, Q·B) int64, the rows F_in(j) of each tile's pairs.
        sums: (N, P·J) int64, the pairs whose products point i adds up.
        times: (N, P·2·D) int64, the rows in the same voxel at t − d and t + d of each dilation d; None in SPA-4D.
        cells: (N, P·8) int64, the rows of the level below that the point pools.
        present: (N, P) bool, False for a slot that holds no point.
    """

    points: int
    size: int
    pairs: int
    addends: int
    kernel: Tensor
    tiles: Tensor
    sums: Tensor
    times: Tensor | None
    cells: Tensor
    present: Tensor

    def convolve(self, f: Tensor, weight: Tensor) -> Tensor:
        """Compute the sum of Eq. 9 without the center, weight (positions, C, C′): (N, P, C) to (N, P, C′)."""
        positions, c, c_out = weight.shape
        w = functional.embedding(self.kernel.clamp(0, positions - 1), weight.flatten(1))
        w = w.reshape(-1, c, c_out)  # (N, Q, C·C′) -> (N·Q, C, C′)
        x = rows(f, self.tiles, self.points).reshape(-1, self.size, c)  # (N, Q·B, C) -> (N·Q, B, C)
        products = torch.matmul(x, w).reshape(-1, self.pairs, c_out)  # (N·Q, B, C′) -> (N, Q·B, C′)
        addends = rows(products, self.sums, self.pairs)  # (N, P·J, C′)
        return addends.reshape(-1, self.points, self.addends, c_out).sum(dim=2)  # (N, P, J, C′) -> (N, P, C′)

    def temporal_neighbors(self, f: Tensor, branch: int, branches: int, channels: int) -> Tensor:
        """Return the points in the same voxel, earlier and later by a branch's dilation: (N, P, C) to (N, P, 2·C)."""
        assert self.times is not None
        times = self.times.reshape(-1, self.points, branches, 2)[:, :, branch]  # (N, P, 2)
        return rows(f, times.flatten(1), self.points).reshape(-1, self.points, 2 * channels)

    def pool(self, f: Tensor, channels: int) -> Tensor:
        """Compute Eq. 10: F_out(i) = max F_in(j) over the lower level's points j in voxel i; (N, P, C) to (N, P, C)."""
        children = rows(f, self.cells, self.points)  # (N, P·8, C)
        return children.reshape(-1, self.points, 8, channels).amax(dim=2)

    def mean(self, f: Tensor) -> Tensor:
        """Global average pooling over the points that are there: (N, P, C) to (N, C)."""
        weight = self.present.to(f.dtype).unsqueeze(1)  # (N, 1, P)
        weight = weight / weight.sum(dim=2, keepdim=True).clamp(min=1.0)
        return torch.matmul(weight, f).squeeze(1)


def rows(f: Tensor, index: Tensor, points: int) -> Tensor:
    """Return the rows of (N, P, C) by an index (N, K) that counts from 1: (N, K, C), zeros for 0.

    Out of range counts as the nearest row, so that no input can read another clip's rows.
    """
    nothing = f.new_zeros(f.shape[0], 1, f.shape[2])
    padded = torch.cat([nothing, f], dim=1).flatten(0, 1)  # (N, 1 + P, C) -> (N·(1 + P), C)
    first = torch.arange(f.shape[0], device=f.device).unsqueeze(1) * (points + 1)
    return functional.embedding(index.clamp(0, points) + first, padded)  # (N, K, C)


class SparseConvolution(nn.Module):
    """Eq. 9: F_out(i) = Σ_{R(j) ∈ B_R(i)} W_{R(i) − R(j)} F_in(j), over space, or over space and time.

    Args:
        channels_in, channels_out: C and C′.
        kernel, temporal: k in space and in time (1: sparse 3D convolution).
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, temporal: int = 1):
        super().__init__()
        relative = offsets(kernel, temporal)
        self.center = int((relative == 0).all(axis=1).argmax())
        self.weight = nn.Parameter(torch.empty(len(relative), channels_in, channels_out))  # W, in order of `offsets`
        # As a linear layer of the center alone: most of the window is empty.
        nn.init.uniform_(self.weight, -(channels_in**-0.5), channels_in**-0.5)

    def forward(self, f: Tensor, near: "Neighborhood") -> Tensor:
        """Map (N, P, C) to (N, P, C′)."""
        return torch.matmul(f, self.weight[self.center]) + near.convolve(f, self.weight)


def normalized_points(norm: nn.Module, f: Tensor) -> Tensor:
    """Normalize (points, C), or by the running statistics (N, P, C), whose absent rows become meaningless.

    A function, because on several devices Lightning replaces each `BatchNorm1d` by a `SyncBatchNorm`.
    """
    assert isinstance(norm, nn.BatchNorm1d | nn.SyncBatchNorm)
    if f.ndim == 2:
        return cast(Tensor, norm(f))
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return f * scale + (norm.bias - norm.running_mean * scale)


class TemporalConvolution(nn.Module):
    """1D convolution over time, kernel 3, at the same place: the points in the voxel at t − d, t and t + d.

    Multi-scale like MS-TFF (Fig. 4): a 1×1 convolution splits the channels into branches of one dilation each.

    Args:
        channels: In and out, a multiple of the number of branches.
        dilations: d of each branch; a single one is the plain temporal convolution.
    """

    def __init__(self, channels: int, dilations: tuple[int, ...]):
        super().__init__()
        self.width = channels // len(dilations)
        self.split = nn.Linear(channels, channels, bias=False)
        self.split_norm = nn.BatchNorm1d(channels)
        self.branches = nn.ModuleList(nn.Linear(3 * self.width, self.width, bias=False) for _ in dilations)
        self.norm = nn.BatchNorm1d(channels)

    def forward(self, f: Tensor, near: "Neighborhood") -> Tensor:
        """Map (N, P, C) to (N, P, C)."""
        f = torch.relu(normalized_points(self.split_norm, self.split(f)))
        scales = []
        for b, (branch, part) in enumerate(zip(self.branches, f.split(self.width, dim=-1), strict=True)):
            around = near.temporal_neighbors(part, b, len(self.branches), self.width)  # (N, P, 2·C / B): earlier, later
            scales.append(branch(torch.cat([around, part], dim=-1)))
        return normalized_points(self.norm, torch.cat(scales, dim=-1))


# -- training: points of a batch ---------------------------------------------------------------------------------------


class Pairs(NamedTuple):
    """Neighbors, sorted by share of the clips, then by relative position, then by point i.

    Attributes:
        source, target: (pairs) int64, points j and i.
        ends: (shares, positions) int64, on the CPU: the end of each position's pairs. Shares have no common point, so
            that threads can process one each.
    """

    source: Tensor
    target: Tensor
    ends: Tensor


def sorted_pairs(near: PaddedNeighborhood, number: Tensor, positions: int) -> Pairs:
    """Return the pairs of a level with `positions` of the kernel; `number` (N, P) is each slot's point in the batch."""
    if number.device.type != "cpu":
        return pairs_on_device(near, number, positions)
    clips = len(number)
    shares = max(1, min(torch.get_num_threads(), clips))
    counts = np.zeros((shares, positions), np.int64)
    share = np.arange(clips) * shares // clips
    sums, kernel, tiles = (table.reshape(clips, -1).numpy() for table in (near.sums, near.kernel, near.tiles))
    _count(sums, kernel, near.size, share, counts)
    ends = np.cumsum(counts).reshape(counts.shape)
    source, target = np.empty((2, int(counts.sum())), np.int64)
    _fill(sums, kernel, tiles, near.size, near.addends, number.numpy(), share, ends - counts, source, target)
    return Pairs(torch.from_numpy(source), torch.from_numpy(target), torch.from_numpy(ends))


def pairs_on_device(near: PaddedNeighborhood, number: Tensor, positions: int) -> Pairs:
    """`sorted_pairs` in one share, on any device."""
    sums = near.sums.reshape(-1, near.addends)  # (N·P, J)
    target, slot = sums.nonzero(as_tuple=True)
    clip, pair = target // near.points, sums[target, slot] - 1
    kernel = near.kernel[clip, pair // near.size]
    order = torch.argsort(kernel, stable=True)
    clip, pair = clip[order], pair[order]
    source = number[clip, near.tiles[clip, pair] - 1]
    ends = torch.bincount(kernel, minlength=positions).cumsum(0).unsqueeze(0)
    return Pairs(source, number.flatten()[target[order]], ends.cpu())


@jit.kernel
def _count(sums: np.ndarray, kernel: np.ndarray, size: int, share: np.ndarray, counts: np.ndarray) -> None:
    """Add each group's pairs to counts [shares, positions]."""
    for clip in range(len(sums)):
        for pair in sums[clip]:
            if pair > 0:
                counts[share[clip], kernel[clip, (pair - 1) // size]] += 1


@jit.kernel
def _fill(
    sums: np.ndarray, kernel: np.ndarray, tiles: np.ndarray, size: int, addends: int, number: np.ndarray,
    share: np.ndarray, following: np.ndarray, source: np.ndarray, target: np.ndarray,
) -> None:  # fmt: skip
    """Write each group's pairs from `following` [shares, positions] on."""
    for clip in range(len(sums)):
        for slot, pair in enumerate(sums[clip]):
            if pair > 0:
                position = kernel[clip, (pair - 1) // size]
                place = following[share[clip], position]
                source[place] = number[clip, tiles[clip, pair - 1] - 1]
                target[place] = number[clip, slot // addends]
                following[share[clip], position] = place + 1


_BLOCK = 128
"""Rows at a time: of up to 128 channels they stay in a core's second cache with the matrix they are multiplied by."""


class PairProducts(torch.autograd.Function):
    """Σ of W_position F(j) over each point's pairs: (points, C) and (positions, C, C′) to float32 (points, C′)."""

    @staticmethod
    def forward(ctx: Any, f: Tensor, weight: Tensor, pairs: Pairs) -> Tensor:
        """Return the sums; a point without pairs gets zeros."""
        ctx.save_for_backward(f, weight)
        ctx.pairs = pairs
        return (_sums_of_blocks if f.device.type == "cpu" else sums)(f, weight, pairs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None]:
        """Gradients of features, where anybody needs them, and of matrices."""
        f, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad[0]  # not by the first layer, whose features are the input
        made = (_gradients_of_blocks if f.device.type == "cpu" else gradients)(f, weight, ctx.pairs, grad, wanted)
        return made[0].to(f.dtype) if wanted else None, made[1].to(weight.dtype), None


def sums(f: Tensor, weight: Tensor, pairs: Pairs) -> Tensor:
    """`PairProducts` forwards, on any device."""
    products = _grouped(f.index_select(0, pairs.source), weight.to(f.dtype), pairs)
    return _zeros(f, weight.shape[2]).index_add(0, pairs.target, products.float())


def gradients(f: Tensor, weight: Tensor, pairs: Pairs, grad: Tensor, of_features: bool = True) -> tuple[Tensor, Tensor]:
    """Run `PairProducts` backwards, on any device; the first result is empty if it is not wanted."""
    x, weight = f.index_select(0, pairs.source), weight.to(f.dtype)
    g = grad.to(f.dtype).index_select(0, pairs.target)  # (pairs, C′)
    of_f = _zeros(f, weight.shape[1]) if of_features else _zeros(f[:0], weight.shape[1])
    if of_features:
        of_f.index_add_(0, pairs.source, _grouped(g, weight.transpose(1, 2), pairs).float())
    of_weight = torch.zeros_like(weight)
    for position, start, end in _groups(pairs):
        of_weight[position].addmm_(x[start:end].t(), g[start:end])
    return of_f, of_weight


def _grouped(x: Tensor, weight: Tensor, pairs: Pairs) -> Tensor:
    """Multiply each of the rows (pairs, C) by the matrix of its position: (pairs, C′)."""
    out = x.new_empty(len(x), weight.shape[2])
    for position, start, end in _groups(pairs):
        torch.mm(x[start:end], weight[position], out=out[start:end])
    return out


def _groups(pairs: Pairs) -> list[tuple[int, int, int]]:
    """Return (position, first pair, end) of every group that has pairs."""
    ends = pairs.ends.flatten().tolist()
    positions, starts = pairs.ends.shape[1], [0, *ends]
    return [(group % positions, starts[group], end) for group, end in enumerate(ends) if end > starts[group]]


def _zeros(f: Tensor, channels: int) -> Tensor:
    return torch.zeros(len(f), channels, dtype=torch.float32, device=f.device)


def _sums_of_blocks(f: Tensor, weight: Tensor, pairs: Pairs) -> Tensor:
    out = _zeros(f, weight.shape[2])
    x, w, y = _array(f), _array(weight), out.numpy()
    source, target = pairs.source.numpy(), pairs.target.numpy()
    _each_share(pairs, lambda share, start, ends: _add_products(x, w, source, target, start, ends, y))
    return out


def _gradients_of_blocks(
    f: Tensor, weight: Tensor, pairs: Pairs, grad: Tensor, of_features: bool = True
) -> tuple[Tensor, Tensor]:
    of_f = _zeros(f if of_features else f[:0], f.shape[1])
    of_weight = torch.zeros(len(pairs.ends), *weight.shape)  # of each share, so that none waits for another
    x, w, g = _array(f), _array(weight), _array(grad)
    of_x, of_w = of_f.numpy(), of_weight.numpy()
    source, target = pairs.source.numpy(), pairs.target.numpy()
    _each_share(
        pairs, lambda share, start, ends: _add_gradients(x, w, g, source, target, start, ends, of_x, of_w[share])
    )
    return of_f, of_weight.sum(dim=0)


def _array(x: Tensor) -> np.ndarray:
    return x.detach().float().contiguous().numpy()


def _each_share(pairs: Pairs, work: Any) -> None:
    """Call work(share, first pair, ends) for every share of the clips, in threads if there are several shares."""
    ends = pairs.ends.numpy()
    jobs = [(share, int(ends[share - 1, -1]) if share else 0, ends[share]) for share in range(len(ends))]
    if len(jobs) == 1:
        work(*jobs[0])
        return
    with ThreadPoolExecutor(len(jobs)) as threads:
        list(threads.map(lambda job: work(*job), jobs))


@jit.kernel
def _add_products(
    f: np.ndarray, weight: np.ndarray, source: np.ndarray, target: np.ndarray, start: int, ends: np.ndarray,
    out: np.ndarray,
) -> None:  # fmt: skip
    """Add W_position f[j] of a share's pairs (j, i) to out[i]."""
    x = np.empty((_BLOCK, weight.shape[1]), np.float32)
    y = np.empty((_BLOCK, weight.shape[2]), np.float32)
    for position in range(ends.size):
        for begin in range(start, ends[position], _BLOCK):
            n = min(_BLOCK, ends[position] - begin)
            _gather(f, source[begin : begin + n], x)
            np.dot(x[:n], weight[position], y[:n])
            _scatter(y, target[begin : begin + n], out)
        start = ends[position]


@jit.kernel
def _add_gradients(
    f: np.ndarray, weight: np.ndarray, grad: np.ndarray, source: np.ndarray, target: np.ndarray, start: int,
    ends: np.ndarray, of_f: np.ndarray, of_weight: np.ndarray,
) -> None:  # fmt: skip
    """Add the pairs' (j, i) part of the gradients of f[j], unless `of_f` is empty, and of W_position."""
    x = np.empty((_BLOCK, weight.shape[1]), np.float32)
    of_x = np.empty((_BLOCK, weight.shape[1]), np.float32)
    g = np.empty((_BLOCK, weight.shape[2]), np.float32)
    for position in range(ends.size):
        transposed = weight[position].T.copy()
        for begin in range(start, ends[position], _BLOCK):
            n = min(_BLOCK, ends[position] - begin)
            _gather(f, source[begin : begin + n], x)
            _gather(grad, target[begin : begin + n], g)
            of_weight[position] += np.dot(x[:n].T, g[:n])
            if len(of_f):
                np.dot(g[:n], transposed, of_x[:n])
                _scatter(of_x, source[begin : begin + n], of_f)
        start = ends[position]


@jit.kernel
def _gather(rows: np.ndarray, index: np.ndarray, out: np.ndarray) -> None:
    for k in range(index.size):
        row, copy = rows[index[k]], out[k]  # by themselves, so that they become SIMD
        for c in range(row.size):
            copy[c] = row[c]


@jit.kernel
def _scatter(rows: np.ndarray, index: np.ndarray, out: np.ndarray) -> None:
    for k in range(index.size):
        row, total = rows[k], out[index[k]]
        for c in range(total.size):
            total[c] += row[c]


class Points:
    """One level's points of a whole batch, numbered without gaps; features are (points, C).

    Args:
        near: The level's padded tables.
        positions: Relative positions of the kernel.
        below: The level below; None for the first.
    """

    def __init__(self, near: PaddedNeighborhood, positions: int, below: "Points | None"):
        present = near.present.flatten()  # (N·P)
        self.slots = present.nonzero().squeeze(1)  # (points)
        self.count, self.clips = len(self.slots), len(near.present)
        number = torch.cumsum(present, 0) - 1
        # What is nothing reads the row of zeros after the last point.
        self._number = torch.where(present, number, torch.full_like(number, self.count)).reshape(near.present.shape)
        self.clip = self.slots // near.points
        self._pairs = sorted_pairs(near, self._number, positions)
        self._times = None if near.times is None else self._numbers(near.times.reshape(*near.present.shape, -1))
        self._children = None if below is None else below._numbers(near.cells.reshape(*near.present.shape, 8), self)

    def _numbers(self, table: Tensor, of: "Points | None" = None) -> Tensor:
        """Return a table (N, P, K) of rows of this level as numbers of its points: (points of `of`, K)."""
        kept = table.flatten(0, 1)[(of or self).slots]
        clip = (of or self).clip.unsqueeze(1)
        numbers = self._number[clip, (kept - 1).clamp(min=0)]
        return torch.where(kept > 0, numbers, torch.full_like(numbers, self.count))

    def convolve(self, f: Tensor, weight: Tensor) -> Tensor:
        """Compute the sum of Eq. 9 without the center, weight (positions, C, C′): (points, C) to (points, C′)."""
        return PairProducts.apply(f, weight, self._pairs)

    def temporal_neighbors(self, f: Tensor, branch: int, branches: int, channels: int) -> Tensor:
        """Return the points in the same voxel, earlier and later by a dilation: (points, C) to (points, 2·C)."""
        assert self._times is not None
        index = self._times[:, 2 * branch : 2 * branch + 2].flatten()
        return _with_nothing(f).index_select(0, index).reshape(self.count, 2 * channels)

    def pool(self, f: Tensor, channels: int) -> Tensor:
        """Compute Eq. 10, the maximum over the lower level's points in a voxel: (points below, C) to (points, C)."""
        assert self._children is not None
        children = _with_nothing(f).index_select(0, self._children.flatten())
        return children.reshape(self.count, 8, channels).amax(dim=1)

    def mean(self, f: Tensor) -> Tensor:
        """Global average pooling over the points of each clip: (points, C) to (N, C)."""
        sums = torch.zeros(self.clips, f.shape[1], dtype=torch.float32, device=f.device)
        counts = torch.bincount(self.clip, minlength=self.clips).clamp(min=1)
        return sums.index_add(0, self.clip, f.float()) / counts.unsqueeze(1)


def _with_nothing(f: Tensor) -> Tensor:
    """Append a row of zeros to (points, C)."""
    return torch.cat([f, f.new_zeros(1, f.shape[1])])


Neighborhood = PaddedNeighborhood | Points
"""The neighborhood of a level, as the layers use it."""
