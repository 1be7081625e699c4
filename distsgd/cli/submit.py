"""`distsgd submit`."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from distsgd.cli.options import job_options, requested, sweep_options
from distsgd.errors import JobError, Stopped

if TYPE_CHECKING:
    from distsgd.cluster.job_state import Job, JobState
    from distsgd.config import Config
    from distsgd.submission.following import Follower
    from distsgd.submission.targets import Kind
    from distsgd.sweeps.options import SearchOptions

EPILOG = """The job has the run directory and the configuration in its name: the same command shows the log of a job
that is there. After a job has ended, it submits the run again, which continues from its newest checkpoint.

Exit codes: that of the job, 143 if it was stopped, 1 if it was killed or lost, 2 refused, 130 if Ctrl-C has left it."""

ONLY_FOR = {
    "address": ("ray",),
    "installed": ("ray",),
    "nodes": ("kubernetes", "slurm"),
    "cpus": ("kubernetes", "slurm"),
    "memory": ("kubernetes", "slurm"),
    "minutes": ("slurm",),
    "image": ("kubernetes",),
}
"""The options that mean something to some kinds of cluster alone."""

DASHBOARD = "http://127.0.0.1:8265"
"""Where Ray's dashboard is if nothing else is said."""


@click.command(epilog=EPILOG, short_help="Train on a cluster, as a job.")
@job_options
@sweep_options
@click.option(
    "--to",
    "kind",
    type=click.Choice(["ray", "kubernetes", "slurm"]),
    default="ray",
    show_default=True,
    help="The kind of cluster: Ray Jobs, KubeRay, or Slurm.",
)
@click.option("--address", metavar="URL", help=f"Ray's dashboard (RAY_API_SERVER_ADDRESS, or {DASHBOARD}).")
@click.option("--installed", is_flag=True, help="Ray: use the distsgd that the cluster has, and upload no code.")
@click.option("--detach", is_flag=True, help="Submit the job and leave it.")
@click.option("--print", "show", is_flag=True, help="Print what would be submitted, and do nothing.")
@click.option(
    "--nodes", type=click.IntRange(min=1), default=2, show_default=True, help="Kubernetes, Slurm: number of nodes."
)
@click.option(
    "--cpus", type=click.IntRange(min=1), default=2, show_default=True, help="Kubernetes, Slurm: CPUs of a node."
)
@click.option("--memory", metavar="SIZE", default="4Gi", show_default=True, help="Kubernetes, Slurm: memory of a node.")
@click.option("--minutes", type=click.IntRange(min=5), default=60, show_default=True, help="Slurm: time limit.")
@click.option("--image", metavar="IMAGE", help="Kubernetes: image that has distsgd.  [default: distsgd:latest]")
def submit(
    config: Path | None,
    assignments: tuple[str, ...],
    kind: Kind,
    address: str | None,
    installed: bool,
    detach: bool,
    show: bool,
    nodes: int,
    cpus: int,
    memory: str,
    minutes: int,
    image: str | None,
    search: SearchOptions,
    **options: str | None,
) -> None:
    """Train as configured in CONFIG on a cluster, follow the log, and end with the exit code of the job.

    It is first checked that the cluster can be reached, has this version of Ray and enough resources, and can read the
    rows and write the run directory. Rows have to be there already: nothing but distsgd's own code is uploaded.
    With --grid or --random, the job is a sweep.
    """
    from distsgd.cluster.job_state import NotReachedError
    from distsgd.submission.request import Request
    from distsgd.submission.settings import Resources
    from distsgd.submission.targets import target

    _check_options(kind)
    asked = requested(config, assignments, options)
    words = _sweep_words(asked, search)
    request = Request.of(
        asked,
        shared=kind == "slurm",
        command="sweep" if words else "train",
        options=words,
    )
    chosen = target(
        kind,
        request,
        address=address or _dashboard(),
        upload=not installed,
        resources=Resources(nodes=nodes, cpus=cpus, memory=memory, minutes=minutes),
        image=image,
        again=_again(),
    )
    if show:
        click.echo(chosen.manifest().rstrip("\n"))
        return
    try:
        job = chosen.submitted(_notice)
    except NotReachedError as error:
        raise JobError(f"the cluster does not answer any more ({error}); submit again later") from None
    _follow(job, detach)


def _check_options(kind: Kind) -> None:
    """Raise UsageError for an option that was given, and that this kind of cluster has no use for."""
    context = click.get_current_context()
    for name, kinds in ONLY_FOR.items():
        if kind not in kinds and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"--{name} is for --to {' and --to '.join(kinds)}, and not for --to {kind}: leave it out"
            )


def _sweep_words(asked: Config, search: SearchOptions) -> list[str]:
    """Return the options of `distsgd sweep`, none if no sweep is asked for; ConfigError if they cannot be used."""
    if search.varies:
        search.space(asked)
        return search.words()
    if search != type(search)():
        raise click.UsageError("--trials, --seeds, --search and --prune are for sweeps: add --grid or --random")
    return []


def _again() -> str:
    """Return the command as it was typed, without secrets."""
    from distsgd.system.secrets import redacted_text

    return shlex.join(
        ["distsgd", *(redacted_text(word) for word in sys.argv[1:] if word not in ("--print", "--detach"))]
    )


def _dashboard() -> str:
    address = os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS") or ""
    return address if address.startswith("http") else DASHBOARD


def _notice(text: str) -> None:
    click.echo(text, err=True)


def _show(text: str) -> None:
    click.echo(text, nl=False)


def _follow(job: Job, detach: bool) -> None:
    """Show a job's log until it ends; JobError with its exit code unless it has succeeded."""
    from distsgd.submission.following import Follower, check_success

    if detach:
        _notice(f"it runs by itself; without --detach the same command shows its log, `{job.stop_command}` stops it")
        return
    with contextlib.closing(Follower(job, show=_show, notice=_notice)) as follower:
        state = _followed(job, follower)
    check_success(job.name, state)


def _followed(job: Job, follower: Follower) -> JobState:
    """Return how the job ended; Stopped if Ctrl-C has left it."""
    while True:
        try:
            return follower.follow()
        except KeyboardInterrupt:
            answer = _asked(job.name)
            if answer == "s":
                _notice("stopping the job, which writes its checkpoint first")
                follower.stop()
            elif answer == "l":
                raise Stopped(
                    f"the job {job.name} runs on; the same command shows its log again, `{job.stop_command}` stops it"
                ) from None


def _asked(job_id: str) -> str:
    """Return `s` to stop the job, `l` to leave it, or `f` to go on following it; without a terminal, leave it."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return "l"
    try:
        answer: str = click.prompt(
            f"\n{job_id}: stop it (s), leave it running (l), or go on following it (f)",
            type=click.Choice(["s", "l", "f"]),
            default="l",
            err=True,
        )
    except (click.Abort, KeyboardInterrupt):  # a second Ctrl-C, or no input any more
        return "l"
    return answer
