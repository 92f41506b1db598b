"""Where cells run: each in its own process on this machine's devices, on a SLURM cluster, or in this process."""
