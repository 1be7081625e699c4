"""What MLflow's pages show of a run: name, parameters, command, columns; and `distsgd ui`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from tracking_helpers import command, train

from distsgd.config import Config
from distsgd.tracking import naming, table


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


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.usefixtures("own_folder")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_ui_prints_the_link_to_the_run_and_leaves_no_process(tmp_path, empty_store, signum):
    result = train(tmp_path / "run", empty_store)
    arguments = [sys.executable, "-m", "distsgd.cli", "ui", "run"]
    with subprocess.Popen(arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as ui:
        link = ui.stdout.readline().strip()
        assert link.endswith(f"/runs/{result.mlflow_run_id}?workflowType=machine_learning")
        children = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(ui.pid)], capture_output=True, text=True, check=True
        )
        (server,) = map(int, children.stdout.split())
        ui.send_signal(signum)
        errors = ui.communicate(timeout=60)[1]
    assert (ui.returncode, errors.splitlines()[-1]) == (0, "MLflow has ended")
    with pytest.raises(ProcessLookupError):
        os.killpg(server, 0)
