"""The command line: a file for each command, and what a user sees of a run. The only package that prints."""

from distsgd.cli import sync, train
from distsgd.cli.group import main

for command in (train.train, sync.sync):
    main.add_command(command)

__all__ = ["main"]
