"""What a cell is: variant, identity, record, and the code and machine that made it."""
