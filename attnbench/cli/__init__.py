"""The command line: one file for each kind of user. Each command parses its arguments, calls one function and shows the result.

Heavy imports wait until a command needs them.
"""

from attnbench.cli.app import app as app
from attnbench.cli.entry import main as main
