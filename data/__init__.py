"""Documents on disk to packed streams: tokenizer, token files, order, packing, loading.

    readers -> tokenizer -> prepare -> PREFIX.bin/.idx/.manifest.json          (once)
    indexed_dataset -> documents -> mixture -> packing -> loader -> GlobalBatch (every step)

Imports numpy and torch, knows no model, no parallelism and no trainer.
"""
