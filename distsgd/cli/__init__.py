"""The command line: a file for each command, and what a user sees of a run. The only package that prints."""

from distsgd.cli.main import main

__all__ = ["main"]
