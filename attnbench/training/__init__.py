"""How a cell is trained: the loop, its state, what it costs, what it records."""
