"""Pipeline parallelism: the layers cut among ranks, micro-batches passed along."""
