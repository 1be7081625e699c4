"""Podman's commands, and how they fail."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

COMMAND_S = 180
"""Seconds for a command that is not a build."""

TIMED_OUT = 124
"""Exit code of a command that was killed for that, as of `timeout`."""

COMPOSE = shutil.which("podman-compose") or str(Path(sys.executable).with_name("podman-compose"))


class CheckError(Exception):
    """Something is not as it should be; the message says what."""


def check(condition: object, message: str) -> None:
    """Raise CheckError with the message unless the condition holds."""
    if not condition:
        raise CheckError(message)


def until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Return the first true value of `condition`; CheckError if there is none in time."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        check(time.monotonic() < deadline, f"{what}: not within {seconds:g} s")
        time.sleep(0.3)
    return value


def run(
    command: Sequence[str], *, cwd: Path | None = None, seconds: float = COMMAND_S, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, whatever that is, in a process group of its own: signals are for this script.

    One that does not end in time is killed with all that it started, and its exit code is TIMED_OUT.
    """
    with subprocess.Popen(
        command,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, TIMED_OUT, "", f"it did not end within {seconds:g} s")
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def output_of(command: Sequence[str], **options: Any) -> str:
    """Return what a command prints; CheckError with its last lines if it fails."""
    done = run(command, **options)
    if done.returncode != 0:
        last = " | ".join((done.stderr or done.stdout).strip().splitlines()[-6:])
        raise CheckError(f"`{' '.join(command)[:200]}` ended with {done.returncode}: {last[-1500:]}")
    return done.stdout


def podman(*arguments: str, **options: Any) -> str:
    """Return what `podman ARGUMENTS` prints."""
    return output_of(["podman", *arguments], **options)


def listed(kind: str, project: str) -> list[str]:
    """Return the names of a project's containers, networks or volumes (`container`, `network`, `volume`)."""
    everything = ["--all"] if kind == "container" else []
    text = podman(kind, "ls", *everything, "--format", "json", "--filter", f"label=io.podman.compose.project={project}")
    found = json.loads(text or "[]") or []
    names = [entry.get("Names") or entry.get("name") or entry.get("Name") for entry in found]
    return sorted(name[0] if isinstance(name, list) else name for name in names)


def unnamed() -> set[str]:
    """Return the containers that are in podman's storage but that it does not run: those of builds."""
    found = json.loads(podman("container", "ls", "--all", "--external", "--format", "json") or "[]") or []
    return {entry["Id"] for entry in found if entry["Command"] == ["buildah"]}


def inspected(container: str) -> dict[str, Any]:
    """Return all that podman knows of a container."""
    found: dict[str, Any] = json.loads(podman("container", "inspect", container))[0]
    return found
