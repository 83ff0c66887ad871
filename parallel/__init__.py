"""Everything that knows about ranks: the mesh, the DeepSpeed engine, tensors of checkpoints."""
