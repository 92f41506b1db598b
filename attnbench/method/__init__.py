"""The network that is held fixed, and what modules may use: attention, probes, precision."""
