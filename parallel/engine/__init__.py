"""DeepSpeed: its settings, its engine, the optimizer step."""
