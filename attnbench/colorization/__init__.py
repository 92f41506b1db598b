"""Colouring pictures of any size with a trained generator, and exporting generators for others to use."""
