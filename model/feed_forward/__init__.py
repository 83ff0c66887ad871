"""What a layer does to each token by itself."""
