"""Documents to token files, by many worker processes, resumable."""
