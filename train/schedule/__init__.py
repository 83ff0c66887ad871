"""What holds at a number of tokens seen: stage, learning rate, RoPE base."""
