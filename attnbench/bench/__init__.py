"""`attnbench bench`: the cost of a training step on this machine, compared with a step of the paper's released code."""
