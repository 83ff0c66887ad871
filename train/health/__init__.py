"""Protection of a run: lock, stop signals, hangs, stragglers, spikes, exit status."""
