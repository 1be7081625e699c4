"""The command group `distsgd`, which reports each error as one message and an exit code."""

from __future__ import annotations

import contextlib
import signal
from typing import Any

import click

from distsgd.cli.streams import lenient_streams
from distsgd.errors import DistsgdError
from distsgd.system.secrets import redacted_text
from distsgd.system.signals import stopped_outside_training
from distsgd.version import __version__

FAILED = 1
"""Exit code of a failed run; its message refers to docs/failures.md for details."""


class DistsgdGroup(click.Group):
    """Reports distsgd's own exceptions as one message and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with lenient_streams():
            return self._invoke(ctx)

    def _invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            raise click.UsageError(redacted_text(error.format_message()), error.ctx) from None
        except (DistsgdError, KeyboardInterrupt) as error:
            ending = error if isinstance(error, DistsgdError) else stopped_outside_training("Ctrl-C", signal.SIGINT)
            more = " (see docs/failures.md)" if ending.exit_code == FAILED else ""
            with contextlib.suppress(OSError):  # the terminal may have been closed
                click.echo(f"distsgd: {ending}{more}", err=True)
            ctx.exit(ending.exit_code)


@click.group(cls=DistsgdGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="distsgd")
def main() -> None:
    """Train a classifier on rows of numbers by mini-batch SGD, on this machine or on a Ray cluster.

    A parameter server averages the gradients of all workers, MLflow records losses and hyper-parameters, and the
    trained weights are the same, bit for bit, for any number of workers and after any crash.

    \b
    To begin with:
      distsgd train                      scikit-learn's handwritten digits
      distsgd train --data rows.parquet  your own rows, with a column "label"
      distsgd keys                       what else can be set, with --set
    """  # noqa: D301 - click keeps the lines of a paragraph that begins with this character
