"""A net that cannot fit into memory is refused before anything of its size is allocated."""

from __future__ import annotations

import pytest
from runs import Cli

from distsgd.config import Config
from distsgd.errors import ResourceError
from distsgd.run import memory_check
from distsgd.run.memory_check import check_parameters_fit


def test_what_needs_more_than_there_is_is_refused(monkeypatch):
    config = Config.build({"model.hidden": 100})
    parameters = 50 * 100 + 100 + 100 * 10 + 10
    monkeypatch.setattr(memory_check, "memory_limit", lambda: 28 * parameters)
    check_parameters_fit(config, 50, 10)
    monkeypatch.setattr(memory_check, "memory_limit", lambda: 28 * parameters - 1)
    with pytest.raises(ResourceError, match=r"50-100-10 has 6,110 parameters.*lower model.hidden"):
        check_parameters_fit(config, 50, 10)
    with pytest.raises(ResourceError, match="6,110 parameters"):
        check_parameters_fit(Config.build({"model.hidden": 100, "optim.momentum": 0.9}), 50, 10)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("workers", ["0", "2"])
def test_the_widest_net_is_one_sentence_and_exit_2(tmp_path, workers):
    done = Cli(tmp_path).run("train", "--set", "model.hidden=16777216", "--set", "tracking.enabled=false",
                             "--workers", workers)  # fmt: skip
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert "1,258,291,210 parameters" in done.err
    assert not (tmp_path / "runs").exists()
