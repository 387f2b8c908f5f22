"""Benchmarks, one script per subject; run one with `actrec bench NAME`."""
