"""Sparse convolution's pairs and products on a CPU against the same on any device, operation by operation."""

import itertools

import numpy as np
import pytest
import torch

from actrec_models.layers.sparse import (
    PairProducts,
    Pairs,
    Points,
    _gradients_of_blocks,
    gradients,
    pairs_on_device,
    sorted_pairs,
    sums,
)
from tests.models.layers.neighborhoods import distinct_cells, near

POSITIONS = 27


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def level(clips=5, frames=6, joints=30):
    """Crowded voxels: more pairs of a position than a block has rows."""
    return near(distinct_cells(4, frames, joints), batch=clips)


def rows(pairs: Pairs):
    """(relative position, j, i) of every pair, in an order of their own."""
    found, start = [], 0
    for ends in pairs.ends.tolist():
        for position, end in enumerate(ends):
            found += [(position, *pair) for pair in zip(pairs.source[start:end].tolist(),
                                                        pairs.target[start:end].tolist(), strict=True)]  # fmt: skip
            start = end
    return sorted(found)


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_sorted_pairs_equal_for_any_thread_count(threads, count):
    threads(count)
    around = level()
    number = Points(around, POSITIONS, None)._number
    pairs, expected = sorted_pairs(around, number, POSITIONS), pairs_on_device(around, number, POSITIONS)
    assert len(pairs.source) == len(expected.source) > 128 * POSITIONS
    assert rows(pairs) == rows(expected)
    assert pairs.ends.shape == (min(count, 5), POSITIONS)
    if count == 1:
        assert all(torch.equal(a, b) for a, b in zip(pairs, expected, strict=True))


@pytest.mark.parametrize("count", [1, 2])
def test_sorted_pairs_shares_are_disjoint(threads, count):
    threads(count)
    around = level()
    pairs = Points(around, POSITIONS, None)._pairs
    ends = [0, *pairs.ends[:, -1].tolist()]
    both = torch.stack([pairs.source, pairs.target])
    points = [set(both[:, start:end].flatten().tolist()) for start, end in itertools.pairwise(ends)]
    assert len(points) == count
    assert sum(map(len, points)) == len(set().union(*points))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(("c", "c_out"), [(22, 16), (16, 16), (16, 32), (3, 5), (1, 1), (160, 200)])
def test_pair_products_blocks_equal_whole_operations(threads, count, c, c_out):
    threads(count)
    torch.manual_seed(0)
    made = Points(level(), POSITIONS, None)
    f = torch.randn(made.count, c, requires_grad=True)
    weight = torch.randn(POSITIONS, c, c_out, requires_grad=True)
    grad = torch.randn(made.count, c_out)
    out = PairProducts.apply(f, weight, made._pairs)
    out.backward(grad)
    torch.testing.assert_close(out.detach(), sums(f.detach(), weight.detach(), made._pairs), atol=1e-3, rtol=1e-4)
    of_f, of_weight = gradients(f.detach(), weight.detach(), made._pairs, grad)
    torch.testing.assert_close(f.grad, of_f, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(weight.grad, of_weight, atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("way", [gradients, _gradients_of_blocks])
def test_pair_products_input_without_gradient_gets_none(way):
    made = Points(level(clips=2), POSITIONS, None)
    f, weight, grad = torch.randn(made.count, 4), torch.randn(POSITIONS, 4, 6), torch.randn(made.count, 6)
    of_f, of_weight = way(f, weight, made._pairs, grad, False)
    assert of_f.shape == (0, 4)
    torch.testing.assert_close(of_weight, way(f, weight, made._pairs, grad)[1])
    weight.requires_grad_()
    PairProducts.apply(f, weight, made._pairs).backward(grad)
    torch.testing.assert_close(weight.grad, of_weight, atol=1e-3, rtol=1e-4)


def test_pair_products_half_precision_gives_half_gradients():
    made = Points(level(clips=1), POSITIONS, None)
    f = torch.randn(made.count, 4).bfloat16().requires_grad_()
    weight = torch.randn(POSITIONS, 4, 6, requires_grad=True)
    out = PairProducts.apply(f, weight, made._pairs)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, sums(f.detach().float(), weight.detach(), made._pairs), atol=1e-4, rtol=1e-4)
    out.sum().backward()
    assert f.grad.dtype == torch.bfloat16
    assert weight.grad.dtype == torch.float32


def test_pair_products_single_points_give_zeros(threads):
    threads(2)
    cells = np.full((1, 2, 1, 3), 20, np.int32)
    cells[0, 1] = 40  # each joint alone in its frame
    made = Points(near(cells, batch=2), POSITIONS, None)
    assert len(made._pairs.source) == 0
    out = PairProducts.apply(torch.randn(made.count, 4), torch.randn(POSITIONS, 4, 6), made._pairs)
    assert out.shape == (made.count, 6)
    assert not out.any()
