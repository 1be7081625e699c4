"""A copy of the checkout, brought up by podman-compose under a project name of its own, and taken down again."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.compose import host
from tests.compose.podman import COMPOSE, CheckError, check, inspected, listed, output_of, podman, run, unnamed, until

REPOSITORY = Path(__file__).resolve().parents[2]
BUILD_S = 3600
WORKERS = 2
"""Containers of the service `worker`: with the head, three nodes."""

ISOLATED = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
"""Runs a command whose processes all end when it is killed, whatever their session; nobody else sees its mounts."""

COPIED = ("docker", "distsgd", "jobs", "pyproject.toml", "constraints.txt", "README.md", "LICENSE", ".dockerignore")


def say(text: str) -> None:
    """Print a line with the time."""
    print(time.strftime("%H:%M:%S"), text, flush=True)


class Stack:
    """The services of one or two compose files."""

    def __init__(self, folder: Path, files: Sequence[str], build_options: Sequence[str], patience: float) -> None:
        self.folder, self.project = folder, f"distsgd-try-{secrets.token_hex(4)}"
        self._build_options, self._patience = list(build_options), patience
        self._base = [COMPOSE, "--project-name", self.project]
        for file in files:
            self._base += ["--file", file]
        self.secure = len(files) > 1
        self.config: dict[str, Any] = yaml.safe_load(self.compose("config"))
        self._ids: set[str] = set()
        self._before = host.podman_sockets()

    def compose(self, *arguments: str, seconds: float = 300) -> str:
        """Return what podman-compose prints."""
        return output_of([*self._base, *arguments], cwd=self.folder, seconds=seconds)

    def containers(self, service: str) -> list[str]:
        """Return the names of the containers of a service."""
        return [name for name in listed("container", self.project) if name.rpartition("_")[0].endswith(f"_{service}")]

    def everything(self) -> list[str]:
        """Return the names of all containers."""
        return listed("container", self.project)

    def sockets(self) -> set[tuple[str, str, int]]:
        """Return protocol, address and port of what podman has listened on since this stack was made."""
        return host.podman_sockets() - self._before

    def only(self, service: str) -> str:
        """Return the name of a service's one container."""
        (name,) = self.containers(service)
        return name

    def execute(self, service: str, *command: str, seconds: float = 180) -> str:
        """Return what a command in a service's first container prints."""
        return podman("exec", self.containers(service)[0], *command, seconds=seconds)

    def build(self) -> None:
        """Build the image; layers that are there already are used.

        A build that is killed leaves what it runs, and the container that it runs it in. So it has process identifiers
        of its own, which all end with it, and a folder for temporary files; its containers are removed.
        """
        began, before = time.monotonic(), unnamed()
        temporary = self.folder / "build"
        temporary.mkdir()
        options = [f"--podman-build-args={option}" for option in self._build_options]
        command = [*ISOLATED, *self._base, *options, "build", "head"]
        try:
            output_of(command, cwd=self.folder, seconds=BUILD_S, env=os.environ | {"TMPDIR": str(temporary)})
        except BaseException:
            for container in unnamed() - before:
                podman("container", "rm", "--force", container)
            raise
        finally:
            shutil.rmtree(temporary)
        say(f"image built, {time.monotonic() - began:.0f} s")

    def up(self) -> None:
        """Create all containers, and start the services in the order and under the conditions of the files.

        Podman honours `depends_on: condition` from version 4.6 on, and runs health checks by itself only under systemd:
        here each check is run as podman would, has to fail before its service is ready, and to pass in the time that
        the file gives it, or `patience` times as long.
        """
        self.compose("up", "--no-start", "--scale", f"worker={WORKERS}")
        services, healthy = self.config["services"], set[str]()
        while waiting := [name for name in services if name not in healthy]:
            ready = [name for name in waiting if set(services[name].get("depends_on", {})) <= healthy]
            check(ready, f"the services {waiting} wait for each other")
            for name in ready:
                conditions = {on: how["condition"] for on, how in services[name].get("depends_on", {}).items()}
                check(set(conditions.values()) <= {"service_healthy"}, f"{name} waits for {conditions}")
                self._start(name, services[name]["healthcheck"])
                healthy.add(name)
        for name in listed("container", self.project):
            self._ids.add(inspected(name)["Id"])

    def _start(self, service: str, health: dict[str, Any]) -> None:
        allowed = _seconds(health["start_period"])
        allowed += health["retries"] * (_seconds(health["interval"]) + _seconds(health["timeout"]))
        for name in self.containers(service):
            began = time.monotonic()
            podman("start", name)
            check(not self.is_healthy(name), f"the health check of {name} passes before the service can be ready")
            until(lambda name=name: self.is_healthy(name), allowed * self._patience, f"{name} is healthy")
            say(f"{name}: not healthy at first, healthy after {time.monotonic() - began:.1f} s")

    def is_healthy(self, container: str) -> bool:
        """Run the container's own health check; CheckError if the container has stopped."""
        check(inspected(container)["State"]["Running"], f"{container} has stopped: {_last_lines(container)}")
        done = run(["podman", "healthcheck", "run", container])
        failed = done.returncode == 1 or "exceeded timeout" in done.stderr
        check(failed or done.returncode == 0, f"the health check of {container} cannot be run: {done.stderr.strip()}")
        return not failed

    def crash(self, container: str) -> None:
        """Kill a container's first process, and so all of them, as a crash would: it is not podman that ends it."""
        pid = inspected(container)["State"]["Pid"]
        check(pid > 0, f"{container} does not run")
        os.kill(pid, signal.SIGKILL)

    def down(self) -> None:
        """Take everything down, and raise CheckError if anything is left."""
        for name in listed("container", self.project):
            self._ids.add(inspected(name)["Id"])
        for name in self.containers("worker")[1:]:  # podman-compose knows one container of each service here
            podman("stop", name)
            podman("rm", name)
        self.compose("down", "--volumes", seconds=600)
        left = self.left()
        check(not left, f"left after `down --volumes`: {left}")

    def left(self) -> list[str]:
        """Return what there is of the project: containers, networks, volumes, processes, mounts."""
        found = [f"{kind} {name}" for kind in ("container", "network", "volume") for name in listed(kind, self.project)]
        return found + host.traces({self.project, *self._ids})

    def remove(self) -> None:
        """Remove by force whatever is left, also after a failure."""
        for name in listed("container", self.project):
            self._ids.add(name)
            run(["podman", "container", "rm", "--force", "--time", "3", "--depend", name])
        for kind in ("network", "volume"):
            for name in listed(kind, self.project):
                run(["podman", kind, "rm", "--force", name])


def _seconds(text: str) -> float:
    check(text.endswith("s"), f"{text!r} is not in seconds")
    return float(text.removesuffix("s"))


def _last_lines(container: str) -> str:
    done = run(["podman", "logs", "--tail", "15", container])
    return " | ".join((done.stdout + done.stderr).strip().splitlines())[-2000:]


@contextlib.contextmanager
def copied() -> Iterator[Path]:
    """Yield a folder with what the compose files need, as they are in the checkout, and with new secrets."""
    with tempfile.TemporaryDirectory(prefix="distsgd-compose-") as name:
        folder = Path(name)
        for entry in (*COPIED, *(path.name for path in REPOSITORY.glob("docker-compose*.yml"))):
            source = REPOSITORY / entry
            if source.is_dir():
                shutil.copytree(source, folder / entry, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, folder / entry)
        (folder / "data").mkdir()
        subprocess.run(["sh", "docker/make-secrets.sh", "--secure"], cwd=folder, check=True, timeout=60)
        yield folder


@contextlib.contextmanager
def running(folder: Path, files: Sequence[str], build_options: Sequence[str], patience: float) -> Iterator[Stack]:
    """Yield a stack that is up; it is taken down afterwards, after a failure or a signal by force."""
    stack = Stack(folder, files, build_options, patience)
    say(f"{' and '.join(files)}, as project {stack.project}")
    try:
        stack.build()
        stack.up()
        yield stack
        stack.down()
        check(not stack.sockets(), f"podman still listens on {stack.sockets()}")
        say("taken down, nothing is left")
    except CheckError as error:
        logs = "\n".join(f"{name}: {_last_lines(name)}" for name in listed("container", stack.project))
        raise CheckError(f"{error}\n{logs}") from None
    finally:
        stack.remove()
