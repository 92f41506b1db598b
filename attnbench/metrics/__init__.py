"""How coloured pictures are scored."""
