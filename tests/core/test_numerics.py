"""What determines the last bits: pinned threads, checked kernels, and the fingerprint."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import threadpoolctl

from distsgd.core import backend
from distsgd.core.backend import array_module, cuda_problem, to_host
from distsgd.core.numerics import THREAD_VARIABLES, environment, fingerprint, pinned_blas
from distsgd.errors import ResourceError


def blas_threads() -> set[int]:
    return {b["num_threads"] for b in threadpoolctl.threadpool_info() if b["user_api"] == "blas"}


def in_a_new_process(code: str, variables: dict[str, str]) -> str:
    """Return what a script prints whose BLAS is loaded with these environment variables."""
    rest = {k: v for k, v in os.environ.items() if k not in (*THREAD_VARIABLES, "OPENBLAS_CORETYPE")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=rest | variables, capture_output=True, text=True, timeout=50, check=True
    )
    return done.stdout


def test_the_environment_names_every_variable_that_a_blas_reads():
    assert environment(2, None) == dict.fromkeys(THREAD_VARIABLES, "2")
    assert environment(1, "Haswell") == environment(1, None) | {"OPENBLAS_CORETYPE": "Haswell"}


@pytest.mark.parametrize("threads", [1, 2])
def test_the_environment_holds_the_blas_of_a_new_process(threads):
    code = "import numpy; from distsgd.core.numerics import fingerprint; print(fingerprint('cpu')['blas_threads'])"
    assert in_a_new_process(code, environment(threads, None)).strip() == str(min(threads, os.cpu_count() or 1))


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the kernel's name is one of x86-64")
def test_the_environment_chooses_the_kernel_and_pinning_checks_it():
    code = """
from distsgd.errors import ResourceError
from distsgd.core.numerics import fingerprint, pinned_blas
print(fingerprint("cpu")["blas"])
with pinned_blas(1, "nehalem"):
    print("held")
try:
    with pinned_blas(1, "SkylakeX"):
        print("taken")
except ResourceError as error:
    print(error)
"""
    blas, held, refusal = in_a_new_process(code, environment(1, "Nehalem")).splitlines()
    assert "Nehalem" in blas
    assert held == "held"
    assert "run.blas_kernel is 'SkylakeX', but OpenBLAS runs its Nehalem kernel" in refusal
    assert "OPENBLAS_CORETYPE=SkylakeX" in refusal


def test_threads_are_pinned_inside_the_context_and_restored():
    with threadpoolctl.threadpool_limits(limits=2, user_api="blas"):
        before = blas_threads()
        with pinned_blas(1, None):
            assert blas_threads() == {1}
        assert blas_threads() == before
        with pytest.raises(KeyError), pinned_blas(1, None):
            raise KeyError
        assert blas_threads() == before


def test_an_impossible_number_of_threads_is_refused():
    pinned = pinned_blas(100_000, None)
    with pytest.raises(ResourceError, match=r"runs \d+ threads in place of 100000; set .*OMP_NUM_THREADS") as caught:
        pinned.__enter__()
    assert caught.value.exit_code == 2


def test_a_fingerprint_is_json_that_names_versions_threads_and_device():
    with pinned_blas(1, None):
        found = fingerprint("cpu")
    assert json.loads(json.dumps(found)) == found
    assert found["numpy"] == np.__version__
    assert found["blas_threads"] == "1"
    assert found["device"] == "cpu"
    assert set(found) == {"machine", "numpy", "blas", "blas_threads", "device"}
    assert found["blas"]


@pytest.mark.gpu
def test_a_fingerprint_of_a_gpu_names_it():
    if cuda_problem():
        pytest.skip(cuda_problem())
    assert {"cupy", "gpu"} <= set(fingerprint("cuda"))


def test_arrays_of_either_backend_are_copied_to_the_host(xp):
    array = xp.arange(5, dtype=xp.float32)
    assert isinstance(to_host(array), np.ndarray)
    assert to_host(array).tolist() == [0, 1, 2, 3, 4]
    if xp is np:
        assert to_host(array) is array


def test_cuda_without_a_gpu_is_refused_with_the_reason(monkeypatch):
    monkeypatch.setattr(backend, "cuda_problem", lambda: "CuPy sees no CUDA device")
    with pytest.raises(
        ResourceError, match=r"run\.device is 'cuda', but CuPy sees no CUDA device; use run\.device=cpu"
    ):
        array_module("cuda")
    assert array_module("cpu") is np
