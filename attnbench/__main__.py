"""`python -m attnbench`: the command line, under this interpreter."""

from attnbench.cli import main

main()
