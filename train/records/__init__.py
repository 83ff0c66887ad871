"""Records of a run: metrics, console, logs of ranks, W&B."""
