"""When a checkpoint is written, which one is gone on from."""
