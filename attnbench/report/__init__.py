"""One self-contained page about a results folder."""
