"""The tasks, one file each. To add one, write a file here and a row of `TASKS` in data/prompts/catalogue.py."""
