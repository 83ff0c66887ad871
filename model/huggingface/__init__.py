"""Conversion of configurations and tensor names between Hugging Face's format and ours.

One file per family, mostly a table; `catalogue` lists them. Nothing here touches a file or needs `transformers`.
"""
