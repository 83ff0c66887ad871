"""Tensor parallelism: every matrix is cut among ranks, the residual stream is cut by tokens."""
