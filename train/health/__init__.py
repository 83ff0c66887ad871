"""What keeps a run sound: locks, stop signals, hangs, stragglers, spikes, exit status."""
