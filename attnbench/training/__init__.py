"""Training of a cell: the loop, its state, its costs, its logs."""
