"""The optimal assignment of rows to columns."""

import numpy as np


def assign(costs: np.ndarray) -> list[tuple[int, int]]:
    """Pairs each row with its own column (or each column with its own row) so that the sum of costs is least.

    Kuhn's Hungarian method by shortest augmenting paths (Jonker and Volgenant, 1987), O(n³); here so that the core
    needs no scipy for a handful of bodies.

    Args:
        costs: [N, M] finite.

    Returns:
        min(N, M) pairs (row, column), sorted by row.
    """
    costs = np.asarray(costs, dtype=np.float64)
    if costs.size == 0:
        return []
    if costs.shape[0] > costs.shape[1]:
        return sorted((row, column) for column, row in assign(costs.T))
    rows, columns = costs.shape
    # Index 0 stands for "none": owner[j] is the row (from 1) that holds column j (from 1).
    price_row, price_column = np.zeros(rows + 1), np.zeros(columns + 1)
    owner, previous = np.zeros(columns + 1, dtype=int), np.zeros(columns + 1, dtype=int)
    for row in range(1, rows + 1):
        owner[0], at = row, 0
        least, done = np.full(columns + 1, np.inf), np.zeros(columns + 1, dtype=bool)
        while owner[at]:
            done[at] = True
            reduced = costs[owner[at] - 1] - price_row[owner[at]] - price_column[1:]
            better = ~done[1:] & (reduced < least[1:])
            least[1:][better], previous[1:][better] = reduced[better], at
            step = np.where(done, np.inf, least)
            step[0] = np.inf
            nearest = int(step.argmin())
            delta = step[nearest]
            price_row[owner[done]] += delta
            price_column[done] -= delta
            least[~done] -= delta
            at = nearest
        while at:
            owner[at] = owner[previous[at]]
            at = previous[at]
    return sorted((int(owner[j]) - 1, j - 1) for j in range(1, columns + 1) if owner[j])
