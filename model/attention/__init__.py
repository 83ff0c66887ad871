"""Attention on one device: the layer, its cores, the kernels behind them."""
