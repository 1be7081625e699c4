"""The RayJob: valid by KubeRay's schema, closed to strangers, with the settings of docker-compose.yml."""

from __future__ import annotations

import gzip
import json
import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from runs import Outcome, invoke

from distsgd.config import Config
from distsgd.errors import ConfigError
from distsgd.submission import following
from distsgd.submission.following import Follower
from distsgd.submission.kubernetes import KubernetesJob
from distsgd.submission.ray_job_resource import RayJobResource
from distsgd.submission.request import Request
from distsgd.submission.settings import GRACE_S, Resources

REPOSITORY = Path(__file__).resolve().parents[2]
SCHEMA = REPOSITORY / "tests" / "data_files" / "kuberay-1.7.0-rayjob-schema.json.gz"
COMPOSE = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text(encoding="utf-8"))
MNIST = ["jobs/mnist.toml", "--data", "/data/mnist/train.parquet", "--val", "/data/mnist/test.parquet"]
MNIST += ["--run-dir", "/runs/mnist"]


@pytest.fixture(scope="module")
def schema() -> Draft202012Validator:
    return Draft202012Validator(json.loads(gzip.decompress(SCHEMA.read_bytes())))


def job(values: dict | None = None, **resources) -> KubernetesJob:
    config = Config.build({"run.dir": "/runs/mine"}, values or {})
    return KubernetesJob(
        Request.of(config, shared=False), Resources(**resources), "registry/distsgd:1", "distsgd submit x"
    )


def spec(made: KubernetesJob) -> dict[str, Any]:
    return yaml.safe_load(made.manifest())


def pods(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = manifest["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


@pytest.mark.parametrize(
    "values",
    [{}, {"data.train": "/data/x.parquet", "data.val": "/more/y.parquet", "tracking.uri": "http://mlflow:5000"}],
)
def test_it_is_valid_by_the_schema_that_kuberay_publishes(schema, values):
    assert not list(schema.iter_errors(spec(job(values))))


@pytest.mark.parametrize(
    "damage",
    [
        lambda m: m["spec"].update(entryPoint="x"),
        lambda m: m["spec"]["rayClusterSpec"].update(rayVersion=2.6),
        lambda m: m["spec"].update(backoffLimit="one"),
        lambda m: pods(m)[0]["containers"][0].pop("name"),
        lambda m: pods(m)[1]["containers"][0]["volumeMounts"][0].pop("mountPath"),
        lambda m: pods(m)[1].update(terminationGraceSeconds=5),
        lambda m: m["spec"]["rayClusterSpec"]["authOptions"].update(mode="password"),
    ],
)
def test_the_schema_finds_mistakes(schema, damage):
    manifest = spec(job())
    damage(manifest)
    assert list(schema.iter_errors(manifest))


def test_its_settings_are_those_of_the_compose_file():
    manifest = spec(job(nodes=3, cpus=4, memory="8Gi"))
    ray = COMPOSE["services"]["head"]
    assert int(ray["environment"]["RAY_JOB_STOP_WAIT_TIME_S"]) <= GRACE_S
    cluster = manifest["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["workerGroupSpecs"][0]["replicas"] == 3
    for pod in pods(manifest):
        (container,) = pod["containers"]
        environment = {entry["name"]: entry["value"] for entry in container["env"]}
        assert environment["RAY_JOB_STOP_WAIT_TIME_S"] == str(GRACE_S) < str(pod["terminationGracePeriodSeconds"])
        assert environment["RAY_USAGE_STATS_ENABLED"] == "0"
        assert container["resources"]["limits"] == {"cpu": "4", "memory": "8Gi"}
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False


def test_the_folders_of_rows_and_runs_are_claims_and_the_default_store_stays():
    manifest = spec(job({"data.train": "/data/a.parquet", "data.val": "/data/b.parquet"}))
    for pod in pods(manifest):
        (container,) = pod["containers"]
        mounts = {mount["mountPath"]: mount["readOnly"] for mount in container["volumeMounts"]}
        assert mounts == {"/data": True, "/runs": False}
        assert [volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"]] == ["data", "runs"]
        environment = {entry["name"]: entry["value"] for entry in container["env"]}
        assert environment["MLFLOW_TRACKING_URI"] == "sqlite:////runs/mlflow.db"
    together = spec(job({"data.train": "/runs/rows.parquet"}))
    assert [mount["readOnly"] for mount in pods(together)[0]["containers"][0]["volumeMounts"]] == [False]
    named = spec(job({"tracking.uri": "http://mlflow:5000"}))
    assert "MLFLOW_TRACKING_URI" not in str(named)


@pytest.mark.parametrize("run_dir", ["/mine", "/My_Runs/mine", "/-/mine"])
def test_a_folder_that_is_no_claim_is_refused(run_dir):
    with pytest.raises(ConfigError, match="persistent volume claim"):
        job({"run.dir": run_dir}).manifest()


def test_the_entry_point_is_the_command_to_the_letter():
    made = job({"data.label": "a 'b' $c"})
    assert shlex.split(spec(made)["spec"]["entrypoint"]) == [
        "python",
        "-m",
        "distsgd.cli",
        "train",
        *made.request.words,
    ]


def printed(*words: str) -> str:
    command = [sys.executable, "-m", "distsgd.cli", "submit", *words, "--print"]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.timeout(60)
def test_the_manifest_in_jobs_is_what_is_printed():
    assert (REPOSITORY / "jobs" / "kubernetes.yaml").read_text() == printed(*MNIST, "--to", "kubernetes")


KUBECTL = """#!{python}
import json, os, sys
folder, words = os.path.dirname(os.path.abspath(sys.argv[0])), sys.argv[1:]
with open(folder + "/calls", "a") as calls:
    print(json.dumps(words), file=calls)
state = folder + "/rayjob.json"
if words[:2] == ["get", "rayjob"]:
    if not os.path.exists(state):
        sys.exit('Error from server (NotFound): rayjobs.ray.io "x" not found')
    status = json.load(open(state))
    later = [*status.pop("later"), None]
    print(json.dumps({{"status": status}}))
    if later[0]:
        json.dump(status | later[0] | {{"later": later[1:-1]}}, open(state, "w"))
    else:
        json.dump(status | {{"later": []}}, open(state, "w"))
elif words[0] == "create":
    open(folder + "/manifest", "w").write(sys.stdin.read())
    json.dump(json.load(open(folder + "/course")), open(state, "w"))
elif words[:2] == ["delete", "rayjob"]:
    os.remove(state)
elif words[:2] == ["get", "pods"]:
    print("pod/head")
elif words[0] == "exec" and ("tail" in words or "cat" in words):
    print("hello from the job")
elif words[0] == "exec":
    status = json.load(open(state))
    done = {{"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED", "later": []}}
    json.dump(status | done, open(state, "w"))
"""

RUNNING = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING", "rayClusterName": "c-1"}


class FakeKubernetes:
    """A `kubectl` that knows one RayJob, which takes a course that is given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        program = folder / "kubectl"
        program.write_text(KUBECTL.format(python=sys.executable))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    def submit(self, *words: str, course: list[dict[str, Any]]) -> Outcome:
        (self.folder / "course").write_text(json.dumps(course[0] | {"later": course[1:]}))
        return invoke("submit", "--run-dir", "/runs/mine", "--to", "kubernetes", *words)

    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]


@pytest.fixture
def kubernetes(tmp_path, monkeypatch) -> FakeKubernetes:
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(following, "POLL_S", 0.01)
    return FakeKubernetes(tmp_path)


@pytest.mark.parametrize(
    ("last", "code", "words"),
    [
        ({"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}, 0, ""),
        (
            {
                "jobDeploymentStatus": "Failed",
                "jobStatus": "FAILED",
                "message": "Job entrypoint command failed with exit code 2, last available logs",
            },
            2,
            "exit code 2",
        ),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}, 143, "was stopped"),
        ({"jobDeploymentStatus": "Failed", "reason": "DeadlineExceeded"}, 1, "DeadlineExceeded"),
    ],
)
def test_the_command_ends_as_the_rayjob_does(kubernetes, tmp_path, last, code, words):
    found = kubernetes.submit(course=[{}, RUNNING, RUNNING, last])
    assert (found.code, words in found.err) == (code, True), found
    assert found.out.count("hello from the job") == 1
    assert "apiVersion: ray.io/v1" in (tmp_path / "manifest").read_text()
    assert [call[0] for call in kubernetes.calls()].count("create") == 1


def test_a_rayjob_that_is_there_is_attached_to_and_one_that_has_ended_is_made_again(kubernetes, tmp_path):
    (tmp_path / "rayjob.json").write_text(json.dumps(RUNNING | {"later": []}))
    found = kubernetes.submit("--detach", course=[RUNNING])
    assert (found.code, "is there, and RUNNING" in found.err) == (0, True), found
    assert not [call for call in kubernetes.calls() if call[0] in ("create", "delete")]

    ended = {"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED", "rayClusterName": "c-1", "later": []}
    (tmp_path / "rayjob.json").write_text(json.dumps(ended))
    found = kubernetes.submit("--detach", course=[RUNNING])
    assert (found.code, "created the RayJob distsgd-mine-" in found.err) == (0, True), found
    assert [call[0] for call in kubernetes.calls() if call[0] in ("create", "delete")] == ["delete", "create"]


def test_a_job_is_stopped_in_its_head(kubernetes, tmp_path):
    (tmp_path / "rayjob.json").write_text(json.dumps(RUNNING | {"later": []}))
    follower = Follower(RayJobResource("distsgd-mine"), show=lambda _: None, notice=lambda _: None)
    follower.stop()
    assert follower.follow().status == "STOPPED"
    stop = ["ray", "job", "stop", "--no-wait", "--address", "http://127.0.0.1:8265", "distsgd-mine"]
    assert ["exec", "pod/head", "--container=ray-head", "--", *stop] in kubernetes.calls()


def test_without_kubectl_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = invoke("submit", "--run-dir", "/runs/mine", "--to", "kubernetes")
    assert (found.code, "`kubectl` cannot be run here" in found.err) == (2, True), found


def test_trials_on_several_nodes_do_not_share_a_database_in_a_file():
    def sweep(nodes: int, **values: str) -> KubernetesJob:
        config = Config.build({"run.dir": "/runs/mine"}, values)
        request = Request.of(config, shared=False, command="sweep", options=["--grid", "optim.lr=0.1,0.2"])
        return KubernetesJob(request, Resources(nodes=nodes), "image", "again")

    with pytest.raises(ConfigError, match=r"write to one SQLite file on a shared volume"):
        sweep(2)
    assert "sqlite:///" in sweep(1).manifest()
    assert "sqlite:///" not in sweep(2, **{"tracking.uri": "http://mlflow:5000"}).manifest()
