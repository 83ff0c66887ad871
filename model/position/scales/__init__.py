"""Scales of queries by the token's position: one file a method with its settings and its formula."""
