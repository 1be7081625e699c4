"""The address of MLflow in links, where people reach its server at another one than runs do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow_server import mlflow_server
from runs import invoke

from distsgd.config import Config, TrackingConfig
from distsgd.errors import ConfigError
from distsgd.submission.request import Request
from distsgd.tracking import ui
from distsgd.tracking import uri as tracking_uri
from distsgd.tracking.run_id import RunId

STORE, PAGES = "http://mlflow:5000", "https://mlflow.example.org/base/"


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "DISTSGD_LINK_URI"):
        monkeypatch.delenv(name, raising=False)


def test_the_key_is_preferred_and_the_variable_goes_with_the_store_of_the_other_variable(monkeypatch):
    assert tracking_uri.link_uri(TrackingConfig(), STORE) is None
    monkeypatch.setenv("DISTSGD_LINK_URI", PAGES)
    assert tracking_uri.link_uri(TrackingConfig(), STORE) is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", STORE)
    assert tracking_uri.link_uri(TrackingConfig(), STORE) == PAGES
    assert tracking_uri.link_uri(TrackingConfig(), "sqlite:///mine.db") is None
    assert tracking_uri.link_uri(TrackingConfig(link_uri="http://h"), STORE) == "http://h"
    monkeypatch.setenv("DISTSGD_LINK_URI", "")
    assert tracking_uri.link_uri(TrackingConfig(), STORE) is None


@pytest.mark.parametrize(
    "address",
    [
        "mlflow:5000",
        "ftp://h",
        "http://",
        "http://me:pa55word@h",
        "http://h?pa55word",
        "http://h/#pa55word",
        "http://h:x",
    ],
)
def test_what_is_no_address_for_browsers_is_refused_and_not_shown(address, monkeypatch):
    with pytest.raises(ConfigError, match=r"tracking.link_uri is .*an address for browsers") as refused:
        Config.build({"tracking.link_uri": address})
    assert "pa55word" not in str(refused.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", STORE)
    monkeypatch.setenv("DISTSGD_LINK_URI", address)
    with pytest.raises(ConfigError, match=r"DISTSGD_LINK_URI is .*; expected an address for browsers") as refused:
        tracking_uri.link_uri(TrackingConfig(), STORE)
    assert "pa55word" not in str(refused.value)


def test_a_run_is_refused_before_it_begins_if_the_variable_is_no_address(own_folder, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", STORE)
    monkeypatch.setenv("DISTSGD_LINK_URI", "mlflow:5000")
    found = invoke("train", "--workers", "0", "--run-dir", "run", "--set", "train.max_steps=0")
    assert found.code == 2
    assert "DISTSGD_LINK_URI" in found.err
    assert not Path("run").exists()


def test_it_is_no_part_of_the_result_and_reaches_a_job():
    with_it = Config.build({"tracking.link_uri": PAGES, "run.dir": "/runs/mine"})
    assert with_it.digest() == Config().digest()
    assert "tracking.link_uri" not in with_it.parameters()
    assert f"tracking.link_uri={PAGES}" in Request.of(with_it, shared=False).words


def test_pages_are_linked_to_at_that_address(tmp_path):
    run = RunId("abc", "3", STORE, PAGES)
    page = "https://mlflow.example.org/base/#/experiments/3/runs/abc?workflowType=machine_learning"
    assert tracking_uri.view_command(run, tmp_path) == page
    assert tracking_uri.view_command(RunId("abc", "3", "postgresql://h/db", PAGES), tmp_path) == page
    assert ui.link(STORE, run, "mine", ui.link_uri(STORE, run)) == page


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_run_prints_and_keeps_the_link(own_folder, monkeypatch):
    with mlflow_server(own_folder) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        monkeypatch.setenv("DISTSGD_LINK_URI", PAGES)
        quick = ["--workers", "0", "--run-dir", "run", "--set", "train.max_steps=3"]
        found = invoke("train", *quick, "--set", "tracking.timeout_s=100")
        assert found.code == 0, found.err
        page = f"{PAGES}#/experiments/"
        assert page in found.out
        assert json.loads(Path("run/mlflow.json").read_text())["link_uri"] == PAGES
        monkeypatch.delenv("DISTSGD_LINK_URI")
        assert page in invoke("ui", "run").out
        assert page in invoke("sync", "run").out
        other = own_folder / "other.db"
        assert page not in invoke("sync", "run", "--uri", f"sqlite:///{other}").out
