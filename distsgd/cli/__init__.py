"""The command line: one file per command, plus the output of a run. The only package that prints."""

from distsgd.cli import export, gradcheck, keys, predict, sync, train, ui
from distsgd.cli.group import main

for command in (train.train, predict.predict, export.export, sync.sync, keys.keys, gradcheck.gradcheck, ui.ui):
    main.add_command(command)

__all__ = ["main"]
