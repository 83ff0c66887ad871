"""Sequence parallelism: a packed stream cut among ranks, ring attention over the pieces."""
