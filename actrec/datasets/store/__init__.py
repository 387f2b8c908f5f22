"""The prepared store: clips in a few memory-mapped files."""
