"""Evaluation inside training."""
