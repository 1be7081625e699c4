"""Ray Jobs, as seen by the driver of one: which job it is, what is deleted with it, how it is submitted again."""

from __future__ import annotations

import json
import os
import shlex
import sys
from itertools import pairwise
from pathlib import Path

VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""The environment variable in which Ray passes the configuration of a job to its driver."""

RESUBMIT = "DISTSGD_SUBMIT"
"""The environment variable in which `distsgd submit` passes on the command that it was started with."""

COPIES = ("runtime_resources", "working_dir_files")
"""The folders below a Ray session's that hold the copies of the working directories of jobs, on each node."""


def submission_id() -> str | None:
    """Return the ID under which Ray runs this process as a job, such as `raysubmit_...`; None outside of jobs."""
    try:
        found = json.loads(os.environ.get(VARIABLE) or "{}")["metadata"]["job_submission_id"]
    except (ValueError, KeyError, TypeError):
        return None
    return str(found)


def is_deleted_with_job(path: Path) -> bool:
    """Return whether a path lies in Ray's copy of a job's working directory."""
    return COPIES in pairwise(Path(os.path.realpath(path)).parts)


def resume_command(run_dir: Path, command: str = "train") -> str:
    """Return the command that one types to resume a run, or a sweep: in a job, the one that submits it again."""
    again = os.environ.get(RESUBMIT)
    if again:
        return again
    resume = f"--resume --run-dir {shlex.quote(str(run_dir))}"
    if submission_id() is None:
        return f"distsgd {command} {resume}"
    script = sys.argv[0]
    entry = f"python {shlex.quote(script)}" if script.endswith(".py") else f"distsgd {command}"
    copied = "--working-dir . " if is_deleted_with_job(Path()) else ""
    return f"ray job submit {copied}-- {entry} {resume}"
