"""Ray Jobs, as seen by the driver of one: which job this process belongs to."""

from __future__ import annotations

import json
import os

VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""The environment variable in which Ray passes the configuration of a job to its driver."""


def submission_id() -> str | None:
    """Return the ID under which Ray runs this process as a job, such as `raysubmit_...`; None outside of jobs."""
    try:
        found = json.loads(os.environ.get(VARIABLE) or "{}")["metadata"]["job_submission_id"]
    except (ValueError, KeyError, TypeError):
        return None
    return str(found)
