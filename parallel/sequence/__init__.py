"""The sequence axis (context parallelism): a packed stream cut among ranks, with ring attention."""
