"""`python -m distsgd.cli` is the command `distsgd`."""

import sys

from distsgd.cli import main

sys.exit(main(prog_name="distsgd"))
