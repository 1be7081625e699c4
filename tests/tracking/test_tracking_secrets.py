"""A password in the store's URI is in no file and no stream of a run, and a resumption asks for it."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from mlflow_server import free_port, mlflow_server
from runs import invoke
from secret_uris import MARK, secret_uris
from tracking_helpers import MlflowClient, command, short_options, train

import distsgd
from distsgd.config import Config, TrackingConfig
from distsgd.errors import ConfigError
from distsgd.rundir import directory as rundir
from distsgd.tracking import uri as tracking_uri
from distsgd.tracking.failures import reason
from distsgd.tracking.run_id import RunId
from distsgd.tracking.sync import sync

pytestmark = pytest.mark.usefixtures("own_folder")


def assert_no_secret_in(folder: Path, *texts: str) -> None:
    for text in texts:
        assert MARK not in text
    for path in (path for path in folder.rglob("*") if path.is_file()):
        assert MARK.encode() not in path.read_bytes(), path


@settings(max_examples=150)
@given(secret_uris())
def test_no_secret_is_written_or_shown(tmp_path_factory, uri):
    folder = tmp_path_factory.mktemp("run")
    config = Config.build({"tracking.uri": uri})
    rundir.create(folder, resolved=config, requested=config, data_digest="0")
    shown = [
        reason(RuntimeError(f"cannot reach {uri}"), uri),
        tracking_uri.view_command(RunId("2", "1", uri), Path("run")),
    ]
    try:
        tracking_uri.resolve(config.tracking)
    except ConfigError as error:
        shown.append(str(error))
    for wrong in ([uri], {"a": {"b": uri}}):
        with pytest.raises(ConfigError) as caught:
            Config.build({"tracking.uri": wrong})
        shown.append(str(caught.value))
    assert_no_secret_in(folder, *shown)


def secret_form(form: str) -> str:
    return form.format(secret=f"{MARK}-of-mine", port=free_port())


@pytest.mark.slow
@pytest.mark.parametrize(
    "form",
    [
        "http://me:{secret}@127.0.0.1:{port}",
        "http://{secret}@127.0.0.1:{port}",
        "http://127.0.0.1:{port}/?user=me&password={secret}",
        "postgresql://me:a%40{secret}@127.0.0.1:{port}/db",
        "postgresql://127.0.0.1:{port}/db?user=me&password={secret}",
    ],
)
@pytest.mark.timeout(200)
def test_a_run_whose_store_is_away_keeps_the_secret(tmp_path, form):
    uri = secret_form(form)
    done = command("train", "--run-dir", "run", *short_options(f"tracking.uri={uri}"), cwd=tmp_path, timeout=90)
    assert done.returncode == 0
    assert "has not received the whole run" in done.stderr
    synced = command("sync", "run", "--uri", uri, cwd=tmp_path, timeout=90)
    assert synced.returncode == 1
    assert_no_secret_in(tmp_path, done.stdout, done.stderr, synced.stdout, synced.stderr)


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--set", "tracking.uri http://me:{secret}@host"],
        ["train", "--set", "tracking.uri=['http://me:{secret}@host']"],
        ["train", "--set", "tracking=http://me:{secret}@host"],
        ["train", "--set", "tracking.uri={secret}@host"],
        ["train", "--set", "tracking.uri=ftp://me:{secret}@host"],
        ["sync", "run", "http://me:{secret}@host"],
        ["train", "--set", "tracking.required=true", "--set", "tracking.uri=http://me:{secret}@127.0.0.1:{port}"],
    ],
)
def test_a_refusal_keeps_the_secret(tmp_path, arguments):
    done = invoke(*(secret_form(argument) for argument in arguments))
    assert done.code == 2
    assert_no_secret_in(tmp_path, done.out, done.err)


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_run_on_a_server_that_asks_for_a_password(tmp_path, tmp_path_factory, monkeypatch):
    """The secret is not kept; for what comes later it is taken from the environment, or given again."""
    with mlflow_server(tmp_path_factory.mktemp("server")) as server:
        uri = server.uri.replace("://", f"://me:{MARK}-of-mine@")
        result = train(tmp_path / "run", uri, train__max_steps=30)
        assert result.warnings == []
        with pytest.raises(
            ConfigError, match=r"secret the run directory does not keep: give the full URI again, in MLFLOW"
        ):
            sync(tmp_path / "run")
        with pytest.raises(ConfigError, match="secret the run directory does not keep"):
            train_again(tmp_path / "run")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://another:secret@127.0.0.1:1")
        with pytest.raises(ConfigError, match="secret the run directory does not keep"):
            sync(tmp_path / "run")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert sync(tmp_path / "run").run_id == result.mlflow_run_id
        assert train_again(tmp_path / "run").mlflow_run_id == result.mlflow_run_id
        assert MlflowClient(server.uri).get_run(result.mlflow_run_id).info.status == "FINISHED"
    assert_no_secret_in(tmp_path)


def train_again(path: Path) -> distsgd.Result:
    """Resume a run that has finished but whose result does not say that MLflow has it."""
    content = json.loads((path / "result.json").read_bytes()) | {"mlflow_run_id": None}
    (path / "result.json").write_text(json.dumps(content))
    return distsgd.train({"run.dir": str(path)}, resume=True)


def test_only_the_owner_reads_what_says_where_a_run_went(tmp_path, empty_store):
    train(tmp_path / "run", empty_store, train__max_steps=3)
    for name in ("config.json", "tracking.json", "mlflow.json", "result.json"):
        assert stat.S_IMODE((tmp_path / "run" / name).stat().st_mode) == 0o600, name


def test_a_uri_without_a_secret_is_kept_as_it_is(tmp_path, empty_store):
    train(tmp_path / "run", empty_store, train__max_steps=3)
    for name in ("config.json", "tracking.json"):
        assert empty_store in (tmp_path / "run" / name).read_text()
    assert tracking_uri.resolve(TrackingConfig(uri=empty_store)) == empty_store
