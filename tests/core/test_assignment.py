"""The assignment is optimal: compared with every permutation."""

from itertools import permutations

import numpy as np
import pytest

from actrec.utils.assignment import assign


def best(costs):
    rows, columns = costs.shape
    if rows > columns:
        return best(costs.T)
    return min(sum(costs[i, j] for i, j in enumerate(chosen)) for chosen in permutations(range(columns), rows))


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (4, 1), (2, 3), (3, 3), (4, 4), (5, 3), (3, 6)])
def test_finds_the_least_sum(shape):
    random = np.random.default_rng(sum(shape))
    for _ in range(30):
        costs = random.integers(0, 6, shape).astype(float) + random.random(shape)
        pairs = assign(costs)
        assert len(pairs) == min(shape)
        assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == min(shape)
        assert sum(costs[i, j] for i, j in pairs) == pytest.approx(best(costs))


def test_nothing_to_assign():
    assert assign(np.zeros((0, 3))) == []
    assert assign(np.zeros((3, 0))) == []


def test_greedy_would_be_wrong():
    assert assign(np.array([[1.0, 2.0], [1.5, 9.0]])) == [(0, 1), (1, 0)]
