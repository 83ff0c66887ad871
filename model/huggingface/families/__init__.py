"""One file a family of Hugging Face's transformers."""
