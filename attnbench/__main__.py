"""`python -m attnbench`: the command, by the interpreter that runs this."""

from attnbench.cli import main

main()
