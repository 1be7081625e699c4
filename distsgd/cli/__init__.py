"""The command line: one file per command, plus the output of a run. The only package that prints."""

from distsgd.cli import evaluate, export, gradcheck, keys, predict, sync, train, ui
from distsgd.cli.group import main

for module in (train, evaluate, predict, export, sync, keys, gradcheck, ui):
    main.add_command(getattr(module, module.__name__.rpartition(".")[2]))

__all__ = ["main"]
