"""Models in Hugging Face's form: what their configurations mean to us, and which tensor is which.

One file a family, mostly a table; `catalogue` lists them. Nothing here touches a file or needs `transformers`.
"""
