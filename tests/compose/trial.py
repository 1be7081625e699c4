"""What is tried: of docker-compose.yml in the short or the full form, and with TLS and a login."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request

from tests.compose.podman import check, inspected, podman, run, until
from tests.compose.stack import Stack, say
from tests.compose.training import (
    Mlflow,
    check_run,
    login,
    serial_bits,
    submitted,
    write_wrong_token,
    wrong_token_is_refused_inside,
)

TOKEN = "secrets/ray_token"
SHORT, LONG = 400, 1500
"""Epochs on the digits: long enough to kill something in the middle."""

BACK_S = 300.0
"""Seconds until nodes that were started again are in the cluster."""

ALIVE = "import ray; ray.init('head:6379', log_to_driver=False); print('alive', sum(n['Alive'] for n in ray.nodes()))"


def plain(stack: Stack, *, short: bool) -> None:
    """Try docker-compose.yml."""
    published(stack)
    tokens(stack)
    check(Mlflow(stack).status("/", {"Host": "example.org"}) == 403, "MLflow answers to any name")
    bits = serial_bits(stack, SHORT)
    say(f"the serial loop: weights_sha256 {bits[:16]}...")
    killed_worker(stack, "/runs/killed", SHORT, bits)
    if not short:
        wrong_token_is_refused_inside(stack)
        say("inside the network a wrong token is refused, too")
        restarted_head(stack, "/runs/restarted", LONG, serial_bits(stack, LONG))
    published(stack)


def secure(stack: Stack) -> None:
    """Try docker-compose.yml with docker-compose.secure.yml on top."""
    published(stack)
    tokens(stack)
    encrypted(stack)
    killed_worker(stack, "/runs/secure", SHORT, serial_bits(stack, SHORT), "--set", "run.link=tcp")


def published(stack: Stack) -> None:
    """Check that podman listens for nobody but where the files say so, and to answer names within its networks."""
    wanted = set[tuple[str, str, int]]()
    for service in stack.config["services"].values():
        for port in service.get("ports", []):
            address, outside, _ = port.split(":")
            wanted.add(("tcp", address, int(outside)))
    gateways = set[str]()
    for name in stack.everything():
        about = inspected(name)
        gateways |= {network["Gateway"] for network in about["NetworkSettings"]["Networks"].values()}
        for bindings in (about["HostConfig"]["PortBindings"] or {}).values():
            for binding in bindings:
                check(("tcp", binding["HostIp"], int(binding["HostPort"])) in wanted, f"{name} publishes {binding}")
    own = {
        (protocol, address, port)
        for protocol, address, port in stack.sockets()
        if (address, port) not in {(gateway, 53) for gateway in gateways}
    }
    check(own == wanted, f"podman listens on {own}; the files publish {wanted}")
    say(f"published: {', '.join(f'{address}:{port}' for _, address, port in sorted(wanted))}, and nothing else")


def tokens(stack: Stack) -> None:
    """Check that a job without the token, or with a wrong one, is refused on the submitter's screen."""
    wrong = write_wrong_token(stack.folder)
    for token, words in ((None, "requires its token"), (wrong, "refuses this token")):
        with submitted(stack, "/runs/refused", SHORT, token=token) as refused:
            check(refused.ended() == 2, f"exit code of {'no' if token is None else 'a wrong'} token: {refused.tail()}")
        check(words in refused.text, f"{words!r} is not said: {refused.tail()}")
    say("a missing and a wrong token are refused")


def killed_worker(stack: Stack, run_dir: str, epochs: int, bits: str, *options: str) -> None:
    """Train on three nodes, kill a worker's container in the middle, and compare the bits."""
    victim = stack.containers("worker")[1]
    before = inspected(victim)["State"]["Pid"]
    with submitted(stack, run_dir, epochs, "--workers", "3", *options, token=TOKEN) as job:
        job.until_epoch(5)
        check("by 3 workers on 3 nodes" in job.text, f"the run is not on three nodes: {job.tail()}")
        stack.crash(victim)
        say(f"{victim} killed in epoch {job.epoch()} of {epochs}")
        code = job.ended()
    check(code == 0, f"`distsgd submit` ended with {code}: {job.tail()}")
    check("warning: worker" in job.text, f"nothing is said of the lost worker: {job.tail()}")
    check_run(stack, run_dir, bits, job.text)
    say("the run has finished, with the bits of the serial loop, and is complete in MLflow and PostgreSQL")
    until(lambda: inspected(victim)["State"]["Pid"] not in (0, before), BACK_S, f"{victim} is started again")
    all_alive(stack)


def restarted_head(stack: Stack, run_dir: str, epochs: int, bits: str) -> None:
    """Restart the head in the middle of a run, submit it again, and compare the bits."""
    with submitted(stack, run_dir, epochs, "--workers", "3", token=TOKEN) as job:
        job.until_epoch(20)
        say(f"head restarted in epoch {job.epoch()} of {epochs}")
        podman("restart", stack.only("head"))
        code = job.ended()
    check(code == 1, f"`distsgd submit` ended with {code} after the head was restarted: {job.tail()}")
    check("the head of the cluster" in job.text, f"it is not said that the head was restarted: {job.tail()}")
    until(lambda: stack.is_healthy(stack.only("head")), BACK_S, "the head is healthy again")
    all_alive(stack)
    with submitted(stack, run_dir, epochs, "--workers", "3", token=TOKEN) as again:
        code = again.ended()
    check(code == 0, f"submitted again, it ended with {code}: {again.tail()}")
    check("resuming" in again.text, f"the run is not resumed: {again.tail()}")
    check_run(stack, run_dir, bits, again.text)
    say("submitted again, the run was resumed, with the bits of the serial loop")


def all_alive(stack: Stack) -> None:
    """Wait until Ray has all nodes."""

    def alive() -> bool:
        return "alive 3" in run(["podman", "exec", stack.only("head"), "python", "-c", ALIVE]).stdout

    until(alive, BACK_S, "all three nodes are in the cluster again")
    say("all three nodes are in the cluster")


def encrypted(stack: Stack) -> None:
    """Check that MLflow needs TLS and a login, and Ray a certificate."""
    mlflow = Mlflow(stack)
    path = "/api/2.0/mlflow/experiments/search?max_results=1"
    check(mlflow.status(path) == 200, "MLflow does not take the admin's password")
    check(mlflow.status(path, {}) == 401, "MLflow answers without a login")
    check(mlflow.status(path, login("admin", "password1234")) == 401, "MLflow takes a wrong password")
    for address, why in (("http://127.0.0.1:5000/health", OSError), ("https://localhost:5000/health", ssl.SSLError)):
        try:
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, timeout=20).close()
        except urllib.error.URLError as error:
            check(isinstance(error.reason, why), f"{address}: {error.reason}")
        except OSError:
            pass  # the connection is closed without an answer
        else:
            check(False, f"{address} opens without MLflow's certificate")
    name = stack.containers("worker")[0]
    joins = [name, "timeout", "40", "python", "-c", ALIVE]
    check("alive 3" in run(["podman", "exec", *joins]).stdout, "a process with a certificate does not join Ray")
    bare = run(["podman", "exec", "--env", "RAY_USE_TLS=0", *joins])  # which tries for minutes
    check(bare.returncode != 0 and "alive" not in bare.stdout, "a process without TLS joins Ray")
    say("MLflow needs TLS and a login, Ray a certificate")
