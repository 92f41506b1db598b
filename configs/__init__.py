"""Recipes, as YAML; installed with the package so that `--recipe official` works anywhere."""
