"""A results folder: cells on disk, read, loaded and merged."""
