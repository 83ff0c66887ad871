"""Checkpoints out of and into folders of Hugging Face models."""
