"""The connection of a process to Ray: shared by its runs, refused where it cannot work, ended with nothing left."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from runs import Cli, Outcome, leaving_nothing

from distsgd.cluster import local_ray
from distsgd.config import Config
from distsgd.errors import ResourceError, Stopped

RUN = """
import os, sys, threading, time
import distsgd
from distsgd.run.observer import Observer

class Watching(Observer):
    def __init__(self, logged=lambda record: None, started=lambda *_, **__: None):
        self.logged, self.started = logged, started
    def note(self, text):
        if not text.startswith("features ("):
            print("note:", text)

def train(name, observer=None, **values):
    given = {"run.workers": 1, "tracking.enabled": False, "train.log_every": 1, "run.dir": name, "train.epochs": 1}
    result = distsgd.train(given | values, observer=observer)
    assert result.status == "FINISHED"
    return result
"""


@pytest.fixture
def cli(tmp_path) -> Iterator[Cli]:
    with leaving_nothing(tmp_path) as found:
        yield found


def run(cli: Cli, script: str) -> Outcome:
    """Run a script, which has to succeed without any output on stderr."""
    found = cli.run_python("-c", RUN + script)
    assert found.code == 0, found.err
    assert "Traceback" not in found.err
    return found


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_two_runs_in_threads_of_one_process(cli):
    """The run that has started Ray ends first, and leaves it to the other."""
    script = """
first_begun, second_begun, first_over = threading.Event(), threading.Event(), threading.Event()

def in_first(record):
    first_begun.set()
    assert second_begun.wait(90)

def in_second(record):
    second_begun.set()
    assert first_over.wait(90)

def second():
    assert first_begun.wait(90)
    train("second", Watching(in_second))
    print("second")

thread = threading.Thread(target=second)
thread.start()
train("first", Watching(in_first))
print("first", flush=True)
first_over.set()
thread.join()
import ray
assert not ray.is_initialized()
"""
    assert run(cli, script).out.split() == ["first", "second"]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_local_ray_listens_on_the_loopback_interface_alone(cli):
    script = """
import contextlib
from ray._private import ray_constants

def listening():
    mark, sockets, found = f"DISTSGD_TEST_MARK={os.environ['DISTSGD_TEST_MARK']}", set(), []
    for process in os.scandir("/proc"):
        with contextlib.suppress(OSError):
            variables = open(f"{process.path}/environ", errors="replace") if process.name.isdigit() else ()
            if any(mark in line.split(chr(0)) for line in variables):
                for number in os.listdir(f"{process.path}/fd"):
                    with contextlib.suppress(OSError):
                        sockets.add(os.readlink(f"{process.path}/fd/{number}"))
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in open(table).readlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                found.append(fields[1].split(":")[0])
    return found

addresses = []
train("run", Watching(lambda record: addresses or addresses.extend(listening())))
assert len(addresses) > 5, addresses
others = set(addresses) - {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
assert not others, others
assert ray_constants.ENABLE_RAY_CLUSTER
"""
    run(cli, script)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_fork_during_training_does_not_hang_its_end(cli):
    script = """
children = []

def logged(record):
    if not children:
        children.append(os.fork())
        if children[0] == 0:
            os.closerange(0, 3)
            time.sleep(600)
            os._exit(0)

train("run", Watching(logged))
os.kill(children[0], 9)
os.waitpid(children[0], 0)
print("over")
"""
    assert run(cli, script).out == "over\n"


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_process_forked_after_training_is_refused_ray_but_not_the_serial_loop(cli):
    script = """
import multiprocessing

def work():
    try:
        train("child")
    except distsgd.DistsgdError as error:
        print(type(error).__name__, error)
    print(train("serial", **{"run.workers": 0}).weights_sha256, flush=True)

sha = train("run").weights_sha256
child = multiprocessing.get_context("fork").Process(target=work)
child.start()
child.join(60)
assert child.exitcode == 0, child.exitcode
print(sha)
"""
    refused, in_child, here = run(cli, script).out.splitlines()
    assert refused.startswith("ResourceError this process was forked from one that had used Ray, ")
    assert "multiprocessing.get_context('spawn')" in refused
    assert "run.workers=0" in refused
    assert in_child == here


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_descriptors_come_back_after_training(cli):
    """All but a few sockets, which gRPC in Ray keeps: closed TCP connections to processes that have ended."""
    script = """
def descriptors():
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:
            pass
    return [name for name in found if not name.startswith("socket:")], len(found)

counts = []
for number in range(3):
    train(f"run-{number}")
    others, total = descriptors()
    counts.append((len(others), total))
assert counts[0][0] == counts[1][0] == counts[2][0], (counts, descriptors())
assert counts[2][1] - counts[1][1] <= 2, counts
"""
    run(cli, script)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_after_training_the_output_of_the_callers_tasks_is_printed_again(cli):
    script = """
import ray, shutil

printed = threading.Event()

class Watched:
    def write(self, text):
        if "a task's output" in text:
            printed.set()
        return sys.__stdout__.write(text)
    def __getattr__(self, name):
        return getattr(sys.__stdout__, name)

train("run")
folder = os.environ["TMPDIR"] + "/own"
ray.init(address="local", num_cpus=1, include_dashboard=False, _temp_dir=folder)
sys.stdout = Watched()
ray.get(ray.remote(lambda: print("a task's output")).remote())
printed.wait(60)
ray.shutdown()
shutil.rmtree(folder)
"""
    assert "a task's output" in run(cli, script).out


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_driver_holds_no_copy_of_the_rows_beside_the_shared_one(cli):
    script = """
import numpy as np

def private_bytes():
    with open("/proc/self/status") as status:
        return 1024 * int(next(line for line in status if line.startswith("RssAnon")).split()[1])

rng = np.random.default_rng(0)
np.savez("rows.npz", X=rng.random((100_000, 512), dtype=np.float32), y=np.arange(100_000) % 2)
train("small")
before, seen = private_bytes(), []
train("large", Watching(lambda record: seen.append(private_bytes())),
      **{"data.train": "rows.npz", "model.hidden": 4, "train.max_steps": 20})
print(seen[-1] - before)
"""
    assert int(run(cli, script).out) < 100e6  # of 205 million


@pytest.mark.slow
def test_too_low_a_limit_on_open_files_is_reported(cli):
    script = """
import resource
from distsgd.cluster.local_ray import DESCRIPTORS

resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
train("run")
resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS - 1, DESCRIPTORS - 1))
try:
    train("refused")
except distsgd.DistsgdError as error:
    print(type(error).__name__, error)
"""
    assert run(cli, script).out == (
        "ResourceError processes may have 255 open files here, and those of a local Ray need 256; raise that limit "
        "(ulimit -n), or train without Ray (--workers 0)\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["2>&-", "<&- 2>&-"])
def test_training_works_with_a_closed_standard_stream(cli, closed):
    """Closed from the beginning, so that `sys.stderr` is None."""
    (cli.folder / "script.py").write_text(RUN + "print(train('run').status)")
    script = f"import os, sys\nos.execv('/bin/sh', ['sh', '-c', sys.executable + ' script.py {closed}'])"
    found = cli.run_python("-c", script)
    assert (found.code, found.out) == (0, "FINISHED\n")


@pytest.mark.parametrize(
    ("raised", "expected", "words"),
    [
        (Exception("The current node timed out during startup."), ResourceError, "try again when this machine is less"),
        (RuntimeError("no room"), ResourceError, "no room; make room in memory and in /dev/shm, or train without Ray"),
        (Stopped("stopped by SIGTERM", signum=15), Stopped, "stopped by SIGTERM"),
    ],
)
def test_what_keeps_ray_from_starting_is_one_sentence(own_folder, monkeypatch, raised, expected, words):
    import ray

    def init(**_):
        raise raised

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(expected, match=words), local_ray.start(local_ray.LocalRay.for_run(Config(), {}, 0)):
        pass
