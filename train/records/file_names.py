"""Names of files in a run's folder that other programs read, without the modules that write them."""

STARTS = "starts.jsonl"
