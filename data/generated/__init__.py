"""Generated sources: documents that are made from numbers, without files."""
