"""Runs that belong together: children of MLflow's active run, of the run in MLFLOW_RUN_ID, of a named parent."""

from __future__ import annotations

import threading

import pytest
from tracking_helpers import train

from distsgd.config import Config
from distsgd.errors import ConfigError
from distsgd.tracking import nesting
from distsgd.tracking.quiet import quiet_mlflow

with quiet_mlflow():
    import mlflow
    from mlflow.tracking import MlflowClient


@pytest.fixture
def uri(empty_store, monkeypatch):
    """A store that the program itself uses, too."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", empty_store)  # restored, whatever mlflow sets it to
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(empty_store)
    yield empty_store
    mlflow.set_tracking_uri(before)


@pytest.fixture
def client(uri):
    return MlflowClient(uri)


def parent_of(client, result):
    return client.get_run(result.mlflow_run_id).data.tags.get(nesting.PARENT_TAG)


def parents(client, name):
    (experiment,) = {run.info.experiment_id for run in client.search_runs(["1"])}
    return client.search_runs([experiment], f"tags.`{nesting.NAME_TAG}` = '{name}'")


def test_a_run_becomes_a_child_of_the_active_run_and_stays_it(tmp_path, uri, client):
    experiment = client.create_experiment("distsgd")
    with mlflow.start_run(experiment_id=experiment) as outer:
        first = train(tmp_path / "run", uri)
        assert first.warnings == []
        assert client.get_run(outer.info.run_id).info.status == "RUNNING"
    assert parent_of(client, first) == outer.info.run_id
    longer = train(tmp_path / "run", uri, resume=True, train__epochs=4)
    assert longer.mlflow_run_id == first.mlflow_run_id
    assert parent_of(client, longer) == outer.info.run_id
    assert parent_of(client, train(tmp_path / "alone", uri)) is None


def test_an_active_run_of_another_experiment_is_named(tmp_path, uri, client):
    with mlflow.start_run(experiment_id="0"):
        result = train(tmp_path / "run", uri)
    assert parent_of(client, result) is None
    (warning,) = result.warnings
    assert "is in the experiment 'Default', not in 'distsgd'; set tracking.experiment='Default'" in warning


def test_the_run_that_the_environment_names_is_the_parent(tmp_path, uri, client, monkeypatch):
    outer = client.create_run(client.create_experiment("distsgd")).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", outer)
    assert parent_of(client, train(tmp_path / "run", uri)) == outer
    monkeypatch.setenv("MLFLOW_RUN_ID", "f" * 32)
    result = train(tmp_path / "other", uri)
    assert parent_of(client, result) is None
    assert result.warnings[0].endswith("which is not in the same store; set tracking.uri to the store of that run")


def test_runs_that_name_a_parent_are_its_children(tmp_path, uri, client):
    results = [train(tmp_path / f"run{seed}", uri, tracking__parent="sweep 1", train__seed=seed) for seed in (1, 2)]
    (parent,) = parents(client, "sweep 1")
    assert [parent_of(client, result) for result in results] == [parent.info.run_id] * 2
    assert (parent.info.run_name, parent.info.status) == ("sweep 1", "FINISHED")
    assert parent.info.end_time == client.get_run(results[1].mlflow_run_id).info.end_time


@pytest.mark.slow
def test_a_second_parent_does_not_stay(tmp_path, uri, client):
    first = train(tmp_path / "first", uri, tracking__parent="sweep")
    (late,) = parents(client, "sweep")
    tags = {nesting.NAME_TAG: "sweep"}
    early = client.create_run(late.info.experiment_id, start_time=1, tags=tags, run_name="sweep").info.run_id
    second = train(tmp_path / "second", uri, tracking__parent="sweep")
    assert [run.info.run_id for run in parents(client, "sweep")] == [early]
    assert {parent_of(client, first), parent_of(client, second)} == {early}
    assert client.get_run(early).info.status == "FINISHED"


def test_many_that_start_and_end_at_once_share_one_parent(uri, client):
    experiment, count = client.create_experiment("distsgd"), 4
    barrier = threading.Barrier(count)

    def run(number):
        mine = MlflowClient(uri)
        barrier.wait(20)
        parent = nesting.named_parent(mine, experiment, "sweep", 1000 + number, {})
        child = mine.create_run(experiment, tags={nesting.PARENT_TAG: parent.info.run_id})
        barrier.wait(20)
        mine.set_terminated(child.info.run_id)
        nesting.close(mine, experiment, "sweep", 5000)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    (parent,) = parents(client, "sweep")
    assert (parent.info.status, parent.info.end_time) == ("FINISHED", 5000)
    children = client.search_runs([experiment], f"tags.`{nesting.PARENT_TAG}` = '{parent.info.run_id}'")
    assert len(children) == count


@pytest.mark.parametrize("name", ["it's", 'a"b', "a`b", "a\\b", " ", "a\nb"])
def test_names_that_mlflow_cannot_search_for_are_refused(name):
    with pytest.raises(ConfigError, match="a name without quotes and backslashes"):
        Config.build({"tracking.parent": name})
