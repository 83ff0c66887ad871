"""Long-context tasks: prompts of a given length with an answer. catalogue.py has the tasks, fill.py the length."""
