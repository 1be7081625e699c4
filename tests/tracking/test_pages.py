"""What MLflow's pages show of a run: name, parameters, command, columns; and `distsgd ui`."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise

import pytest
from runs import eventually
from tracking_helpers import command, train

from distsgd.config import Config, parse_assignments
from distsgd.errors import ConfigError
from distsgd.tracking import naming, note, table, ui


def test_a_run_is_named_by_what_differs_from_the_defaults():
    config = Config.build({"model.hidden": 256, "optim.lr": 0.2, "data.train": "rows.csv", "run.timeout_s": 5.0})
    assert naming.run_name(config, "rows-20260101-000000") == "hidden=256 lr=0.2"
    assert naming.run_name(Config.build({"data.train": "rows.csv"}), "rows-20260101-000000") == "rows-20260101-000000"
    assert naming.run_name(config.with_values({"run.name": "mine"}), "folder") == "mine"
    assert len(naming.run_name(Config.build({"data.features": ["a" * 50] * 9}), "folder")) == 100


def test_parameters_are_those_set_or_decided_and_the_command_repeats_them():
    config = Config.build({"optim.lr": 0.2, "data.label": "a b", "data.train": "rows.csv", "run.workers": 2})
    set_or_decided = {"optim.lr": "0.2", "data.train": "rows.csv", "data.label": "a b"}
    assert naming.parameters(config) == set_or_decided | {"run.workers": "2", "run.device": "auto"}
    assert naming.command(config) == (
        "distsgd train --set optim.lr=0.2 --data rows.csv --set 'data.label=a b' --workers 2"
    )


def test_the_command_of_a_run_on_gpus_asks_for_them():
    """Without them the same command would train on the CPU, to other bits, where there are none."""
    assert naming.command(Config.build({"run.workers": 2, "run.device": "cuda"})) == (
        "distsgd train --workers 2 --device cuda"
    )
    assert naming.command(Config.build({"run.workers": 2, "run.device": "cpu"})) == "distsgd train --workers 2"


def test_texts_that_read_like_numbers_or_lists_are_quoted_in_the_command():
    config = Config.build({"data.label": "1", "data.exclude": ["a,b", " c"], "data.csv_null": ["-"], "optim.lr": 0.2})
    words = shlex.split(naming.command(config))
    assignments = [value for word, value in pairwise(words) if word == "--set"]
    assert Config.build(parse_assignments(assignments)) == config


def test_a_description_is_recognised_although_it_was_cut():
    stored = note.tags("a" * 20_000)
    assert len(stored[note.TAG]) == note.LONGEST
    assert stored[note.DIGEST_TAG] == note.digest(stored[note.TAG])


def test_the_table_keeps_the_columns_of_earlier_runs():
    first = table.view(None, ["optim.lr"])
    columns = json.loads(table.view(first, ["model.hidden", "optim.lr"]))["selectedColumns"]
    assert columns[0] == "metrics.`best/val_accuracy`"
    assert columns[-2:] == ["params.`optim.lr`", "params.`model.hidden`"]
    assert table.view("not JSON", ["optim.lr"]) == first


@pytest.mark.usefixtures("own_folder")
def test_ui_refuses_what_mlflow_does_not_know(tmp_path):
    for arguments, said in (([], "there is no MLflow store at"), (["none"], "'none' holds no run that MLflow knows")):
        done = command("ui", *arguments, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr


def test_the_link_to_a_server_that_cannot_be_asked_is_that_to_its_first_page():
    assert ui.link("http://me:secret@localhost/", None, "mine") == "http://***@localhost/?workflowType=machine_learning"


def test_a_workspace_has_pages_of_its_own(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "databricks://profile")
    with pytest.raises(ConfigError, match="whose own pages show its runs"):
        ui.store_of(None)


def test_mlflow_on_this_machine_is_not_asked_through_a_proxy(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setattr(ui, "START_S", 5.0)

    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Healthy) as server, subprocess.Popen(["sleep", "60"]) as process:
        threading.Thread(target=server.handle_request).start()
        try:
            ui._wait_until_it_answers(process, f"http://127.0.0.1:{server.server_port}")
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.usefixtures("own_folder")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_ui_prints_the_link_to_the_run_and_leaves_no_process(tmp_path, empty_store, signum):
    result = train(tmp_path / "run", empty_store)
    arguments = [sys.executable, "-m", "distsgd.cli", "ui", "run"]
    with subprocess.Popen(
        arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        link = process.stdout.readline().strip()
        assert link.endswith(f"/runs/{result.mlflow_run_id}?workflowType=machine_learning")
        children = subprocess.run(
            ["ps", "-o", "pid=,args=", "--ppid", str(process.pid)], capture_output=True, text=True, check=True
        )
        server = next(int(pid) for pid, *words in map(str.split, children.stdout.splitlines()) if "mlflow" in words)
        process.send_signal(signum)
        errors = process.communicate(timeout=60)[1]
    if signum != signal.SIGKILL:
        assert (process.returncode, errors.splitlines()[-1]) == (0, "MLflow has ended")
    eventually(lambda: not is_group(server))


def is_group(number: int) -> bool:
    """Return whether there is a process of that group."""
    try:
        os.killpg(number, 0)
    except ProcessLookupError:
        return False
    return True
