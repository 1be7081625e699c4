"""The MLflow server of docker-compose.yml, its very command, on a real PostgreSQL that is set up as there."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psycopg2
import pytest
import yaml
from mlflow.tracking import MlflowClient
from mlflow_server import free_port

REPOSITORY = Path(__file__).resolve().parent.parent
START_S = 120


def postgres_binaries() -> Path | None:
    """Return the folder of PostgreSQL's server programs, which Debian keeps off the PATH."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return folders[-1] if folders and (folders[-1] / "postgres").exists() else None


class Database(NamedTuple):
    port: int
    password_file: Path

    def connect(self, name: str) -> Any:
        password = self.password_file.read_text()
        return psycopg2.connect(host="127.0.0.1", port=self.port, user="mlflow", dbname=name, password=password)


def wait_until(ready: Any, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError, psycopg2.OperationalError):
            ready()
            return
        time.sleep(0.2)
    raise RuntimeError(f"{process.args} did not start: {log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    binaries = postgres_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL's server programs are not installed")
    as_postgres: dict[str, Any] = {}
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        try:
            account = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("there is no user postgres, and PostgreSQL does not run as root")
        as_postgres = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp") as name:
        folder, port = Path(name), free_port()
        if as_postgres:
            os.chown(folder, account.pw_uid, account.pw_gid)
        password_file = folder / "password"
        password_file.write_text(secrets.token_hex(32))
        password_file.chmod(0o444)
        log = folder / "log"
        common: dict[str, Any] = {"cwd": folder, "stderr": subprocess.STDOUT, **as_postgres}
        initdb = [binaries / "initdb", "--pgdata", folder / "data", "--username=mlflow", f"--pwfile={password_file}"]
        with log.open("wb") as output:
            subprocess.run([*initdb, "--auth=scram-sha-256"], check=True, timeout=60, stdout=output, **common)
            command = [binaries / "postgres", "-D", folder / "data", "-h", "127.0.0.1", "-p", str(port), "-k", folder]
            process = subprocess.Popen(command, stdout=output, **common)
        found = Database(port, password_file)
        try:
            wait_until(lambda: found.connect("postgres").close(), process, log)
            connection = found.connect("postgres")
            connection.autocommit = True
            with contextlib.closing(connection), connection.cursor() as cursor:
                cursor.execute("CREATE DATABASE mlflow")
            yield found
        finally:
            process.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown
            process.wait(30)


@pytest.fixture(scope="module")
def server(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start the compose file's command with this machine's paths and ports in it, and yield its URI."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    compose = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text(encoding="utf-8"))
    service = compose["services"]["mlflow"]
    *shell, script = service["command"]
    for there, here in {
        "$$": "$",
        "/run/secrets/postgres_password": str(database.password_file),
        "@postgres:5432": f"@127.0.0.1:{database.port}",
        "--host 0.0.0.0 --port 5000": f"--host 127.0.0.1 --port {port}",
        "/mlflow/artifacts": str(folder / "artifacts"),
        "127.0.0.1:5000": f"127.0.0.1:{port}",
    }.items():
        assert there in script
        script = script.replace(there, here)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "PG"))}
    environment |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment |= service["environment"] | {"HOME": str(folder), "TMPDIR": str(folder)}
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*shell, script], cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        uri = f"http://127.0.0.1:{port}"
        wait_until(lambda: urllib.request.urlopen(f"{uri}/health", timeout=5).close(), process, log)
        yield uri
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_run_is_in_the_database_and_its_model_comes_back(database, server, tmp_path):
    command = [sys.executable, "-m", "distsgd.cli", "train", "--workers", "0", "--set", "train.epochs=2"]
    command += ["--run-dir", str(tmp_path / "run"), "--set", f"tracking.uri={server}"]
    command += ["--set", "tracking.required=true", "--set", "tracking.timeout_s=120"]
    trained = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, cwd=tmp_path)
    assert (trained.returncode, "warning" in trained.stderr) == (0, False), trained.stderr
    connection = database.connect("mlflow")
    with contextlib.closing(connection), connection.cursor() as cursor:
        cursor.execute("SELECT run_uuid, status, artifact_uri FROM runs")
        ((run_id, status, artifact_uri),) = cursor.fetchall()
        cursor.execute("SELECT count(*) FROM metrics WHERE run_uuid = %s AND key = 'train/loss'", [run_id])
        ((points,),) = cursor.fetchall()
    assert status == "FINISHED"
    assert artifact_uri.startswith("mlflow-artifacts:")
    assert points >= 2
    assert [item.path for item in MlflowClient(server).list_artifacts(run_id)]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_password_is_on_no_command_line(database, server):
    password = database.password_file.read_bytes()
    seen = 0
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit():
                words = (entry / "cmdline").read_bytes()
                seen += b"postgresql+psycopg2://mlflow@" in words
                assert password not in words
    assert seen >= 1


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_server_answers_to_its_own_names_only(server):
    request = urllib.request.Request(f"{server}/api/2.0/mlflow/experiments/search", headers={"Host": "example.org"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)
    with refused.value as reply:
        assert reply.code == 403
