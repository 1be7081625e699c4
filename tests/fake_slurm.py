"""A Slurm of one node for tests: sbatch, squeue, srun, scontrol and scancel, which refuse arguments that Slurm has not.

Each is this file under its name; they share the folder that it lies in.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

FOLDER = Path(sys.argv[0]).absolute().parent
NAMES = ("sbatch", "squeue", "srun", "scontrol", "scancel")
NODE = os.uname().nodename

DIRECTIVES = {
    "job-name": r"[\w.-]+",
    "nodes": r"\d+",
    "ntasks-per-node": r"1",
    "cpus-per-task": r"\d+",
    "mem": r"\d+[KMGT]",
    "time": r"\d+",
    "signal": r"(B:)?\w+@\d+",
    "requeue": r"",
    "open-mode": r"append",
    "output": r"\"/[^\"]*%j[^\"]*\"",
}
"""Options of sbatch in a script, and their values."""

SRUN = (r"--nodes=1", r"--ntasks=1", r"--nodelist=[\w.-]+", r"--overlap", r"--export=ALL", r"--kill-on-bad-exit=1")


def install(folder: Path) -> None:
    """Put the commands into a folder, which is then first in PATH."""
    for name in NAMES:
        program = folder / name
        program.write_text(f"#!{sys.executable}\n{Path(__file__).read_text()}")
        program.chmod(0o755)


def fail(message: str) -> NoReturn:
    sys.exit(f"{Path(sys.argv[0]).name}: error: {message}")


def job_file(job: str) -> Path:
    return FOLDER / f"{job}.json"


def read(job: str) -> dict:
    with contextlib.suppress(FileNotFoundError):
        return json.loads(job_file(job).read_text())
    fail("Invalid job id specified")


def update(job: str, **values: object) -> None:
    new = FOLDER / f"{job}.{os.getpid()}.new"
    new.write_text(json.dumps((json.loads(job_file(job).read_text()) if job_file(job).exists() else {}) | values))
    new.replace(job_file(job))


def directives(script: str) -> dict[str, str]:
    found = {}
    for line in script.splitlines()[1:]:
        if line and not line.startswith("#"):
            break  # Slurm reads directives up to the first command
        if line.startswith("#SBATCH "):
            match = re.fullmatch(r"#SBATCH --([a-z-]+)(?:=(.*))?", line)
            if match is None or re.fullmatch(DIRECTIVES.get(match[1], "(?!)"), match[2] or "") is None:
                fail(f"unrecognized option {line!r}")
            found[match[1]] = (match[2] or "").strip('"')
    return found


def sbatch(words: list[str]) -> None:
    script = sys.stdin.read()
    if not script.startswith("#!"):
        fail("This does not look like a batch script")
    asked = directives(script)
    if words == ["--test-only"]:
        if int(asked["nodes"]) > 1:
            fail("Requested node configuration is not available")
        return
    if words != ["--parsable"]:
        fail(f"unrecognized options {words}")
    job = str(random.randint(1000, 9999))
    update(job, name=asked["job-name"], state="PENDING", code=0, script=script, asked=asked)
    subprocess.Popen(
        [sys.executable, str(FOLDER / "sbatch"), "run", job],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    print(job)


def run(job: str) -> None:
    """Run a job until it has ended and is not queued again."""
    while True:
        asked, script = read(job)["asked"], FOLDER / f"{job}.sh"
        script.write_text(read(job)["script"])
        environment = os.environ | {
            "SLURM_JOB_ID": job,
            "SLURM_JOB_NODELIST": NODE,
            "SLURM_JOB_NUM_NODES": asked["nodes"],
            "SLURM_CPUS_PER_TASK": asked["cpus-per-task"],
        }
        with open(asked["output"].replace("%j", job), "a") as output:
            process = subprocess.Popen(
                ["bash", str(script)], stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment
            )
            update(job, state="RUNNING", pid=process.pid, requeued=False)
            code = process.wait()
        if not read(job)["requeued"]:
            update(job, state="FAILED" if code else "COMPLETED", code=code)
            return
        update(job, state="PENDING")


def squeue(words: list[str]) -> None:
    name = next(word for word in words if word.startswith("--name=")).partition("=")[2]
    if words != ["--me", "--noheader", f"--name={name}", "--format=%i %T"]:
        fail(f"unrecognized options {words}")
    for path in FOLDER.glob("*.json"):
        job = json.loads(path.read_text())
        if job["name"] == name and job["state"] in ("PENDING", "RUNNING"):
            print(path.stem, job["state"])


def srun(words: list[str]) -> NoReturn:
    while words and words[0].startswith("--"):
        if not any(re.fullmatch(known, words[0]) for known in SRUN):
            fail(f"unrecognized option {words[0]!r}")
        words = words[1:]
    if words == ["hostname", "--ip-address"]:
        print("127.0.0.1")
        sys.exit()
    step = subprocess.Popen(words, start_new_session=True)
    signal.signal(signal.SIGTERM, lambda *_: end(step))
    sys.exit(step.wait())


def end(step: subprocess.Popen) -> NoReturn:
    """End the processes of a step, which have some seconds for it."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(step.pid, signum)
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline and is_there(step.pid):
            time.sleep(0.05)
    sys.exit(1)


def is_there(group: int) -> bool:
    """Return whether a process of a step is left; its leader is this one's child."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(group, os.WNOHANG)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, 0)
        return True
    return False


def scontrol(words: list[str]) -> None:
    match words:
        case ["show", "hostnames", nodes]:
            print(nodes)
        case ["show", "job", job, "--oneliner"]:
            found = read(job)
            print(
                f"JobId={job} JobName={found['name']} JobState={found['state']} Reason=None ExitCode={found['code']}:0"
            )
        case ["requeue", job]:
            update(job, requeued=True)
            os.kill(read(job)["pid"], signal.SIGKILL)  # the script has nothing to do any more
            time.sleep(10)
        case _:
            fail(f"invalid command {words}")


def scancel(words: list[str]) -> None:
    match words:
        case ["--batch", "--signal=TERM", job]:
            os.kill(read(job)["pid"], signal.SIGTERM)
        case _:
            fail(f"unrecognized options {words}")


def main() -> None:
    name, words = Path(sys.argv[0]).name, sys.argv[1:]
    if name == "sbatch" and words[:1] == ["run"]:
        run(words[1])
    else:
        globals()[name](words)


if __name__ == "__main__":
    main()
