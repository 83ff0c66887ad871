"""Detects ranks that hang or are cut off, names them, and ends the run."""
