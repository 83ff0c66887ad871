"""Stage, learning rate and RoPE base as functions of the tokens seen."""
