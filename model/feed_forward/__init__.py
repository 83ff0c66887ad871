"""The token-wise part of a layer."""
