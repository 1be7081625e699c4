"""Workers as real processes over shared memory: the serial bits, whichever are killed, and hostile clients."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from plain_training import Training, cpu_seconds, serial_parameters, some_spec, state_of, training, worker_of
from runs import eventually

from benchmarks.profile_step import ProfiledServer
from distsgd.cluster.launching import Label
from distsgd.comm import messages
from distsgd.comm.endpoint import CONNECT_ERRORS, Endpoint, GradientComputer
from distsgd.comm.messages import HEAD, HELLO, MAGIC, TASK
from distsgd.comm.unix_socket import Connection, ConnectionClosedError
from distsgd.engine.aggregation import THREADED
from distsgd.engine.spec import RunSpec
from distsgd.errors import TrainingError, WorkerLostError
from distsgd.system.faults import VARIABLE

STEPS = 30

WAIT_S = 60.0


def held() -> list[str]:
    """Return this package's open descriptors in this process, and its files in /dev/shm."""
    named = {line.split()[6] for line in Path("/proc/net/unix").read_text().splitlines() if "@distsgd-" in line}
    found = [path.name for path in Path("/dev/shm").iterdir() if "distsgd" in path.name]
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the descriptor of this listing is already closed
            target = os.readlink(path)
            if "memfd:distsgd" in target or target.removeprefix("socket:[").removesuffix("]") in named:
                found.append(target)
    return found


@pytest.fixture(autouse=True)
def _leaves_nothing() -> Iterator[None]:
    """No test leaves a segment, a connection, or a file in /dev/shm behind."""
    gc.collect()  # an earlier test may have left garbage in reference cycles
    assert eventually(lambda: not held(), 30), held()
    yield
    assert eventually(lambda: not held(), 30), held()


def test_open_descriptors_are_detected():
    with training(some_spec(), workers=0) as found, say(found.acceptor.address, None):
        seen = held()
    assert any("memfd:distsgd" in name for name in seen)
    assert any("socket:" in name for name in seen)


def check(found: Training, steps: int = STEPS) -> None:
    """Train up to a step and compare the parameters with those of the serial loop."""
    assert found.server.run(steps) == steps
    assert found.server.parameters.tobytes() == serial_parameters(found.spec, steps)


@contextlib.contextmanager
def running(found: Training) -> Iterator[None]:
    """Train in a background thread; afterwards check that it has done some steps, with the serial bits."""
    thread = threading.Thread(target=found.server.run, args=[10**9])
    thread.start()
    try:
        yield
        assert thread.is_alive()
    finally:
        found.server.stop()
        found.dispatcher.members.interrupt()
        thread.join(WAIT_S)
    assert not thread.is_alive()
    assert found.server.parameters.tobytes() == serial_parameters(found.spec, found.server.step)


def after(found: Training, step: int) -> None:
    assert eventually(lambda: found.server.step >= step, WAIT_S), f"training came to step {found.server.step}"


def lost(found: Training) -> list[str]:
    return [peer.name for peer in found.dispatcher.members.take_lost_peers()]


@pytest.mark.parametrize(
    ("workers", "spin", "values"),
    [
        (1, False, {}),
        (2, True, {"optim__momentum": 0.9, "dtype": "u1"}),
        (3, False, {"optim__clip_norm": 0.1, "train__batch_size": 33}),
        (4, True, {"train__num_shards": 3, "train__sampling": "replacement"}),
    ],
)
def test_workers_train_with_the_serial_bits(workers, spin, values):
    with training(some_spec(**values), workers=workers, spin=spin) as found:
        check(found, 10)
        check(found, STEPS)
        assert not lost(found)


def test_a_large_net_is_updated_by_several_threads_with_the_serial_bits():
    spec = some_spec(features=2048, model__hidden=520, train__batch_size=8, train__num_shards=3)
    assert spec.net.size > THREADED
    with training(spec, workers=2, threads=2) as found:
        check(found, 3)


@pytest.mark.parametrize("moment", ["asked", "computed", "answered"])
def test_a_worker_killed_during_a_step_is_the_only_loss(tmp_path, moment):
    faults = tmp_path / "faults.json"
    faults.write_text(json.dumps([{"role": "worker", "index": 1, "step": 7, "moment": moment}]))
    with training(some_spec(), workers=1) as found:
        found.start_worker({VARIABLE: str(faults)})
        found.await_workers(2)
        began = time.monotonic()
        check(found)
        assert time.monotonic() - began < found.spec.config.run.timeout_s, "nobody waited for it"
        assert (tmp_path / "0.struck").exists()
        assert lost(found) == ["worker 1"]
        assert found.dispatcher.members.size() == 1


@pytest.mark.slow
def test_workers_killed_at_any_time_are_replaced_with_the_serial_bits():
    with training(some_spec(), workers=2) as found, running(found):
        for number in range(3):
            after(found, found.server.step + 50)
            found.processes[number].kill()
            assert eventually(lambda: found.dispatcher.members.size() == 1, WAIT_S)
            found.start_worker()
            found.await_workers(2)
        after(found, found.server.step + 50)
        assert lost(found) == ["worker 0", "worker 1", "worker 2"]


def test_a_hanging_worker_is_killed_and_its_shards_are_reassigned():
    with training(some_spec(), workers=2, timeout_s=1.0) as found, running(found):
        after(found, 20)
        found.processes[0].send_signal(signal.SIGSTOP)
        found.processes[0].wait(WAIT_S)
        assert found.processes[0].returncode == -signal.SIGKILL
        after(found, found.server.step + 20)
        (peer,) = found.dispatcher.members.take_lost_peers()
        assert peer.name == "worker 0"
        assert "has not answered for 1 s" in peer.problem


def test_without_workers_a_step_waits_for_one_to_join():
    with training(some_spec(), workers=1) as found:
        check(found, 5)
        found.processes[0].kill()
        found.processes[0].wait()
        found.start_worker()
        check(found, 10)
        assert lost(found) == ["worker 0"]


def test_without_workers_a_step_fails_after_the_timeout():
    with training(some_spec(), workers=1, arrival_timeout_s=0.1) as found:
        found.processes[0].kill()
        with pytest.raises(WorkerLostError, match="no worker is left in step 1"):
            found.server.run(1)


class BrokenWorker:
    """Fails in every task."""

    def compute(self, step, flat, shards, out):
        raise ValueError(f"rows of step {step} are bad, " + "very " * 1000)

    def prefetch(self, step, shards, *, update_here):
        raise AssertionError


def test_an_error_in_a_worker_reaches_the_server_and_the_worker_continues():
    with training(some_spec(), workers=1) as found, serving(found, BrokenWorker()) as thread:
        found.await_workers(2)
        message = r"worker 7 on \S+ failed in step 1: ValueError: rows of step 0 are"
        with pytest.raises(TrainingError, match=message):
            found.server.run(1)
        assert thread.is_alive()


class Recording:
    """Computes, and records for which steps it is asked to compute and to prefetch."""

    def __init__(self, spec: RunSpec) -> None:
        self._worker = worker_of(spec)
        self.calls: list[tuple[str, int]] = []

    def compute(self, step, flat, shards, out):
        self.calls.append(("compute", step))
        return self._worker.compute(step, flat, shards, out)

    def prefetch(self, step, shards, *, update_here):
        self.calls.append(("prefetch", step))


def test_a_worker_prefetches_for_the_step_after_the_one_that_it_has_answered():
    spec = some_spec()
    worker = Recording(spec)
    with training(spec, workers=1) as found, serving(found, worker):
        found.await_workers(2)
        found.server.run(4)
        expected = [call for step in range(4) for call in (("compute", step), ("prefetch", step + 1))]
        assert eventually(lambda: worker.calls == expected, 30), worker.calls


class FailsBetweenSteps:
    """Computes, but fails to prefetch rows for a later step."""

    def __init__(self, spec: RunSpec, error: type[BaseException]) -> None:
        self._worker, self._error = worker_of(spec), error

    def compute(self, step, flat, shards, out):
        return self._worker.compute(step, flat, shards, out)

    def prefetch(self, step, shards, *, update_here):
        if step == 3:
            raise self._error("rows.parquet: no space")


@contextlib.contextmanager
def serving(found: Training, worker: GradientComputer) -> Iterator[threading.Thread]:
    """Let worker 7 serve from a thread of this process."""
    endpoint = Endpoint.connect(found.acceptor.address, 7, found.spec.net.size)

    def serve() -> None:
        with contextlib.suppress(SystemExit):  # pytest would report it as a warning
            endpoint.serve(worker)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield thread
    finally:
        endpoint.disconnect()
        thread.join(WAIT_S)
    assert not thread.is_alive()


def test_an_error_between_two_steps_reaches_the_server_at_once():
    spec = some_spec()
    worker = FailsBetweenSteps(spec, OSError)
    with training(spec, workers=1, timeout_s=WAIT_S) as found, serving(found, worker) as thread:
        found.await_workers(2)
        began = time.monotonic()
        with pytest.raises(TrainingError, match=r"worker 7 on \S+ failed in step \d: OSError: rows.parquet: no space"):
            found.server.run(10)
        assert time.monotonic() - began < WAIT_S / 3
        assert thread.is_alive()


def test_a_worker_that_ends_between_two_steps_is_lost_at_once():
    """Its thread ends, for whatever reason: the server does not wait for run.timeout_s."""
    spec = some_spec()
    worker = FailsBetweenSteps(spec, SystemExit)
    with training(spec, workers=1, timeout_s=WAIT_S) as found, serving(found, worker) as thread:
        found.await_workers(2)
        began = time.monotonic()
        check(found, 10)
        assert time.monotonic() - began < WAIT_S / 3
        assert lost(found) == ["worker 7"]
        assert eventually(lambda: not thread.is_alive())


def greeting(parameters: int, number: int = 9) -> bytes:
    return HELLO.pack(MAGIC, number, parameters)


GREETINGS: dict[str, Callable[[int], bytes | None]] = {
    "closes the connection": lambda P: b"",
    "sends nothing": lambda P: None,
    "one byte": lambda P: b"x",
    "zeros": lambda P: bytes(HELLO.size),
    "json": lambda P: json.dumps({"worker": 1, "parameters": P}).encode(),
    "http": lambda P: b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "too long": lambda P: greeting(P) + b"x",
    "much too long": lambda P: bytes(100_000),
    "other net": lambda P: greeting(P + 1),
    "no net": lambda P: greeting(-1),
    "other program": lambda P: greeting(P).replace(MAGIC, b"distsgd0"),
    "greets and closes the connection": lambda P: greeting(P),
}


def say(address: str, message: bytes | None) -> socket.socket:
    """Connect like another program of this user, and send `said` unless it is empty."""
    caller = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    caller.connect("\0" + address)
    if message:
        caller.send(message)
    return caller


def test_invalid_clients_affect_neither_training_nor_later_workers(monkeypatch):
    monkeypatch.setattr(messages, "HANDSHAKE_S", 10 * WAIT_S)  # a silent client may be waited for that long
    with training(some_spec(), workers=1) as found, running(found), contextlib.ExitStack() as stack:
        for name, message in GREETINGS.items():
            caller = say(found.acceptor.address, message(found.spec.net.size))
            if name == "sends nothing":
                stack.enter_context(caller)
            else:
                caller.close()
        after(found, found.server.step + 20)
        found.start_worker()
        found.await_workers(2)
        after(found, found.server.step + 20)
        assert found.processes[0].poll() is None


@pytest.mark.parametrize(
    "said",
    [n for n in GREETINGS if n not in ("closes the connection", "sends nothing", "greets and closes the connection")],
)
def test_the_connection_of_a_client_with_an_invalid_greeting_is_closed(said):
    with training(some_spec(), workers=0) as found:
        with say(found.acceptor.address, GREETINGS[said](found.spec.net.size)) as caller:
            caller.settimeout(WAIT_S)
            with contextlib.suppress(ConnectionResetError):
                assert caller.recv(100) == b""
        assert found.dispatcher.members.size() == 0


def test_a_connection_without_a_free_thread_is_closed_and_later_ones_are_accepted(monkeypatch):
    """As when hundreds of silent connections have a thread each."""
    start, refused = threading.Thread.start, []

    def start_but_one(thread: threading.Thread) -> None:
        if thread.name == "handshake" and not refused:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_but_one)
    spec = some_spec()
    with training(spec, workers=0) as found:
        with pytest.raises(CONNECT_ERRORS):
            Endpoint.connect(found.acceptor.address, 0, spec.net.size)
        assert refused
        found.start_worker()
        found.await_workers(1)
        check(found, 3)
        refused.clear()


def test_a_worker_of_another_net_is_not_accepted():
    with training(some_spec(), workers=0) as found, pytest.raises(ConnectionClosedError):
        Endpoint.connect(found.acceptor.address, 0, found.spec.net.size + 1)


def test_a_worker_refuses_the_memory_of_another_net(tmp_path):
    """The server's segments have another size than the worker's net needs."""
    small, large = some_spec(), some_spec(model__hidden=50)

    class OtherNet(Connection):
        def send(self, message, descriptors=()):
            super().send(HELLO.pack(MAGIC, 0, small.net.size) if message.startswith(MAGIC) else message, descriptors)

    with training(small, workers=0, arrival_timeout_s=1.0) as found, pytest.MonkeyPatch.context() as patch:
        patch.setattr("distsgd.comm.endpoint.Connection", OtherNet)
        with pytest.raises(ValueError, match="a shared memory segment has"):
            Endpoint.connect(found.acceptor.address, 0, large.net.size)
        assert issubclass(ValueError, CONNECT_ERRORS)
        with pytest.raises(WorkerLostError):  # the server's peer joins, and its connection is closed
            found.dispatcher.exchange(0, 0, range(5))
        assert lost(found) == ["worker 0"]


def test_connecting_without_a_listener_fails():
    with pytest.raises(CONNECT_ERRORS):
        Endpoint.connect("distsgd-nobody-is-here", 0, 10)


NONSENSE: dict[str, Callable[[int, int, int], bytes]] = {
    "a byte": lambda step, lo, hi: b"D",
    "a byte of an error": lambda step, lo, hi: b"F",
    "no sums": lambda step, lo, hi: HEAD.pack(b"D", step, lo, hi),
    "too many sums": lambda step, lo, hi: HEAD.pack(b"D", step, lo, hi) + bytes(24 * 50),
    "other shards": lambda step, lo, hi: HEAD.pack(b"D", step, lo + 1, hi + 1) + struct.pack("<dqd", 1.0, 1, 1.0),
    "an unknown kind": lambda step, lo, hi: HEAD.pack(b"X", step, lo, hi) + struct.pack("<dqd", 1.0, 1, 1.0),
    "another step": lambda step, lo, hi: HEAD.pack(b"D", step + 1, lo, hi) + struct.pack("<dqd", 1.0, 1, 1.0),
}


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_a_worker_that_answers_with_garbage_is_lost_and_its_shards_are_reassigned(nonsense):
    spec = some_spec(train__num_shards=2)
    with training(spec, workers=1) as found, say(found.acceptor.address, greeting(spec.net.size)) as caller:
        message, descriptors, _, _ = socket.recv_fds(caller, 8192, 2)
        for descriptor in descriptors:
            os.close(descriptor)
        assert json.loads(message)["num_shards"] == 2
        found.await_workers(2)

        def answer() -> None:
            step, lo, hi, *_ = TASK.unpack(caller.recv(8192))
            caller.send(NONSENSE[nonsense](step, lo, hi))

        thread = threading.Thread(target=answer)
        thread.start()
        check(found, 5)
        thread.join(WAIT_S)
        assert lost(found) == ["worker 9"]


def test_workers_end_when_the_server_is_killed(tmp_path):
    script = (
        "import sys, threading\n"
        "from plain_training import some_spec, training\n"
        "with training(some_spec(), workers=2) as found:\n"
        "    threading.Thread(target=found.server.run, args=[10**9], daemon=True).start()\n"
        "    print(*(process.pid for process in found.processes), flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": f"{Path(__file__).parents[1]}:{Path(__file__).parents[2]}"},
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            workers = [int(pid) for pid in server.stdout.readline().split()]
            assert len(workers) == 2
            time.sleep(0.2)
        finally:
            server.kill()
    gone = eventually(lambda: not any(_is_alive(pid) for pid in workers), WAIT_S)
    for pid in workers if not gone else []:
        os.kill(pid, signal.SIGKILL)
    assert gone


def _is_alive(pid: int) -> bool:
    try:
        return state_of(pid) not in "XZ"
    except OSError:
        return False


MEASURED_S = 2.0

IDLE = 0.05
"""Maximum CPU usage of a waiting process, as a fraction of a core."""


@pytest.mark.parametrize("spin", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_waiting_workers_use_no_cpu(spin):
    with training(some_spec(), workers=2, spin=spin) as found:
        check(found, 5)
        before = [cpu_seconds(process.pid) for process in found.processes]
        time.sleep(MEASURED_S)
        used = [cpu_seconds(process.pid) - b for process, b in zip(found.processes, before, strict=True)]
        assert max(used) <= IDLE * MEASURED_S
        check(found, 10)


@pytest.mark.parametrize("spin", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_server_that_waits_for_a_worker_uses_no_cpu(spin):
    with training(some_spec(), workers=1, spin=spin) as found, running(found):
        after(found, 5)
        (worker,) = found.processes
        worker.send_signal(signal.SIGSTOP)
        assert eventually(lambda: state_of(worker.pid) == "T", WAIT_S)
        time.sleep(0.1)
        before = cpu_seconds(os.getpid())
        time.sleep(MEASURED_S)
        used = cpu_seconds(os.getpid()) - before
        worker.send_signal(signal.SIGCONT)
        assert used <= IDLE * MEASURED_S


def test_a_server_without_workers_uses_no_cpu():
    with training(some_spec(), workers=0) as found, running(found):
        time.sleep(0.1)
        before = cpu_seconds(os.getpid())
        time.sleep(MEASURED_S / 2)
        used = cpu_seconds(os.getpid()) - before
        found.start_worker()
        after(found, 1)
        assert used <= IDLE * MEASURED_S / 2


def test_a_worker_may_serve_from_a_thread_of_the_servers_own_process():
    spec: RunSpec = some_spec()
    with training(spec, workers=0) as found:
        endpoint = Endpoint.connect(found.acceptor.address, 0, spec.net.size)
        thread = threading.Thread(target=endpoint.serve, args=[worker_of(spec)])
        thread.start()
        found.await_workers(1)
        with np.errstate(all="ignore"):
            check(found, 3)
    thread.join(WAIT_S)
    assert not thread.is_alive()


def cores_of(process: subprocess.Popen[bytes]) -> set[int]:
    return os.sched_getaffinity(process.pid)  # of the main thread, which computes


def test_workers_and_their_replacements_are_pinned_to_separate_cores():
    every = os.sched_getaffinity(0)
    with training(some_spec(), workers=3, cores=2) as found:
        check(found, 10)
        before = [cores_of(process) for process in found.processes]
        assert sorted(map(len, before)) == sorted([1, 1, len(every)])
        if len(every) > 1:
            assert set.union(*(own for own in before if len(own) == 1)) == set(sorted(every)[:2])
        (one, *_) = (process for process in found.processes if len(cores_of(process)) == 1)
        with running(found):
            after(found, 20)
            one.kill()
            assert eventually(lambda: lost(found))
            replacement = found.start_worker()
            assert eventually(lambda: found.dispatcher.members.size() == 3)
            assert eventually(lambda: cores_of(replacement) == before[found.processes.index(one)])


@pytest.mark.parametrize(("more", "blas_threads", "kept"), [(0, 1, True), (1, 1, False), (0, 2, False)])
def test_workers_are_pinned_only_if_there_is_a_core_for_each(more, blas_threads, kept):
    spec = some_spec(run__blas_threads=blas_threads)
    every = os.sched_getaffinity(0)
    server = ProfiledServer(
        label=Label("run", "the parameter server"),
        config=spec.config,
        net=spec.net,
        plan=spec.plan,
        start=spec.start,
        workers=len(every) + more,
    )
    worker, seen = worker_of(spec), []
    compute = worker.compute
    worker.compute = lambda *arguments: (seen.append(os.sched_getaffinity(0)), compute(*arguments))[1]
    thread = threading.Thread(target=lambda: Endpoint.connect(server.address, 0, spec.net.size).serve(worker))
    thread.start()
    try:
        assert server.run(3) == 3
    finally:
        server.close()
        thread.join(WAIT_S)
        del worker.compute  # it references the worker
    assert seen == 3 * [{min(every)} if kept else every]
    assert os.sched_getaffinity(0) == every
