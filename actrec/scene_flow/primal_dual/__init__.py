"""The primal-dual scene flow (PD-Flow): the literal reference, and what computes it fast."""
