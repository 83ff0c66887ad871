"""What is looked at on every rank before the first step; all problems are told at once, by host."""
