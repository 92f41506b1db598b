"""What a cell is: variant, identity, record, and the code and machine that produced it."""
