"""The tensors of a checkpoint, in one format for every layout."""
