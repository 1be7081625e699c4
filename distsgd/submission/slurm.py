"""A request as a Slurm job: an `sbatch` script with a private Ray on the allocated nodes."""

from __future__ import annotations

import asyncio
import re
import shlex
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from string import Template

from distsgd.cluster.job_state import JobState, NotReachedError
from distsgd.config import IN_MEMORY
from distsgd.data.files import find
from distsgd.errors import ConfigError, JobError, ResourceError
from distsgd.rundir.folders import writable_parent
from distsgd.submission.commands import CommandError, output_of
from distsgd.submission.request import BUILT_IN, LOCATIONS, Request
from distsgd.submission.settings import WARNING_S, Resources
from distsgd.system.jobs import RESUBMIT

POLL_S = 1.0
"""Seconds between looks at the log's file."""

SUCCEEDED, STOPPED = ("COMPLETED",), ("CANCELLED",)
FAILED = ("FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE", "PREEMPTED", "REVOKED")
"""Slurm's names of final states."""

SCRIPT = Template(
    r"""#!/bin/bash
# A run of distsgd on a private Ray, for Slurm: `sbatch` with this file. The nodes share the run directory's folder.
#SBATCH --job-name=$name
#SBATCH --nodes=$nodes
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=$cpus
#SBATCH --mem=${megabytes}M
#SBATCH --time=$minutes
#SBATCH --signal=B:USR1@$warning_s
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output="$log"
set -euo pipefail
umask 077

python=$python
runs=$runs
export $resubmit=$again

# Ray's token is the only thing that keeps other users of these nodes out. It is a file, and not in the environment of
# `srun`, because Slurm sends that over the network.
mkdir -p "$$runs"
token=$$(mktemp "$$runs/.ray-token-$$SLURM_JOB_ID-XXXXXX")
od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$$token"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$$token" RAY_USAGE_STATS_ENABLED=0
unset RAY_ADDRESS RAY_AUTH_TOKEN

# Ray's files are in a folder that only this user can enter: Ray opens its own to everybody.
node='dir=$$1; shift; mkdir -m 700 "$$dir" 2>/dev/null || { [ -O "$$dir" ] && [ ! -L "$$dir" ]; } || exit 1; "$$@"'
scratch=/tmp/distsgd-$$SLURM_JOB_ID
on_node() {  # NODE COMMAND...: runs a command on a node until the script ends
    local host=$$1
    shift
    srun --nodes=1 --ntasks=1 --nodelist="$$host" --overlap --export=ALL --kill-on-bad-exit=1 \
        bash -c "$$node" bash "$$scratch" "$$@" &
    ray+=("$$!")
}

driver="" why="" ray=() hosts=()
ended() {
    [ "$${#ray[@]}" -eq 0 ] || kill -TERM "$${ray[@]}" 2>/dev/null || true
    wait || true
    for host in "$${hosts[@]}"; do  # Slurm may have killed the steps before they could tidy up
        srun --nodes=1 --ntasks=1 --nodelist="$$host" --overlap rm -rf "$$scratch" || true
    done
    rm -f "$$token"
}
trap ended EXIT
# Slurm sends USR1 some time before the job's time is over, and TERM if the job is cancelled.
trap 'why=time; [ -z "$$driver" ] || kill -TERM "$$driver" 2>/dev/null || true' USR1
trap 'why=cancelled; [ -z "$$driver" ] || kill -TERM "$$driver" 2>/dev/null || true' TERM INT

mapfile -t hosts < <(scontrol show hostnames "$$SLURM_JOB_NODELIST")
ip=$$(srun --nodes=1 --ntasks=1 --nodelist="$${hosts[0]}" --overlap hostname --ip-address)
address=$${ip%% *}:$$((20000 + SLURM_JOB_ID % 10000))
common=(--block --disable-usage-stats --temp-dir="$$scratch/r" --num-cpus="$$SLURM_CPUS_PER_TASK")
on_node "$${hosts[0]}" "$$python" -m ray.scripts.scripts start --head --node-ip-address="$${address%:*}" \
    --port="$${address##*:}" --include-dashboard=false "$${common[@]}"
for host in "$${hosts[@]:1}"; do
    on_node "$$host" "$$python" -m ray.scripts.scripts start --address="$$address" "$${common[@]}"
done
"$$python" -m distsgd.cli await-nodes "$$address" "$${#hosts[@]}"

"$$python" -m distsgd.cli $command \
    --address "$$address" &
driver=$$!
[ -z "$$why" ] || kill -TERM "$$driver" 2>/dev/null || true
status=0
while :; do  # a signal ends `wait`, but not the driver
    wait "$$driver" && status=0 || status=$$?
    kill -0 "$$driver" 2>/dev/null || break
done
wait "$$driver" && status=0 || status=$$?

if [ "$$why" = time ] && [ "$$status" -eq 143 ]; then
    echo "out of time; the run is checkpointed, and the job is queued again"
    ended
    trap - EXIT
    scontrol requeue "$$SLURM_JOB_ID"
fi
exit "$$status"
"""
)


@dataclass(frozen=True)
class SlurmJob:
    """A request on its way to Slurm."""

    request: Request
    resources: Resources
    again: str
    """The command that submits it again."""
    python: str = sys.executable
    """On the nodes."""

    def __post_init__(self) -> None:
        if re.search(r'["%\\\x00-\x1f\x7f]', self.request.run_dir):
            raise ConfigError(
                f"run.dir is {self.request.run_dir!r}; the log lies beside it, and its name may have no quotes, "
                "control characters, % or \\"
            )

    @property
    def _runs(self) -> Path:
        return Path(self.request.run_dir).parent

    def manifest(self) -> str:
        """Return the script."""
        resources = self.resources
        return SCRIPT.substitute(
            name=self.request.name,
            nodes=resources.nodes,
            cpus=resources.cpus,
            megabytes=resources.megabytes,
            minutes=resources.minutes,
            warning_s=WARNING_S,
            log=self._runs / f"{self.request.name}-%j.log",
            python=shlex.quote(self.python),
            runs=shlex.quote(str(self._runs)),
            resubmit=RESUBMIT,
            again=shlex.quote(self.again),
            command=shlex.join([self.request.command, *self.request.words]),
        )

    def submitted(self, notice: Callable[[str], None]) -> QueuedJob:
        """Return the job of this request that is in the queue, which is submitted if there is none."""
        name = self.request.name
        try:
            queued = output_of(["squeue", "--me", "--noheader", f"--name={name}", "--format=%i %T"]).split()
            if queued:
                notice(f"the job {queued[0]} ({name}) is there, and {queued[1]}; this is its log")
                return QueuedJob(queued[0], self._runs / f"{name}-{queued[0]}.log")
            self._look()
            output_of(["sbatch", "--test-only"], text=self.manifest())
            job_id = output_of(["sbatch", "--parsable"], text=self.manifest()).strip().partition(";")[0]
        except CommandError as error:
            raise ResourceError(f"Slurm does not take the job: {error}") from None
        if not job_id.isdecimal():
            raise ResourceError(f"sbatch answered {job_id!r}; expected the number of the job")
        notice(f"submitted as job {job_id} ({name})")
        return QueuedJob(job_id, self._runs / f"{name}-{job_id}.log")

    def _look(self) -> None:
        """Raise RefusedError if rows cannot be read or the run directory not be written, which the nodes share."""
        writable_parent(Path(self.request.run_dir))
        values = self.request.config.flat()
        for key in LOCATIONS:
            if values[key] not in (None, BUILT_IN, IN_MEMORY):
                find(values[key])


@dataclass(frozen=True)
class QueuedJob:
    """A job in Slurm, as `job_state.Job`."""

    name: str
    """Its number."""
    output: Path

    @property
    def stop_command(self) -> str:
        """See `job_state.Job`; the signal goes to the script, which waits for the checkpoint."""
        return f"scancel --batch --signal=TERM {self.name}"

    def state(self) -> JobState:
        """See `job_state.Job`."""
        try:
            text = output_of(["scontrol", "show", "job", self.name, "--oneliner"])
        except CommandError as error:
            if "Invalid job id" in str(error):
                raise JobError(
                    f"Slurm does not know the job {self.name} any more; submit it again: the run continues from "
                    "its checkpoint"
                ) from None
            raise NotReachedError(str(error)) from None
        found = re.search(r"\bJobState=(\w+)", text)
        if found is None:
            raise NotReachedError("scontrol did not answer with a job's state")
        code = re.search(r"\bExitCode=(\d+):(\d+)", text)
        name = found[1]
        if name in STOPPED:
            return JobState("STOPPED")
        if name not in (*SUCCEEDED, *FAILED):
            return JobState("PENDING" if name == "PENDING" else "RUNNING")
        exit_code = None if code is None else -int(code[2]) if int(code[2]) else int(code[1])
        if name in SUCCEEDED:
            return JobState("SUCCEEDED", 0)
        return JobState("FAILED", exit_code if name == "FAILED" and exit_code else None, f"Slurm says {name}")

    def stop(self) -> None:
        """See `job_state.Job`."""
        try:
            output_of(self.stop_command.split())
        except CommandError as error:
            raise NotReachedError(str(error)) from None

    def log(self) -> str:
        """See `job_state.Job`."""
        try:
            return self.output.read_text(errors="replace")
        except OSError:
            return ""  # it is on the nodes, or nothing has been printed

    async def tail(self) -> AsyncIterator[str]:
        """See `job_state.Job`."""
        while not self.output.exists():
            await asyncio.sleep(POLL_S)
        with self.output.open(errors="replace") as file:
            while True:
                text = file.read(2**16)
                if text:
                    yield text
                else:
                    await asyncio.sleep(POLL_S)
