"""`attnbench bench`: what a training step costs on this machine, beside a step of the paper's released code."""
