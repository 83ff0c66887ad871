"""One file per family of Hugging Face's transformers."""
