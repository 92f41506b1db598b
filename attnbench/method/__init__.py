"""The network that is held fixed, and building blocks for modules: attention, probes, precision."""
