"""`distsgd keys`."""

from __future__ import annotations

import shutil
import textwrap

import click

WIDEST = 100
"""Columns that a line of text may have, on a wider terminal, too."""


@click.command(short_help="List the configuration keys.")
@click.argument("word", required=False)
def keys(word: str | None) -> None:
    """List the configuration keys, with type, default and meaning.

    With WORD, those that have it in their name or meaning, and the one that PyTorch, scikit-learn and others call so:
    `distsgd keys learning_rate` shows optim.lr.
    """
    from distsgd.config import keys as described

    found = described.keys() if word is None else described.matching(word)
    if not found:
        from distsgd.config import known_keys
        from distsgd.config.hints import hint
        from distsgd.errors import ConfigError

        raise ConfigError(f"no configuration key has {word!r} in its name or meaning{hint(str(word), known_keys())}")
    width = min(shutil.get_terminal_size().columns, WIDEST)
    for key in found:
        click.echo(f"{click.style(key.name, bold=True)}  {_plain(key.takes)}; default: {_plain(key.default)}")
        click.echo(textwrap.fill(_plain(key.meaning), width, initial_indent="    ", subsequent_indent="    "))


def _plain(text: str) -> str:
    """Return a text without the backticks around literal values."""
    return text.replace("`", "")
