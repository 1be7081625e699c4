"""Tags that say where a run comes from: user, program, commit and Ray job."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
from pathlib import Path


def source_tags() -> dict[str, str]:
    """Return the tags by which MLflow shows who started a run, with what; those that cannot be found out are left out.

    The commit is that of the current folder's repository.
    """
    job = os.environ.get("RAY_JOB_SUBMISSION_ID") or os.environ.get("RAY_JOB_ID")
    found = {
        "mlflow.user": _user(),
        "mlflow.source.name": Path(sys.argv[0]).name or "python",
        "mlflow.source.type": "JOB" if job else "LOCAL",
        "mlflow.source.git.commit": _commit(),
        "ray_job_id": job,
    }
    return {key: value for key, value in found.items() if value}


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user may have no name
        return None


def _commit() -> str | None:
    command = ["git", "rev-parse", "--verify", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return None  # without git there is no commit to name
    return done.stdout.strip() if done.returncode == 0 else None
