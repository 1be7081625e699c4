"""NumPy or CuPy behind one name, `xp`. No other file imports cupy."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any, Literal

import numpy as np

from distsgd.errors import ResourceError

Device = Literal["cpu", "cuda"]


def array_module(device: Device) -> ModuleType:
    """Return numpy for `cpu`, cupy for `cuda`; ResourceError if CuPy or a working GPU is missing."""
    if device == "cpu":
        return np
    problem = cuda_problem()
    if problem:
        raise ResourceError(f"run.device is 'cuda', but {problem}; use run.device=cpu, or solve that problem")
    import cupy

    module: ModuleType = cupy
    return module


@functools.cache
def cuda_problem() -> str | None:
    """Return why this process cannot compute on a GPU; None if a matrix product on one gave the right result."""
    try:
        import cupy
    except ImportError as error:
        return f"CuPy cannot be imported ({error}); install distsgd[cuda12] or distsgd[cuda13]"
    try:
        if cupy.cuda.runtime.getDeviceCount() < 1:
            return "CuPy sees no CUDA device"
        ones = cupy.ones((8, 8), cupy.float32)
        product = cupy.asnumpy(ones @ ones)
    except Exception as error:  # CuPy raises its own errors, driver errors and OSError for missing libraries
        return f"a product on the GPU failed ({type(error).__name__}: {str(error).splitlines()[0]})"
    return None if (product == 8).all() else "a product on the GPU gave a wrong result"


def to_host(array: Any) -> np.ndarray:
    """Return an array of either backend as a NumPy array; it is copied only if it is on a GPU."""
    return array if isinstance(array, np.ndarray) else array.get()


def gpu_fingerprint() -> dict[str, str]:
    """Return what determines the last bits of this process's GPU results."""
    import cupy

    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    return {"cupy": cupy.__version__, "gpu": properties["name"].decode()}
