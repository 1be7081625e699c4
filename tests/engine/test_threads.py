"""Threads give the bits of the serial loop; runs side by side in one process share its number of BLAS threads."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
import threadpoolctl
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_training import serial_parameters, some_spec

from distsgd.core import numerics
from distsgd.core.net import Net
from distsgd.engine.threads import ThreadedTraining, cores, default_threads
from distsgd.errors import NonFiniteError, ResourceError


def trained(spec, threads: int, steps: int) -> bytes:
    training = ThreadedTraining(spec, threads)
    with numerics.pinned_blas(1, None):
        assert training.run(steps, lambda: None) == steps
    training.close()
    return training.snapshot().parameters.tobytes()


@settings(max_examples=15, deadline=None)
@given(
    shards=st.integers(1, 7),
    threads=st.integers(1, 4),
    rows=st.integers(33, 90),
    momentum=st.sampled_from([0.0, 0.9]),
    clip=st.sampled_from([None, 0.1]),
    dtype=st.sampled_from(["f4", "u1"]),
)
def test_any_number_of_threads_gives_the_bits_of_the_serial_loop(shards, threads, rows, momentum, clip, dtype):
    values = {"train__num_shards": shards, "optim__momentum": momentum, "optim__clip_norm": clip}
    spec = some_spec(rows=rows, dtype=dtype, **values)
    assert trained(spec, min(threads, shards), 9) == serial_parameters(spec, 9)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_net_of_several_blocks_on_threads_has_the_bits_of_the_serial_loop(threads):
    spec = some_spec(features=700, rows=64, model__hidden=1600, train__num_shards=2, optim__momentum=0.9)
    assert trained(spec, threads, 2) == serial_parameters(spec, 2)


def test_an_error_in_a_thread_ends_training_with_the_parameters_before_the_step():
    spec = some_spec(optim__lr=1e30, train__num_shards=4)
    training = ThreadedTraining(spec, 2)
    with numerics.pinned_blas(1, None), pytest.raises(NonFiniteError, match="step"):
        training.run(50, lambda: None)
    training.close()
    assert np.isfinite(training.snapshot().parameters).all()


def test_training_goes_on_from_another_state():
    spec = some_spec(optim__momentum=0.9)
    training = ThreadedTraining(spec, 2)
    with numerics.pinned_blas(1, None):
        training.run(3, lambda: None)
        early = training.snapshot()
        training.run(8, lambda: None)
        last = training.snapshot().parameters.tobytes()
        training.recover(early)
        training.run(8, lambda: None)
    training.close()
    assert training.snapshot().parameters.tobytes() == last


def test_short_steps_get_one_thread_and_long_ones_the_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    assert default_threads(Net(4, 10, 3), 150, 8) == 1
    assert default_threads(Net(784, 256, 10), 256, 4) == 4
    assert default_threads(Net(784, 256, 10), 256, 64) == 8
    for value, expected in {"3": 3, "16": 8, "0": 8, "many": 8}.items():
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        assert cores() == expected


def blas_threads() -> set[int]:
    return {found["num_threads"] for found in threadpoolctl.threadpool_info() if found["user_api"] == "blas"}


def test_the_last_of_several_runs_restores_the_number_of_blas_threads():
    with threadpoolctl.threadpool_limits(2, "blas"):
        inside, outside = threading.Event(), threading.Event()

        def other() -> None:
            with numerics.pinned_blas(1, None):
                inside.set()
                outside.wait(60)

        thread = threading.Thread(target=other)
        with numerics.pinned_blas(1, None):
            thread.start()
            assert inside.wait(60)
        assert blas_threads() == {1}
        with pytest.raises(ResourceError, match="another run in this process"), numerics.pinned_blas(2, None):
            pass
        outside.set()
        thread.join()
        assert blas_threads() == {2}
