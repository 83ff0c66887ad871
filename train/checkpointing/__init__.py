"""Writing checkpoints, and choosing the checkpoint to resume from."""
