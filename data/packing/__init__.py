"""Which pieces of which documents make up each batch: order, mix and packing."""
