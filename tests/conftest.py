"""What all tests share: both array backends, and an environment in which nothing is left behind."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import fake_cupy
import numpy as np
import pytest
from hypothesis import settings
from repeats import is_repeat
from runs import RAY_ENVIRONMENT, SmallCluster, small_cluster

from distsgd.core.backend import array_module, cuda_problem

# The machine may be busy with something else, and all tests together are to take less than five minutes.
settings.register_profile("distsgd", deadline=None, max_examples=30)
settings.load_profile("distsgd")
# A shell that starts tests in the background, or with nohup, has these signals ignored, and runs would inherit that.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.update(RAY_ENVIRONMENT)  # before anything imports ray, which reads it once


COLLECTED = pytest.StashKey[list[str]]()
"""The names of all tests that were found, including those that are left out."""


@pytest.hookimpl(tryfirst=True)  # before -m leaves tests out
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out, where CI is set, slow tests that repeat what others show."""
    config.stash[COLLECTED] = [item.nodeid for item in items]
    if os.environ.get("CI"):
        repeats = [item for item in items if is_repeat(item.nodeid)]
        config.hook.pytest_deselected(items=repeats)
        items[:] = [item for item in items if not is_repeat(item.nodeid)]


def pytest_collection_finish() -> None:
    """Leave what the imports have made, 700,000 objects, out of each later search for garbage: a third of a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def stand_in(monkeypatch):
    """The stand-in for CuPy, which `device="cuda"` then means."""
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy)
    cuda_problem.cache_clear()
    yield fake_cupy
    cuda_problem.cache_clear()


@pytest.fixture(params=["numpy", "stand-in", pytest.param("cupy", marks=pytest.mark.gpu)])
def xp(request):
    """The array module: NumPy, the stand-in for CuPy, or CuPy; skips with the reason where there is no working GPU."""
    if request.param == "numpy":
        return np
    if request.param == "stand-in":
        return request.getfixturevalue("stand_in")
    problem = cuda_problem()
    if problem is not None:
        pytest.skip(problem)
    return array_module("cuda")


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """Work in a folder of the test's own, temporary files included, without the user's MLflow."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    return tmp_path


@pytest.fixture(scope="session")
def store_template(tmp_path_factory) -> Path:
    """An empty MLflow database; making its tables takes more than a second, copying them nothing."""
    from distsgd.tracking.quiet import quiet_mlflow

    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch, quiet_mlflow():
        from distsgd.tracking.store import Store

        patch.setattr(tempfile, "tempdir", str(folder))
        Store(f"sqlite:///{folder / 'mlflow.db'}").ping()
    return folder / "mlflow.db"


@pytest.fixture
def empty_store(own_folder, store_template) -> str:
    """The URI of an empty MLflow database `mlflow.db` in the current folder, which is the test's own."""
    shutil.copy(store_template, own_folder / "mlflow.db")
    return f"sqlite:///{own_folder / 'mlflow.db'}"


@pytest.fixture(scope="session")
def cluster() -> Iterator[SmallCluster]:
    """A Ray cluster of one node with four CPUs, for tests that are not about starting one."""
    with small_cluster(cpus=4) as found:
        yield found


@pytest.fixture(scope="module")
def joined(cluster) -> Iterator[None]:
    """This process is connected to the cluster, so that runs in it use that."""
    import ray

    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        yield
    finally:
        ray.shutdown()
