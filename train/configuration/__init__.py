"""YAML and command line to one checked `RunConfig`."""
