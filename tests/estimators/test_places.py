"""Estimators wherever a program may be: in tasks, actors and jobs of Ray, in threads, several times in a process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

SHA = """
import threading
from sklearn.datasets import load_iris
from distsgd.sklearn import DistSGDClassifier

def sha(workers):
    values = {"max_iter": 3, "random_state": 0, "num_shards": 2}
    return DistSGDClassifier(workers=workers, **values).fit(*load_iris(return_X_y=True)).weights_sha256_

def in_threads(*workers):
    found = []
    threads = [threading.Thread(target=lambda n=n: found.append(sha(n))) for n in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found
"""

ON_RAY = """
import ray

class Actor:
    def shas(self):
        return [sha(0), sha(1), sha(1)]

ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
task, actor = ray.remote(num_cpus=1)(sha), ray.remote(num_cpus=1)(Actor).remote()
expected = sha(0)
assert ray.get([task.remote(0)]) == ray.get([task.remote(1)]) == [expected]
assert ray.get(actor.shas.remote()) == [expected] * 3
ray.kill(actor)
assert in_threads(1, 1, 0) == [expected] * 3
assert ray.is_initialized()  # it is the caller's
ray.shutdown()
"""

IN_THREADS = """
import ray, distsgd

expected = sha(0)
with distsgd.session():
    assert in_threads(2, 2, 0) == [expected] * 3  # one of them starts Ray, and the other has to wait for its CPUs
    assert sha(2) == expected
assert not ray.is_initialized()
"""


@pytest.mark.parametrize("what", [ON_RAY, IN_THREADS], ids=["tasks and actors", "threads"])
def test_the_bits_are_the_same(what):
    environment = os.environ | {"RAY_AUTH_MODE": "disabled"}
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SHA + what],
        env=environment,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
