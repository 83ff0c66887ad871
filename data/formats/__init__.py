"""Readers of input files: streams of bytes, records, documents."""
