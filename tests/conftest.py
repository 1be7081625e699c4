"""What all tests share: both array backends, and an environment in which nothing is left behind."""

from __future__ import annotations

import numpy as np
import pytest

from distsgd.backend import array_module, cuda_problem


@pytest.fixture(params=["numpy", pytest.param("cupy", marks=pytest.mark.gpu)])
def xp(request):
    """The array module, NumPy's or CuPy's; skips with the reason where there is no working GPU."""
    if request.param == "numpy":
        return np
    problem = cuda_problem()
    if problem is not None:
        pytest.skip(problem)
    return array_module("cuda")
