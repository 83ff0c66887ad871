"""What a layout costs a rank: bytes held, bytes received."""
