"""A validation may take as long as its rows need, however short the timeout is; a worker that hangs is soon named."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import distsgd
from distsgd.cluster import evaluation
from distsgd.cluster.evaluation import BlockEvaluator, first_block_s
from distsgd.cluster.worker_state import Ready
from distsgd.engine.validation import BLOCK, Extras


@pytest.mark.slow
@pytest.mark.usefixtures("own_folder", "joined")
def test_a_validation_longer_than_the_timeout_loses_no_worker():
    rng = np.random.default_rng(1)
    for name, rows in (("train", 64), ("val", 200 * BLOCK + 7)):
        np.savez(f"{name}.npz", X=rng.random((rows, 4), dtype=np.float32), y=np.arange(rows) % 3)
    values = {"data.train": "train.npz", "data.val": "val.npz", "model.hidden": 4096, "train.max_steps": 1}
    values |= {"tracking.enabled": False, "train.batch_size": 8}
    began = time.monotonic()
    serial = distsgd.train(values | {"run.workers": 0, "run.dir": "serial"})
    serial_s = time.monotonic() - began
    timeout_s = serial_s / 4  # a half of the blocks takes longer than that
    found = distsgd.train(values | {"run.workers": 2, "run.dir": "run", "run.timeout_s": timeout_s})
    assert found.warnings == []
    assert (found.val_loss, found.val_accuracy) == (serial.val_loss, serial.val_accuracy)


@dataclass
class FakeWorker:
    """A worker that takes a given time for a block, and longer for its first one."""

    cluster: FakeCluster
    number: int
    block_s: float
    first_s: float
    stopped_at_s: float = float("inf")
    restarts: int = 0
    requests: list[range] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.name = f"worker {self.number}"
        self.state = Ready(SimpleNamespace(evaluate=SimpleNamespace(remote=self.evaluate)), None)

    def evaluate(self, _flat: Any, blocks: range, _extras: Extras) -> object:
        now_s, last = self.cluster.now_s, self.cluster.blocks - 1
        took_s = self.block_s * sum(0.01 if block == last else 1 for block in blocks)
        took_s += 0 if self.requests else self.first_s
        self.requests.append(blocks)
        end_s = now_s + took_s
        reply = object()
        self.cluster.replies[reply] = (end_s if end_s < self.stopped_at_s else float("inf"), blocks)
        return reply


class FakeCluster:
    """Workers and a clock, which only waiting moves on; it stands in for Ray and for the group of the workers."""

    start_timeout_s = 60.0

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s, self.blocks = 0.0, 0
        self.replies: dict[object, tuple[float, range]] = {}
        self.all: list[FakeWorker] = []
        self.lost: list[tuple[str, str, float]] = []
        self.workers = self
        monkeypatch.setattr(evaluation, "ray", SimpleNamespace(wait=self.wait))
        monkeypatch.setattr(evaluation, "time", SimpleNamespace(monotonic=lambda: self.now_s, sleep=self.sleep))
        monkeypatch.setattr(evaluation, "await_reply", lambda reply, *_: list(self.replies[reply][1]))

    def add(self, block_s: float, first_s: float = 0.0, **more: float) -> FakeWorker:
        self.all.append(FakeWorker(self, len(self.all), block_s, first_s, **more))
        return self.all[-1]

    def able(self) -> list[tuple[FakeWorker, Ready]]:
        return [(worker, worker.state) for worker in self.all]

    def lose(self, worker: FakeWorker, problem: str, doing: str) -> None:
        assert doing == " in validation"
        self.lost.append((worker.name, problem, self.now_s))
        self.all.remove(worker)

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def wait(self, replies: list[object], timeout: float) -> tuple[list[object], list[object]]:
        end_s = min([self.now_s + timeout, *(self.replies[reply][0] for reply in replies)])
        self.now_s = max(self.now_s, end_s)
        ready = [reply for reply in replies if self.replies[reply][0] <= self.now_s][:1]
        return ready, [reply for reply in replies if reply not in ready]

    def validate(self, evaluator: BlockEvaluator, blocks: int) -> None:
        self.blocks = blocks
        found = evaluator.evaluate(None, blocks, lambda: True)
        assert sorted(found) == list(range(blocks))


@pytest.fixture
def fake_cluster(monkeypatch) -> FakeCluster:
    return FakeCluster(monkeypatch)


def test_a_slow_worker_beside_a_fast_one_is_not_lost(fake_cluster):
    """It gets as few blocks at once as its own speed allows; the last block, with a few rows, says little about it."""
    slow = fake_cluster.add(3.0)
    fast = fake_cluster.add(0.001, first_s=0.5)
    evaluator = BlockEvaluator(fake_cluster, "auto", first_s=60.0)
    for blocks in (4000, 1, 1, 4000, 2, 300):
        fake_cluster.validate(evaluator, blocks)
    assert not fake_cluster.lost
    assert max(map(len, slow.requests)) == 1
    assert max(map(len, fast.requests)) > 100


def test_the_first_block_of_a_worker_may_take_longer(fake_cluster):
    fake_cluster.add(0.01)
    evaluator = BlockEvaluator(fake_cluster, "auto", first_s=60.0)
    fake_cluster.validate(evaluator, 1000)
    fake_cluster.add(0.01, first_s=55.0)  # it replaces another, perhaps
    fake_cluster.validate(evaluator, 1000)
    assert not fake_cluster.lost


def test_a_worker_that_hangs_in_a_validation_is_named_after_ten_seconds(fake_cluster):
    fake_cluster.add(0.02)
    hanging = fake_cluster.add(0.02, stopped_at_s=5.0)
    evaluator = BlockEvaluator(fake_cluster, "auto", first_s=60.0)
    fake_cluster.validate(evaluator, 1000)
    ((name, problem, at_s),) = fake_cluster.lost
    assert (name, problem) == (hanging.name, "has not answered for 10 s")
    assert at_s < 15.5


def test_a_number_keeps_its_meaning_in_a_validation(fake_cluster):
    fake_cluster.add(0.02)
    fake_cluster.add(0.02, stopped_at_s=0.0)
    fake_cluster.validate(BlockEvaluator(fake_cluster, 3.0, first_s=3.0), 1000)
    ((_, problem, at_s),) = fake_cluster.lost
    assert problem == "has not answered for 3 s"
    assert at_s < 3.5


def test_the_first_block_has_time_by_the_size_of_the_net():
    assert first_block_s("auto", 2_395, "cpu") == pytest.approx(10, abs=0.1)
    assert first_block_s("auto", 3_260_000, "cpu") < 15
    assert first_block_s("auto", 100_000_000, "cpu") == 110
    assert first_block_s("auto", 2_395, "cuda") == 60
    assert first_block_s(3.0, 100_000_000, "cuda") == 3
