"""What a user writes in YAML: recipes and grids."""
