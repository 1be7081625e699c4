"""Ray Jobs over HTTP: Ray's client with timeouts, and with errors that tell a silent cluster from a refusal."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from distsgd.cluster.job_state import JobState, NotReachedError
from distsgd.errors import JobError, ResourceError
from distsgd.system.secrets import redacted

REQUEST_S = 20.0
"""Seconds for a request to the cluster, for which Ray's client has no limit."""

ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Variables that Ray's client prefers to the address that it is given."""

AUTHORITIES = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
"""Variables that name a file with the certificates of trusted authorities."""

UNTRUSTED = "CERTIFICATE_VERIFY_FAILED"
"""OpenSSL's name for a certificate that is not to be trusted."""

LOGGERS = ("modules.dashboard_sdk", "modules.job.sdk")

TAKEN = "already exists"
"""What the cluster's answer says of an ID that another job has."""


class _AnswerError(Exception):
    """The cluster answered with an error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"HTTP {status}: {_last_line(text)}")
        self.status, self.text = status, text


class _Client(JobSubmissionClient):
    """Ray's client, which waits for a silent cluster without end and calls every refusal a RuntimeError."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        try:
            answer = super()._do_request(method, endpoint, timeout=REQUEST_S, **options)
        except OSError as error:  # all errors of `requests` are such
            raise NotReachedError(_reason(error)) from None
        if answer.status_code >= 500 and TAKEN not in answer.text:
            raise NotReachedError(f"HTTP {answer.status_code}: {_last_line(answer.text)}")
        return answer

    def _raise_error(self, r: Any) -> None:
        raise _AnswerError(r.status_code, r.text)


class JobClient:
    """The jobs of one cluster. Its methods raise NotReachedError if that does not answer."""

    def __init__(self, address: str) -> None:
        """Connect to the dashboard at `http://HOST:PORT`.

        ResourceError if none answers there, if it refuses the token, or if it is of another version of Ray.
        """
        for name in LOGGERS:
            logging.getLogger(f"ray.dashboard.{name}").setLevel(logging.ERROR)
        self.address = redacted(address)
        if not address.startswith(("http://", "https://")):
            raise ResourceError(
                f"--address is {self.address!r}; expected the address of the cluster's dashboard, such as "
                "http://HOST:8265"
            )
        try:
            with _without(ADDRESSES):
                self._client = _Client(address, verify=_authorities())
            self._client.list_jobs()  # for which a token is always required
            version = self._version()
        except AuthenticationError as error:
            raise ResourceError(self._about_token(error)) from None
        except (NotReachedError, _AnswerError, RuntimeError, ValueError, KeyError, TypeError, OSError) as error:
            if UNTRUSTED in _reason(error):
                raise ResourceError(
                    f"the certificate of {self.address!r} is not trusted here ({_reason(error)}); set "
                    f"{AUTHORITIES[0]} to the file with the certificate of the authority that signed it"
                ) from None
            if isinstance(error, KeyError | TypeError | UnicodeDecodeError | json.JSONDecodeError):
                raise ResourceError(
                    f"what answers at {self.address!r} is no Ray cluster's dashboard; correct --address: the port "
                    "is 8265 unless the cluster was started with another one"
                ) from None
            raise ResourceError(
                f"no Ray cluster answers at {self.address!r} ({_reason(error)}); start it, correct --address, or "
                "forward its port 8265 to this machine"
            ) from None
        self.session = str(version.get("session_name"))
        if version["ray_version"] != ray.__version__:
            raise ResourceError(
                f"the cluster at {self.address!r} has Ray {version['ray_version']}, and this machine has "
                f"{ray.__version__}; install the same version"
            )

    def _about_token(self, error: Exception) -> str:
        if "Authentication failed" in str(error):
            return (
                f"the Ray cluster at {self.address!r} refuses this token; set RAY_AUTH_TOKEN_PATH to the file that "
                "holds the cluster's"
            )
        return (
            f"the Ray cluster at {self.address!r} requires its token: set RAY_AUTH_MODE=token, and "
            "RAY_AUTH_TOKEN_PATH to the file that holds it"
        )

    def _version(self) -> dict[str, Any]:
        answer: dict[str, Any] = self._client._do_request("GET", "/api/version").json()
        return answer

    def session_now(self) -> str:
        """Return the name of the head's session, which changes when the head is started again."""
        try:
            return str(self._version()["session_name"])
        except (KeyError, TypeError, ValueError) as error:
            raise NotReachedError(_reason(error)) from None

    def jobs(self) -> dict[str, JobState]:
        """Return all jobs that the cluster knows, by their IDs."""
        with _answers():
            return {job.submission_id: _state(job) for job in self._client.list_jobs() if job.submission_id}

    def state(self, job_id: str) -> JobState | None:
        """Return a job's state, or None if the cluster does not know it."""
        with _answers():
            try:
                return _state(self._client.get_job_info(job_id))
            except _AnswerError as error:
                if error.status == 404:
                    return None
                raise

    def submit(self, job_id: str, command: str, *, package: Path, environment: dict[str, str]) -> bool:
        """Submit a job that runs `command` in a copy of `package`, a zip file; return False if that ID is taken."""
        with _answers():
            try:
                self._client.submit_job(
                    entrypoint=command,
                    submission_id=job_id,
                    runtime_env={"working_dir": str(package), "env_vars": environment},
                )
            except _AnswerError as error:
                if TAKEN in error.text:
                    return False
                raise
            return True

    def stop(self, job_id: str) -> None:
        """Ask Ray to stop a job, which does not always heed that before it runs: ask again until it has stopped."""
        with _answers():
            self._client.stop_job(job_id)

    def log(self, job_id: str) -> str:
        """Return the whole output of a job."""
        with _answers():
            text: str = self._client.get_job_logs(job_id)
            return text

    def tail(self, job_id: str) -> AsyncIterator[str]:
        """Return a job's output from its beginning, as it comes; any exception ends it when the connection is lost."""
        return self._client.tail_job_logs(job_id)


class RayJobHandle:
    """A job of a Ray cluster, as `job_state.Job`."""

    def __init__(self, client: JobClient, job_id: str) -> None:
        self._client, self.name = client, job_id

    @property
    def stop_command(self) -> str:
        """See `job_state.Job`."""
        return f"ray job stop --address {self._client.address} {self.name}"

    def state(self) -> JobState:
        """Return the job's state; JobError if the head was started again, or if the job was deleted."""
        state = self._client.state(self.name)
        if state is not None:
            return state
        where = f"the cluster at {self._client.address}"
        if self._client.session_now() == self._client.session:
            raise JobError(f"{where} does not know the job {self.name} any more; it was deleted")
        raise JobError(
            f"the head of {where} was started again, and the job {self.name} ended with the one before; submit it "
            "again: the run continues from its newest checkpoint"
        )

    def stop(self) -> None:
        """See `job_state.Job`."""
        self._client.stop(self.name)

    def log(self) -> str:
        """See `job_state.Job`."""
        return self._client.log(self.name)

    def tail(self) -> AsyncIterator[str]:
        """See `job_state.Job`."""
        return self._client.tail(self.name)


def _authorities() -> str | bool:
    """Return the file with the authorities' certificates, or True for the usual ones.

    Ray's client asks with requests and reads logs with aiohttp, which look for such a file in different places.
    """
    return next((os.environ[name] for name in AUTHORITIES if os.environ.get(name)), True)


def _state(job: Any) -> JobState:
    return JobState(str(job.status), job.driver_exit_code, job.message or "")


@contextlib.contextmanager
def _answers() -> Iterator[None]:
    """Take any answer that is not a job's for that of a cluster that is not ready."""
    try:
        yield
    except _AnswerError as error:
        raise NotReachedError(str(error)) from None
    except AuthenticationError as error:
        raise NotReachedError(f"it refuses the token: {_reason(error)}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise NotReachedError(f"its answer cannot be read: {_reason(error)}") from None


@contextlib.contextmanager
def _without(names: tuple[str, ...]) -> Iterator[None]:
    """Remove environment variables meanwhile."""
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)


def _reason(error: BaseException) -> str:
    """Return the root cause of an error, in one line."""
    while error.__context__ is not None:
        error = error.__context__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


def _last_line(text: str) -> str:
    """Return what the traceback that Ray answers with ends in."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no text"
