"""`python -m tests.compose [--short]`: brings the compose files up, tries what they promise, and takes them down.

Needs podman, podman-compose, the base images (or a registry that has them) and this checkout's distsgd, installed.
Ends with 0, with 1 if something is not as promised, or with 77 if containers cannot be tried here, which it says.
Whatever happens, also on a signal, nothing of it is left but images.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import socket
import sys
import time
from types import FrameType

from tests.compose import trial
from tests.compose.podman import COMPOSE, CheckError, run
from tests.compose.stack import REPOSITORY, copied, running, say

SKIPPED = 77
FILES = ("docker-compose.yml", "docker-compose.secure.yml")
PORTS = (5000, 8265)


class SignalError(BaseException):
    """A signal to end."""


def _end(number: int, _: FrameType | None) -> None:
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)  # tidying up is not to be interrupted
    raise SignalError(signal.Signals(number).name)


def base_images() -> list[str]:
    """Return the images that are not built here, as the files name them."""
    lines = [
        line.split()
        for path in ("docker/Dockerfile", FILES[0])
        for line in (REPOSITORY / path).read_text().splitlines()
    ]
    return [
        words[1]
        for words in lines
        if len(words) > 1 and words[0] in ("FROM", "image:") and "localhost/" not in words[1]
    ]


def problem(pull: bool) -> str | None:
    """Return why containers cannot be tried here, or None."""
    try:
        found = run(["podman", "info", "--format", "{{.Version.Version}}"], seconds=60)
        compose = run([COMPOSE, "version"], seconds=60)
    except OSError as error:
        return f"{error.filename} is not installed"
    if found.returncode != 0 or compose.returncode != 0:
        return f"podman does not work here: {(found.stderr or compose.stderr).strip()[-300:]}"
    for port in PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return f"port {port} of 127.0.0.1, which docker-compose.yml publishes, is in use"
    for image in base_images():
        if run(["podman", "image", "exists", image]).returncode == 0:
            continue
        if not pull:
            return f"there is no image {image}; pull it, or make a stand-in with tests/compose/base/make.sh"
        if run(["podman", "pull", "--quiet", image], seconds=1800).returncode != 0:
            return f"the image {image} cannot be pulled; tests/compose/base/make.sh makes a stand-in"
    container = ["podman", "run", "--rm", "--name", f"distsgd-try-{secrets.token_hex(4)}", base_images()[0]]
    tried = run([*container, "true"])
    if tried.returncode != 0:
        return f"podman cannot run a container here: {tried.stderr.strip()[-400:]}"
    tried = run([*container, "pip", "download", "--quiet", "--no-deps", "--dest", "/tmp", "hatchling"])
    if tried.returncode != 0:
        return (
            f"an image cannot be built here, since pip reaches no index in a container: {tried.stderr.strip()[-400:]}"
        )
    return None


def alone() -> socket.socket | None:
    """Return what keeps others on this machine from trying at the same time while it is open, or None if one does."""
    name = socket.socket(socket.AF_UNIX)
    try:
        name.bind("\0distsgd-compose")  # of no file, and gone with this process
    except OSError:
        name.close()
        return None
    return name


def main() -> int:
    """Do as the arguments say and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.compose", description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="docker-compose.yml alone, and no restart of the head")
    parser.add_argument("--only", choices=("plain", "secure"), help="one of the two parts of the full form")
    parser.add_argument("--no-pull", action="store_true", help="skip if the base images are not there, ask no registry")
    parser.add_argument(
        "--patience", type=float, default=1, help="times the files' own time until a service is healthy"
    )
    parser.add_argument(
        "--build-option", action="append", default=[], help="an option of `podman build`, such as --no-cache"
    )
    given = parser.parse_args()
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, _end)
    began = time.monotonic()
    try:
        claim = alone()
        why = "another process tries them on this machine" if claim is None else problem(pull=not given.no_pull)
        if why is not None:
            print(f"SKIPPED: {why}", flush=True)
            return SKIPPED
        with copied() as folder:
            if given.only != "secure":
                with running(folder, FILES[:1], given.build_option, given.patience) as stack:
                    trial.plain(stack, short=given.short)
            if not given.short and given.only != "plain":
                with running(folder, FILES, given.build_option, given.patience) as stack:
                    trial.secure(stack)
    except CheckError as error:
        say(f"FAILED: {error}")
        return 1
    except SignalError as error:
        say(f"ended by {error}; all containers are gone")
        return 1
    say(f"all as promised, {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    os.chdir(REPOSITORY)
    sys.exit(main())
