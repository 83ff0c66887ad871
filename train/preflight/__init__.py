"""Checks on every rank before the first step; all problems are reported together, by host."""
