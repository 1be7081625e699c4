"""Commands of a scheduler: what they answer, and why they fail."""

from __future__ import annotations

import asyncio
import codecs
import subprocess
from collections.abc import AsyncIterator, Sequence

from distsgd.errors import ResourceError
from distsgd.system.secrets import redacted_text

COMMAND_S = 120.0
"""Seconds for a command that is not meant to go on."""


class CommandError(Exception):
    """A command failed; the message is the last line that it printed."""


def output_of(command: Sequence[str], *, text: str = "") -> str:
    """Return what a command prints when `text` is its input; CommandError if it fails, ResourceError without it."""
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=COMMAND_S, check=False)
    except subprocess.TimeoutExpired:
        raise CommandError(f"`{command[0]}` did not end within {COMMAND_S:g} s") from None
    except OSError as error:
        raise ResourceError(
            f"`{command[0]}` cannot be run here ({error.strerror}); install it, or write the job with --print "
            "and submit it where it is"
        ) from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise CommandError(f"{command[0]}: {redacted_text(lines[-1])[:500]}")
    return done.stdout


async def run(command: Sequence[str]) -> AsyncIterator[str]:
    """Yield what a command prints, as it comes; it ends with the iteration."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    assert process.stdout is not None
    try:
        while chunk := await process.stdout.read(2**16):
            yield decoder.decode(chunk)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
