"""A net that cannot fit into memory is refused before anything of its size is allocated."""

from __future__ import annotations

import numpy as np
import pytest
from runs import Cli

from distsgd.config import Config
from distsgd.core.net import Net
from distsgd.core.portable.workspace import PortableWorkspace, workspace_bytes
from distsgd.errors import ResourceError
from distsgd.run import memory_check
from distsgd.run.memory_check import check_net_fits


def test_what_needs_more_than_there_is_is_refused(monkeypatch):
    plain = Config.build({"model.hidden": 100, "train.batch_size": 50, "train.num_shards": 2})
    parameters, activations = 50 * 100 + 100 + 100 * 10 + 10, 4 * 3 * (25 + 40) * 100

    def check(config):
        check_net_fits(config, 50, 10, rows=1000, held_out=40)

    monkeypatch.setattr(memory_check, "memory_limit", lambda: 28 * parameters + activations)
    check(plain)
    with pytest.raises(ResourceError, match="6,110 parameters"):
        check(Config.build({"model.hidden": 100, "optim.momentum": 0.9}))
    monkeypatch.setattr(memory_check, "memory_limit", lambda: 28 * parameters + activations - 1)
    with pytest.raises(ResourceError, match=r"50-100-10 has 6,110 parameters.*lower model.hidden"):
        check(plain)


@pytest.mark.parametrize("held_out", [0, 40])
def test_the_float64_buffers_of_portable_arithmetic_are_counted(monkeypatch, held_out):
    values = {"model.hidden": 100, "train.batch_size": 50, "train.arithmetic": "portable"}
    parameters, examples = 50 * 100 + 100 + 100 * 10 + 10, (50, held_out) if held_out else (50,)
    needed = parameters * (4 * 5 + 8 * (1 + len(examples))) + 8 * sum(examples) * (50 + 3 * 100 + 3 * 10)
    for count in examples:  # what is counted is there
        workspace = PortableWorkspace(Net(50, 100, 10), count, np)
        arrays = (array for array in vars(workspace).values() if isinstance(array, np.ndarray))
        assert workspace_bytes(Net(50, 100, 10), count) <= sum(a.nbytes for a in arrays) + 8 * parameters
    monkeypatch.setattr(memory_check, "memory_limit", lambda: needed)
    check_net_fits(Config.build(values), 50, 10, rows=1000, held_out=held_out)
    monkeypatch.setattr(memory_check, "memory_limit", lambda: needed - 1)
    with pytest.raises(ResourceError, match="for a mini-batch, and this process may use"):
        check_net_fits(Config.build(values), 50, 10, rows=1000, held_out=held_out)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("workers", ["0", "2"])
def test_the_widest_net_is_one_sentence_and_exit_2(tmp_path, workers):
    done = Cli(tmp_path).run("train", "--set", "model.hidden=16777216", "--set", "tracking.enabled=false",
                             "--workers", workers)  # fmt: skip
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert "1,258,291,210 parameters" in done.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.timeout(60)
def test_a_wide_net_of_few_features_is_refused_for_its_activations(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "few.npz", X=rng.normal(size=(3000, 1)), y=rng.integers(0, 2, 3000))
    done = Cli(tmp_path).run("train", "--data", "few.npz", "--set", "model.hidden=16777216", "--workers", "0",
                             "--set", "tracking.enabled=false", "--set", "train.batch_size=1024")  # fmt: skip
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "activations" in done.err
