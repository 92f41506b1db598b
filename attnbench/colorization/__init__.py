"""Pictures of any size, coloured with a trained generator; and generators for others to use."""
