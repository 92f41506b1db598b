"""Where cells run: in a process each on this machine's devices, on a SLURM cluster, or in this process."""
