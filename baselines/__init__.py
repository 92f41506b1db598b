"""The correspondence modules that attnbench compares, one a file, registered as anyone's are: through entry points."""
