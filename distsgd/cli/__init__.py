"""The command line: one file per command, plus the output of a run. The only package that prints."""

from distsgd.cli import (
    await_nodes,
    compare,
    evaluate,
    export,
    find_lr,
    gradcheck,
    keys,
    look,
    predict,
    submit,
    sweep,
    sync,
    train,
    ui,
    verify,
)
from distsgd.cli.group import main

COMMANDS = (
    train,
    sweep,
    find_lr,
    evaluate,
    predict,
    export,
    compare,
    verify,
    submit,
    sync,
    keys,
    gradcheck,
    ui,
    look,
    await_nodes,
)

for module in COMMANDS:
    main.add_command(getattr(module, module.__name__.rpartition(".")[2]))

__all__ = ["main"]
