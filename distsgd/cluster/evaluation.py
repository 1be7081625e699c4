"""Validation by the workers of a run: held-out rows in blocks, computed again if a worker dies.

A worker gets only as many blocks at once as should take a fraction of its timeout. So the time limit of validation
grows with the number of rows, and a hanging worker is detected as early as in training.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray

from distsgd.cluster.rpc import TICK_S, await_reply
from distsgd.cluster.worker_group import WorkerGroup
from distsgd.cluster.worker_state import Alive, ManagedWorker
from distsgd.comm.deadlines import FACTOR, FIRST_S, FLOOR_S, Timeout
from distsgd.core.backend import Device
from distsgd.engine.validation import NO_EXTRAS, BlockResult, Extras
from distsgd.errors import ResourceError, WorkerLostError

PARAMETERS_PER_S = 1e6
"""Size of a net whose first block may take a worker on a CPU a second longer; most take less than a tenth of that."""

DECAY = 0.5
"""Fraction of a worker's time per block that remains after faster blocks: the last block has fewer rows than others."""


@dataclass(frozen=True)
class _Request:
    """The blocks that a worker was asked to evaluate."""

    worker: ManagedWorker
    process: tuple[int, int]
    """The worker's number and its restarts so far: a replacement is another process."""
    actor: Any
    blocks: range
    began: float
    timeout_s: float


def first_block_s(timeout_s: Timeout, parameters: int, device: Device) -> float:
    """Return the seconds that a worker may take for its first block, with a net of so many parameters.

    It has computed steps before, but on a GPU may still have to load what only validation needs.
    """
    if timeout_s != "auto":
        return timeout_s
    return FLOOR_S + parameters / PARAMETERS_PER_S if device == "cpu" else FIRST_S


class BlockEvaluator:
    """Distributes blocks among the workers of a group, and measures how long each takes for a block."""

    def __init__(self, group: WorkerGroup, timeout_s: Timeout, *, first_s: float) -> None:
        """Allow `first_s` for a worker's first block."""
        self._group, self._first_s = group, first_s
        self._least_s = FLOOR_S if timeout_s == "auto" else timeout_s
        self._block_s: dict[tuple[int, int], float] = {}
        """The recent time per block in seconds, by process."""

    def evaluate(
        self, flat: Any, count: int, poll: Callable[[], bool], extras: Extras = NO_EXTRAS
    ) -> list[BlockResult] | None:
        """Return the results of blocks 0 to `count` in any order, with the parameters that `flat` refers to.

        `poll` is called several times a second; it replaces lost workers, and returns whether to go on: if not, the
        result is None. Raise WorkerLostError if no worker is left and none joins in time.
        """
        owed, found, requests = deque([range(count)]), list[BlockResult](), dict[Any, _Request]()
        last_seen = next_poll = time.monotonic()
        while owed or requests:
            self._hand_out(flat, owed, requests, extras)
            now = time.monotonic()
            if requests:
                last_seen = now
                for reply in ray.wait(list(requests), timeout=TICK_S)[0]:
                    owed += self._receive(reply, requests.pop(reply), found)
                for reply, request in list(requests.items()):
                    if time.monotonic() > request.began + request.timeout_s:
                        owed.append(
                            self._lose(requests.pop(reply), f"has not answered for {round(request.timeout_s, 2):g} s")
                        )
            elif now > last_seen + self._group.start_timeout_s:
                raise WorkerLostError(
                    f"no worker is left in validation, and none joined within {self._group.start_timeout_s:g} s"
                )
            else:
                time.sleep(TICK_S)
            if (owed or requests) and time.monotonic() >= next_poll:
                if not poll():
                    return None
                next_poll = time.monotonic() + TICK_S
        return found

    def _hand_out(self, flat: Any, owed: deque[range], requests: dict[Any, _Request], extras: Extras) -> None:
        """Assign outstanding blocks to idle workers."""
        busy = {id(request.actor) for request in requests.values()}
        able = self._group.workers.able()
        share = math.ceil(sum(map(len, owed)) / max(1, len(able)))
        for worker, state in able:
            if owed and id(state.actor) not in busy:
                blocks = owed.popleft()
                process = worker.number, worker.restarts
                size = min(share, self._most(process), len(blocks))
                if size < len(blocks):
                    owed.appendleft(blocks[size:])
                reply = state.actor.evaluate.remote(flat, blocks[:size], extras)
                timeout_s = self._allowed_s(process, size)
                requests[reply] = _Request(worker, process, state.actor, blocks[:size], time.monotonic(), timeout_s)

    def _most(self, process: tuple[int, int]) -> int:
        """Return the maximum number of blocks per request: one until the time per block is known."""
        block_s = self._block_s.get(process)
        return 1 if block_s is None else max(1, int(self._least_s / FACTOR / max(block_s, 1e-9)))

    def _allowed_s(self, process: tuple[int, int], size: int) -> float:
        """Return the seconds that a worker may take for a number of blocks."""
        block_s = self._block_s.get(process)
        return self._first_s if block_s is None else max(self._least_s, FACTOR * size * block_s)

    def _receive(self, reply: Any, request: _Request, found: list[BlockResult]) -> list[range]:
        """Receive the results of a request; return its blocks if its worker was lost."""
        try:
            found += await_reply(reply, request.worker.name, request.timeout_s)
        except (WorkerLostError, ResourceError) as error:
            return [self._lose(request, str(error))]
        took_s = (time.monotonic() - request.began) / len(request.blocks)
        self._block_s[request.process] = max(took_s, DECAY * self._block_s.get(request.process, 0.0))
        return []

    def _lose(self, request: _Request, problem: str) -> range:
        """Mark the worker of a request as lost, unless it has been replaced already; return the blocks."""
        state = request.worker.state
        if isinstance(state, Alive) and state.actor is request.actor:
            self._group.workers.lose(request.worker, problem, " in validation")
        return request.blocks
