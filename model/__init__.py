"""The single-device model. Read `layer_pattern` first, then `attention`, then `transformer`."""
