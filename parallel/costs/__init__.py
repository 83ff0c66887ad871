"""Costs of a layout for each rank, in bytes: memory held, data received."""
