"""The environment that determines the last bits of a result: versions, BLAS build and kernel, threads, device."""

from __future__ import annotations

import contextlib
import platform
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import threadpoolctl

from distsgd.core.backend import Device, gpu_fingerprint
from distsgd.errors import ResourceError

THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables that set the number of threads of BLAS libraries when they are loaded."""


def environment(blas_threads: int, blas_kernel: str | None) -> dict[str, str]:
    """Return the environment variables that fix a worker's number of BLAS threads and its OpenBLAS kernel."""
    variables = dict.fromkeys(THREAD_VARIABLES, str(blas_threads))
    return variables | ({"OPENBLAS_CORETYPE": blas_kernel} if blas_kernel else {})


class _Pin:
    """The process's number of BLAS threads, which its runs share: fixed by the first, restored after the last."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = self.threads = 0
        self.restore = contextlib.ExitStack()


_pin = _Pin()


@contextlib.contextmanager
def pinned_blas(threads: int, kernel: str | None) -> Iterator[None]:
    """Fix this process's BLAS at `threads` threads; ResourceError if that fails, or if it runs another kernel.

    Runs in several threads of a process may do so at the same time, with the same number.
    """
    with _pin.lock:
        if _pin.users and _pin.threads != threads:
            raise ResourceError(
                f"another run in this process has fixed BLAS at {_pin.threads} threads, and this one wants {threads}, "
                "but the number is that of the whole process: give both the same run.blas_threads, or run this one in "
                "another process or later"
            )
        if not _pin.users:
            _take_control()
            _pin.restore.enter_context(threadpoolctl.get_cached_controller().limit(limits=threads, user_api="blas"))
            _pin.threads = threads
        _pin.users += 1
    try:
        _check_blas(threads, kernel)
        yield
    finally:
        with _pin.lock:
            _pin.users -= 1
            if not _pin.users:
                _take_control()
                _pin.restore.close()


def _take_control() -> None:
    """Let this thread set OpenBLAS's number of threads: threadpoolctl 3.8 ignores all but the first that did so."""
    controller = getattr(threadpoolctl, "OpenBLASController", None)
    if controller is not None and hasattr(controller, "clear_controlling_thread"):
        controller.clear_controlling_thread(force=True)


def _check_blas(threads: int, kernel: str | None) -> None:
    for library in _blas_libraries():
        if library["num_threads"] != threads:
            raise ResourceError(
                f"the BLAS library {library['internal_api']} runs {library['num_threads']} threads in place of "
                f"{threads}; set {', '.join(THREAD_VARIABLES)} to {threads} before Python starts"
            )
        found = str(library.get("architecture"))
        if kernel and found.lower() != kernel.lower():
            raise ResourceError(
                f"run.blas_kernel is {kernel!r}, but OpenBLAS runs its {found} kernel in this process; set "
                f"OPENBLAS_CORETYPE={kernel} before Python starts, or choose a kernel that this processor can run"
            )


def fingerprint(device: Device) -> dict[str, str]:
    """Return what has to be equal for equal bits, for this process."""
    libraries = _blas_libraries()
    found = {
        "machine": platform.machine(),
        "numpy": np.__version__,
        "blas": ", ".join(f"{b['internal_api']} {b['version']} {b.get('architecture', '')}".strip() for b in libraries),
        "blas_threads": ", ".join(str(b["num_threads"]) for b in libraries),
        "device": device,
    }
    return found | (gpu_fingerprint() if device == "cuda" else {})


def differing_numerics(recorded: Mapping[str, str], here: Mapping[str, str]) -> str | None:
    """Return in what two fingerprints differ; None if in nothing."""
    keys = [key for key in {**recorded, **here} if recorded.get(key) != here.get(key)]
    return ", ".join(f"{key} {recorded.get(key)!r} and here {here.get(key)!r}" for key in keys) or None


def _blas_libraries() -> list[dict[str, Any]]:
    """Return the BLAS libraries that NumPy has loaded, without SciPy's own copy, which nothing here calls.

    The controller is cached until a module is imported: looking for libraries takes longer than training on a few rows.
    """
    libraries = [b for b in threadpoolctl.get_cached_controller().info() if b["user_api"] == "blas"]
    return [b for b in libraries if "numpy" in str(b["filepath"]).lower()] or libraries
