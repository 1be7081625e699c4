"""The configurations in jobs/, and jobs/train.py on a real cluster: docker-compose.yml's services on this machine."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from mlflow.tracking import MlflowClient
from mlflow_server import MlflowServer, free_port, mlflow_server
from ray_cluster import RayCluster, ray_cluster
from runs import command

from distsgd import train
from distsgd.cluster.ray_metrics import GAUGES
from distsgd.config import Config, read_toml
from distsgd.tracking import run_id as run_ids

REPOSITORY = Path(__file__).resolve().parents[2]
MNIST = REPOSITORY.parent / "shared" / "data" / "mnist"
CONFIGURATIONS = sorted((REPOSITORY / "jobs").glob("*.toml"))


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as server:
        yield server


@pytest.fixture(scope="module")
def cluster(tracking: MlflowServer) -> Iterator[RayCluster]:
    with ray_cluster(nodes=2, environment={"MLFLOW_TRACKING_URI": tracking.uri}) as running:
        yield running


def run_result(path: Path) -> dict:
    return json.loads((path / "result.json").read_bytes())


def wait_until(condition, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{condition} did not come about in {timeout_s:g} s"
        time.sleep(0.1)


def test_there_are_the_configurations_that_the_readme_names():
    assert [path.name for path in CONFIGURATIONS] == ["cifar10.toml", "digits.toml", "mnist.toml"]


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_configuration_is_valid_and_commented(path):
    Config.build(read_toml(path))
    assert path.read_text(encoding="utf-8").count("#") >= 5


def test_digits_toml_writes_out_the_defaults():
    assert Config.build(read_toml(REPOSITORY / "jobs" / "digits.toml")).digest() == Config().digest()


def test_cifar10_toml_is_the_classic_shape():
    config = Config.build(read_toml(REPOSITORY / "jobs" / "cifar10.toml"))
    assert (config.model.hidden, config.data.classes, config.train.batch_size) == (20, 10, 256)
    assert (config.optim.momentum, config.optim.schedule) == (0, "step")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_mnist_toml_reaches_what_it_says(tmp_path):
    if not MNIST.is_dir():
        pytest.skip(f"there is no MNIST in {MNIST}")
    given = {"data.train": str(MNIST / "train.parquet"), "data.val": str(MNIST / "test.parquet"), "run.workers": 2}
    given |= {"run.dir": str(tmp_path / "run"), "tracking.enabled": False}
    result = train(Config.build(read_toml(REPOSITORY / "jobs" / "mnist.toml"), given))
    assert result.val_accuracy >= 0.98


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_job_trains_on_the_cluster_and_logs_to_the_mlflow_server(cluster, tracking, tmp_path):
    run_dir = tmp_path / "run"
    entrypoint = ["python", "jobs/train.py", "jobs/digits.toml", "--set", "train.epochs=3", "--workers", "2"]
    entrypoint += ["--set", "tracking.timeout_s=120"]  # a busy machine may take its time
    submitted = cluster.submit(REPOSITORY, "digits", *entrypoint, "--run-dir", str(run_dir))
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    job = cluster.job("digits")
    assert (job["status"], job["driver_exit_code"]) == ("SUCCEEDED", 0)

    result = run_result(run_dir)
    assert result["status"] == "FINISHED"
    run = MlflowClient(tracking.uri).get_run(result["mlflow_run_id"])
    assert run.info.status == "FINISHED", submitted.stdout
    assert run.data.metrics["train/epoch_loss"] == result["train/loss"]
    assert run.data.params["run.workers"] == "2"
    serial = train(
        {"train.epochs": 3, "run.workers": 0, "run.dir": str(tmp_path / "serial"), "tracking.enabled": False}
    )
    assert result["weights_sha256"] == serial.weights_sha256
    wait_until(lambda: not [pid for pid in cluster.processes() if "WorkerActor" in command(pid)])


ESTIMATOR = """
from sklearn.datasets import load_iris
from distsgd.sklearn import DistSGDClassifier
for workers in (0, 2, 2):
    model = DistSGDClassifier(workers=workers, max_iter=2, num_shards=2, random_state=0)
    print("weights", model.fit(*load_iris(return_X_y=True)).weights_sha256_)
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_estimators_in_a_job_train_on_its_cluster(cluster, tmp_path):
    (tmp_path / "fit.py").write_text(ESTIMATOR)
    submitted = cluster.submit(tmp_path, "estimator", "python", "-W", "ignore", "fit.py")
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    found = re.findall("weights ([0-9a-f]{64})", submitted.stdout)
    assert len(found) == 3
    assert len(set(found)) == 1


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_job_keeps_the_exit_code_of_a_refusal(cluster, tmp_path):
    run_dir = tmp_path / "run"
    entrypoint = ["python", "jobs/train.py", "jobs/digits.toml", "--set", "optim.lr=-1", "--run-dir", str(run_dir)]
    submitted = cluster.submit(REPOSITORY, "refused", *entrypoint)
    assert submitted.returncode == 1  # of `ray job submit`, whatever the driver's was
    job = cluster.job("refused")
    assert (job["status"], job["driver_exit_code"]) == ("FAILED", 2)
    assert "optim.lr is -1" in submitted.stdout
    assert not run_dir.exists()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_stopped_job_checkpoints_and_the_next_one_resumes_it(cluster, tracking, tmp_path):
    """Ray grants a job thirty seconds, as in docker-compose.yml, and then kills it."""
    run_dir = tmp_path / "run"
    command = ["python", "jobs/train.py", "jobs/digits.toml", "--workers", "1", "--run-dir", str(run_dir)]
    command += ["--set", "train.epochs=500", "--set", "tracking.timeout_s=120"]
    started = cluster.submit(REPOSITORY, "long", *command, wait=False)
    assert started.returncode == 0, started.stdout + started.stderr
    client = MlflowClient(tracking.uri)
    wait_until(lambda: (run_id := run_ids.known(run_dir)) and client.get_run(run_id).data.metrics)
    cluster.post("/api/jobs/long/stop")
    wait_until(lambda: cluster.job("long")["status"] == "STOPPED")
    stopped = run_result(run_dir)
    assert stopped["status"] == "KILLED"
    assert 0 < stopped["steps"] < 500 * 23
    run_id = run_ids.known(run_dir)
    assert client.get_run(run_id).info.status == "KILLED"

    resumed = cluster.submit(REPOSITORY, "resumed", *command, "--resume")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    finished = run_result(run_dir)
    assert (finished["status"], finished["steps"]) == ("FINISHED", 500 * 23)
    assert finished["mlflow_run_id"] == run_id
    assert client.get_run(finished["mlflow_run_id"]).info.status == "FINISHED"


def exported(cluster: RayCluster) -> dict[str, set[tuple[str, str]]]:
    """Return the tags `run` and `role` with which each of the run's gauges is offered to Prometheus by the nodes."""
    found: dict[str, set[tuple[str, str]]] = {}
    for group in json.loads((cluster.folder / "0" / "prom_metrics_service_discovery.json").read_bytes()):
        for target in group["targets"]:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{target}/metrics", timeout=10) as reply:
                for line in reply.read().decode().splitlines():
                    if line.startswith("ray_distsgd_"):
                        name, tags = line.removeprefix("ray_").split("{", 1)
                        values = dict(re.findall(r'(\w+)="([^"]*)"', tags))
                        found.setdefault(name, set()).add((values["run"], values["role"]))
    return found


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ray_shows_what_runs_and_how_fast(cluster, tmp_path):
    run_dir = tmp_path / "seen"
    command = ["python", "jobs/train.py", "jobs/digits.toml", "--workers", "2", "--run-dir", str(run_dir)]
    command += ["--set", "train.epochs=1000000", "--set", "tracking.enabled=false"]
    started = cluster.submit(REPOSITORY, "seen", *command, wait=False)
    assert started.returncode == 0, started.stdout + started.stderr
    server, workers = ("seen", "the parameter server"), {("seen", "worker 0"), ("seen", "worker 1")}
    shares = "distsgd_worker_waiting_share"
    # A node may answer once and be late the next time, so all is read from one round.
    expected = {name: workers if name == shares else {server} for name in GAUGES}
    wait_until(lambda: exported(cluster) == expected, 90)
    alive = cluster.get("/api/v0/actors?filter_keys=state&filter_predicates=%3D&filter_values=ALIVE")
    names = {re.sub(r" \([0-9a-f]{6}\)$", "", actor["name"]) for actor in alive["data"]["result"]["result"]}
    assert {"seen: the parameter server", "seen: worker 0", "seen: worker 1"} <= names
    cluster.post("/api/jobs/seen/stop")
    wait_until(lambda: cluster.job("seen")["status"] == "STOPPED")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_cluster_demands_its_token(cluster):
    with pytest.raises(urllib.error.HTTPError) as refused:
        cluster.get("/api/jobs/", token="0" * 64)
    assert refused.value.code in (401, 403)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("service", "port", "location"), [("head", 8265, "dashboard"), ("worker", 52365, "agent")])
def test_health_check_of_the_compose_file_needs_no_token(cluster, service, port, location):
    compose = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text(encoding="utf-8"))
    _, _, option, program = compose["services"][service]["healthcheck"]["test"]
    there = f"http://127.0.0.1:{port}"
    assert there in program
    for address, code in ((getattr(cluster, location), 0), (f"http://127.0.0.1:{free_port()}", 1)):
        command = [sys.executable, option, program.replace(there, address)]
        checked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert checked.returncode == code, checked.stderr
