"""The published numbers, and cells that this project measured; `published.csv` is installed with the package."""
