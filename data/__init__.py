"""Documents on disk to packed streams: tokenizer, token files, order, packing, loading.

    formats/ -> tokenizer/ -> prepare/ -> PREFIX.bin/.idx/.manifest.json                      (once)
    tokens/ -> packing/ (document order, mixture, planner) -> loader -> batch.GlobalBatch     (every step)

Imports numpy and torch, and no code of the model, parallelism or the trainer.
"""
