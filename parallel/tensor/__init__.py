"""Tensor parallelism: every matrix cut among ranks, the residual stream cut by tokens."""
