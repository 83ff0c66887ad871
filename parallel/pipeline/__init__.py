"""Pipeline parallelism: each rank has some of the layers; micro-batches pass from stage to stage."""
