"""Validation by the workers of a run: held-out rows in blocks, computed again if a worker dies.

A worker gets only as many blocks at once as should take a fraction of `run.timeout_s`. So the time limit of validation
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
from distsgd.engine.validation import BlockResult
from distsgd.errors import ResourceError, WorkerLostError

SLACK = 10
"""How many times longer than expected blocks may take before their worker counts as lost."""


@dataclass(frozen=True)
class _Request:
    """The blocks that a worker was asked to evaluate."""

    worker: ManagedWorker
    actor: Any
    blocks: range
    began: float
    timeout_s: float


class BlockEvaluator:
    """Distributes blocks among the workers of a group, and measures how long a block takes."""

    def __init__(self, group: WorkerGroup, timeout_s: float) -> None:
        self._group, self._timeout_s = group, timeout_s
        self._block_s: float | None = None
        """The most recent time per block, in seconds."""

    def evaluate(
        self, flat: Any, count: int, poll: Callable[[], bool], *, confusion: bool = False
    ) -> list[BlockResult] | None:
        """Return the results of blocks 0 to `count` in any order, with the parameters that `flat` refers to.

        `poll` is called several times a second; it replaces lost workers, and returns whether to go on: if not, the
        result is None. Raise WorkerLostError if no worker is left and none joins in time.
        """
        owed, found, requests = deque([range(count)]), list[BlockResult](), dict[Any, _Request]()
        last_seen = next_poll = time.monotonic()
        while owed or requests:
            self._hand_out(flat, owed, requests, confusion)
            now = time.monotonic()
            if requests:
                last_seen = now
                for reply in ray.wait(list(requests), timeout=TICK_S)[0]:
                    owed += self._receive(reply, requests.pop(reply), found)
                for reply, request in list(requests.items()):
                    if time.monotonic() > request.began + request.timeout_s:
                        owed.append(self._lose(requests.pop(reply), f"has not answered for {request.timeout_s:g} s"))
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

    def _hand_out(self, flat: Any, owed: deque[range], requests: dict[Any, _Request], confusion: bool) -> None:
        """Assign outstanding blocks to idle workers."""
        busy = {id(request.actor) for request in requests.values()}
        able = self._group.workers.able()
        share = math.ceil(sum(map(len, owed)) / max(1, len(able)))
        for worker, state in able:
            if owed and id(state.actor) not in busy:
                blocks = owed.popleft()
                size = min(share, self._most(), len(blocks))
                if size < len(blocks):
                    owed.appendleft(blocks[size:])
                reply = state.actor.evaluate.remote(flat, blocks[:size], confusion)
                timeout_s = max(self._timeout_s, SLACK * size * (self._block_s or 0.0))
                requests[reply] = _Request(worker, state.actor, blocks[:size], time.monotonic(), timeout_s)

    def _most(self) -> int:
        """Return the maximum number of blocks per request: one until the time per block is known."""
        return 1 if self._block_s is None else max(1, int(self._timeout_s / SLACK / max(self._block_s, 1e-9)))

    def _receive(self, reply: Any, request: _Request, found: list[BlockResult]) -> list[range]:
        """Receive the results of a request; return its blocks if its worker was lost."""
        try:
            found += await_reply(reply, request.worker.name, request.timeout_s)
        except (WorkerLostError, ResourceError) as error:
            return [self._lose(request, str(error))]
        self._block_s = (time.monotonic() - request.began) / len(request.blocks)
        return []

    def _lose(self, request: _Request, problem: str) -> range:
        """Mark the worker of a request as lost, unless it has been replaced already; return the blocks."""
        state = request.worker.state
        if isinstance(state, Alive) and state.actor is request.actor:
            self._group.workers.lose(request.worker, problem, " in validation")
        return request.blocks
