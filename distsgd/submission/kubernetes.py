"""A request as a KubeRay `RayJob`: a Ray cluster of its own, which goes when the job has ended.

KubeRay submits the job by HTTP itself. In its other modes a pod does that with `ray job submit`, which failed when the
pod was restarted because the ID existed (kuberay#1902), and whose exit code was 0 for failed jobs (kuberay#3216).
"""

from __future__ import annotations

import importlib.metadata
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import yaml

from distsgd.errors import ConfigError, ResourceError
from distsgd.submission.commands import CommandError, output_of
from distsgd.submission.ray_job_resource import RayJobResource
from distsgd.submission.request import BUILT_IN, LOCATIONS, Request
from distsgd.submission.settings import GRACE_S, Resources
from distsgd.system.jobs import RESUBMIT

IMAGE = "distsgd:latest"
"""The image that docker/Dockerfile makes."""

USER = 1000
"""User and group ID in that image."""

RETRIES = 1
"""How often KubeRay starts another cluster if one is lost or the job fails; the run continues from its checkpoint."""

KEEP_S = 600
"""Seconds for which the cluster is kept after the job has ended, so that the log can be read."""


@dataclass(frozen=True)
class KubernetesJob:
    """A request on its way to Kubernetes."""

    request: Request
    resources: Resources
    image: str
    again: str
    """The command that submits it again."""

    def __post_init__(self) -> None:
        if self.request.command == "sweep" and self.request.config.tracking.uri is None and self.resources.nodes > 1:
            raise ConfigError(
                f"tracking.uri is not set, and trials on {self.resources.nodes} nodes would write to one SQLite file "
                "on a shared volume, whose locks do not hold there; give the URI of an MLflow server, or use --nodes 1"
            )

    def manifest(self) -> str:
        """Return the RayJob, as YAML."""
        spec = {
            "apiVersion": "ray.io/v1",
            "kind": "RayJob",
            "metadata": {"name": self.request.name, "labels": {"app.kubernetes.io/name": "distsgd"}},
            "spec": {
                "submissionMode": "HTTPMode",
                "jobId": self.request.name,
                "entrypoint": shlex.join(["python", "-m", "distsgd.cli", self.request.command, *self.request.words]),
                "backoffLimit": RETRIES,
                "shutdownAfterJobFinishes": True,
                "ttlSecondsAfterFinished": KEEP_S,
                "rayClusterSpec": {
                    "rayVersion": importlib.metadata.version("ray"),
                    "authOptions": {"mode": "token"},
                    "headGroupSpec": {
                        "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},
                        "template": self._pod("ray-head", ports={"gcs-server": 6379, "dashboard": 8265}),
                    },
                    "workerGroupSpecs": [
                        {
                            "groupName": "workers",
                            "replicas": self.resources.nodes,
                            "minReplicas": self.resources.nodes,
                            "maxReplicas": self.resources.nodes,
                            "rayStartParams": {"num-cpus": str(self.resources.cpus)},
                            "template": self._pod("ray-worker", ports={}),
                        }
                    ],
                },
            },
        }
        comment = (
            "# A run of distsgd for KubeRay 1.5 or newer, which makes the token. The image has distsgd in it;\n"
            "# the claims of persistent volumes are named like the folders that they are mounted on.\n"
        )
        text: str = yaml.safe_dump(spec, sort_keys=False, width=10_000)
        return comment + text

    def _pod(self, name: str, ports: dict[str, int]) -> dict[str, Any]:
        size = {"cpu": str(self.resources.cpus), "memory": self.resources.memory}
        container: dict[str, Any] = {
            "name": name,
            "image": self.image,
            "env": [{"name": key, "value": value} for key, value in self._environment().items()],
            "resources": {"requests": size, "limits": dict(size)},
            "volumeMounts": [
                {"name": volume, "mountPath": f"/{volume}", "readOnly": not writable}
                for volume, writable in self._volumes().items()
            ],
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }
        if ports:
            container["ports"] = [{"name": key, "containerPort": port} for key, port in ports.items()]
        return {
            "spec": {
                "automountServiceAccountToken": False,
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": USER,
                    "runAsGroup": USER,
                    "fsGroup": USER,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "terminationGracePeriodSeconds": GRACE_S + 30,
                "containers": [container],
                "volumes": [
                    {"name": volume, "persistentVolumeClaim": {"claimName": volume}} for volume in self._volumes()
                ],
            }
        }

    def _environment(self) -> dict[str, str]:
        environment = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_JOB_STOP_WAIT_TIME_S": str(GRACE_S), RESUBMIT: self.again}
        if self.request.config.tracking.uri is None:
            store = PurePosixPath(self.request.run_dir).parent / "mlflow.db"
            environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{store}"
        return environment

    def _volumes(self) -> dict[str, bool]:
        """Return the top-level folders of all paths, without slash, and whether the run writes into them."""
        values = self.request.config.flat()
        rows = [values[key] for key in LOCATIONS if values[key] not in (None, BUILT_IN)]
        return {_volume(path): False for path in rows} | {_volume(self.request.run_dir): True}

    def submitted(self, notice: Callable[[str], None]) -> RayJobResource:
        """Return the job of this request that has not ended, which is created if there is none."""
        job = RayJobResource(self.request.name)
        try:
            state = job.found()
            if state is not None and not state.ended:
                notice(f"the RayJob {job.name} is there, and {state.status}; this is its log")
                return job
            if state is not None:
                output_of(["kubectl", "delete", "rayjob", job.name, "--wait=true"])
            output_of(["kubectl", "create", "--filename", "-"], text=self.manifest())
        except CommandError as error:
            raise ResourceError(f"Kubernetes does not take the job: {error}") from None
        notice(f"created the RayJob {job.name}")
        return job


def _volume(path: str) -> str:
    """Return the name of the top-level folder that a path lies below."""
    parts = PurePosixPath(path).parts
    if len(parts) < 3 or re.fullmatch("[a-z0-9]([-a-z0-9]*[a-z0-9])?", parts[1]) is None:
        raise ConfigError(
            f"{path!r} does not lie in a folder that a volume can be mounted on; expected /NAME/..., where NAME is "
            "that of a persistent volume claim, such as /runs/mine"
        )
    return parts[1]
