"""Primal-dual scene flow (PD-Flow) on the CPU and on a GPU."""
