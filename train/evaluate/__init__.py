"""The command `python -m train.evaluate`: evaluates checkpoints and Hugging Face models."""
