"""A server behind a login and TLS, as MLflow's own variables say: training, sweeps, sync, compare, the link to it."""

from __future__ import annotations

import json
import ssl
import threading
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn
from certificates import write_authority
from mlflow_server import MlflowServer, mlflow_server
from runs import eventually
from secret_uris import MARK
from test_tracking_secrets import assert_no_secret_in
from tracking_helpers import command, short_options

from distsgd.errors import TrackingError
from distsgd.tracking.reading import experiment_names

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.usefixtures("own_folder")]

ADMIN = f"{MARK}-of-the-administrator"
LOGIN = {"MLFLOW_TRACKING_USERNAME": "someone", "MLFLOW_TRACKING_PASSWORD": f"{MARK}-of-mine"}
WRONG = LOGIN | {"MLFLOW_TRACKING_PASSWORD": f"{MARK}-of-another"}
NONE = dict.fromkeys(LOGIN, "")

INI = """
[mlflow]
default_permission = READ
database_uri = sqlite:///basic_auth.db
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 600
"""
"""MLflow's own settings, but that a password is not hashed anew for each request, which takes a while."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("authority") / "ours"
    write_authority(folder)
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory, authority) -> Iterator[MlflowServer]:
    """A server with a user who is no administrator."""
    certificate = f"--ssl-keyfile={authority / 'key'} --ssl-certfile={authority / 'crt'}"
    options = ["--app-name", "basic-auth", "--uvicorn-opts", certificate]
    folder = tmp_path_factory.mktemp("server")
    (folder / "auth.ini").write_text(INI)
    settings = {"MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN, "MLFLOW_FLASK_SERVER_SECRET_KEY": "for tests"}
    settings |= {"MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini")}
    with mlflow_server(folder, options, settings) as running:
        request = urllib.request.Request(
            f"{running.uri}/api/2.0/mlflow/users/create",
            json.dumps(
                {"username": LOGIN["MLFLOW_TRACKING_USERNAME"], "password": LOGIN["MLFLOW_TRACKING_PASSWORD"]}
            ).encode(),
            {
                "Content-Type": "application/json",
                "Authorization": f"Basic {b64encode(f'admin:{ADMIN}'.encode()).decode()}",
            },
        )
        trusted = ssl.create_default_context(cafile=authority / "ca.crt")
        urllib.request.urlopen(request, timeout=30, context=trusted).close()
        yield running


@dataclass
class Guarded:
    """Runs commands against the server, and looks for passwords in what they print."""

    server: MlflowServer
    authority: Path
    folder: Path

    def run(self, *arguments: str, trusting: bool = True, **environment: str) -> tuple[int, str]:
        known = {"MLFLOW_TRACKING_SERVER_CERT_PATH": str(self.authority / "ca.crt")} if trusting else {}
        known |= {"MLFLOW_TRACKING_URI": self.server.uri}
        done = command(*arguments, cwd=self.folder, timeout=120, **(known | environment))
        assert_no_secret_in(self.folder, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout + done.stderr

    def train(self, run_dir: str, *options: str, **settings) -> tuple[int, str]:
        return self.run("train", "--run-dir", run_dir, *short_options("tracking.timeout_s=60", *options), **settings)


@pytest.fixture
def guarded(server, authority, tmp_path) -> Guarded:
    return Guarded(server, authority, tmp_path)


def test_with_the_login_runs_and_sweeps_get_there_and_are_compared(guarded, cluster):
    """The processes of the sweep's trials belong to a cluster that was started without the login."""
    code, said = guarded.train("run", "tracking.experiment=guarded", **LOGIN)
    assert (code, "warning" in said) == (0, False), said
    options = ["--grid", "optim.lr=0.1,0.2", "--address", cluster.address, "--set", "tracking.experiment=guarded"]
    code, said = guarded.run("sweep", "--run-dir", "sweep", *short_options("tracking.timeout_s=60"), *options, **LOGIN)
    assert (code, "warning" in said) == (0, False), said
    code, said = guarded.run("compare", "guarded", "--json", **LOGIN)
    assert code == 0, said
    found = json.loads(said)
    assert [run["status"] for run in found["runs"]] == ["FINISHED"] * 3
    assert found["differing"]["optim.lr"] == [0.1, 0.2]
    code, said = guarded.run("sync", "run", **LOGIN)
    assert (code, "status FINISHED" in said) == (0, True), said
    code, said = guarded.run("ui", "--experiment", "guarded", **LOGIN)
    assert (code, said.startswith(f"{guarded.server.uri}/#/experiments/")) == (0, True), said


@pytest.mark.parametrize("login", [WRONG, NONE], ids=["wrong", "none"])
def test_another_login_is_named_as_the_reason(guarded, login):
    sentence = "it wants a login that it knows, and got another one or none (HTTP 401): set MLFLOW_TRACKING_USERNAME"
    code, said = guarded.train("run", **login)
    assert (code, sentence in said) == (0, True), said
    for arguments in (("sync", "run"), ("compare", "guarded"), ("compare", "0" * 32)):
        code, said = guarded.run(*arguments, **login)
        assert (code, sentence in said, said.count("\n")) == (1, True, 1), said
    for _ in range(5):  # on a busy machine the import of mlflow alone may take the seconds in which it must answer
        code, said = guarded.train("other", "tracking.required=true", **login)
        assert (code, said.count("\n")) == (2, 1), said
        if "no answer within" not in said:
            break
    assert sentence in said
    code, said = guarded.run("ui", **login)
    assert (code, said) == (0, f"{guarded.server.uri}/?workflowType=machine_learning\n")


def test_what_the_login_may_not_do_is_said(guarded):
    administrator = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": ADMIN}
    code, said = guarded.train("run", "tracking.experiment=theirs", **administrator)
    assert (code, "warning" in said) == (0, False), said
    code, said = guarded.train("another", "tracking.experiment=theirs", **LOGIN)
    assert (code, "it does not permit this login to do that (HTTP 403)" in said) == (0, True), said


def test_a_certificate_of_an_unknown_authority_is_named_and_can_be_left_unchecked(guarded):
    code, said = guarded.run("compare", "guarded", trusting=False, **LOGIN)
    assert code == 1
    assert "its certificate is not trusted here (" in said
    assert "set MLFLOW_TRACKING_SERVER_CERT_PATH to the file with the certificate" in said
    unchecked = LOGIN | {"MLFLOW_TRACKING_INSECURE_TLS": "true"}
    code, said = guarded.train("run", "tracking.experiment=unchecked", trusting=False, **unchecked)
    assert (code, "warning" in said.lower()) == (0, False), said
    code, said = guarded.run("compare", "unchecked", "--json", trusting=False, **unchecked)
    assert code == 0, said
    assert len(json.loads(said)["runs"]) == 1, "and nothing else is printed"
    code, said = guarded.run("sync", "run", trusting=False, **unchecked)
    assert (code, "warning" in said.lower()) == (0, False), said


async def _empty(scope, receive, send) -> None:
    # The server's end would otherwise wait 30 seconds for the client's, as asyncio does with TLS.
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"{}"})


def test_a_server_that_wants_a_certificate_gets_it_or_the_variable_is_named(authority, monkeypatch):
    """MLflow's server is one of uvicorn's, too."""
    files = {"ssl_keyfile": authority / "key", "ssl_certfile": authority / "crt", "ssl_ca_certs": authority / "ca.crt"}
    settings = {"port": 0, "log_level": "critical", "lifespan": "off", "ssl_cert_reqs": ssl.CERT_REQUIRED}
    server = uvicorn.Server(uvicorn.Config(_empty, **settings, **files))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert eventually(lambda: server.started)
        uri = f"https://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(authority / "ca.crt"))
        with pytest.raises(
            TrackingError, match="wants a certificate from this side, set MLFLOW_TRACKING_CLIENT_CERT_PATH"
        ):
            experiment_names(uri)
        both = authority / "both"
        both.write_bytes((authority / "crt").read_bytes() + (authority / "key").read_bytes())
        monkeypatch.setenv("MLFLOW_TRACKING_CLIENT_CERT_PATH", str(both))
        assert experiment_names(uri) == []
    finally:
        server.should_exit = True
        thread.join()
