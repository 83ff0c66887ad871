"""What a run writes down: metrics, console, logs of ranks, W&B."""
