"""Everything that depends on ranks: process groups, parallelism, the DeepSpeed engine, tensors of checkpoints."""
