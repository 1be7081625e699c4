"""When the nodes of a run share the update of the parameters: the driver makes views of them for the server.

A view is of the server and its peers on other nodes, as long as all of them are connected by TCP. It is made again when
one of them, or its number of workers, has changed. Without a view, the server updates all parameters alone.
"""

from __future__ import annotations

import time
from typing import Any

from distsgd.cluster.connections import SliceMember
from distsgd.cluster.rpc import SERVER, Tick, await_replies, await_server
from distsgd.cluster.view_offer import ViewOffer
from distsgd.cluster.worker_group import WorkerGroup
from distsgd.comm.mesh_joining import JOIN_S
from distsgd.comm.tcp_acceptor import TcpAddress
from distsgd.core.slices import View
from distsgd.engine.slice_owner import grain
from distsgd.engine.sliced_server import SlicesStatus
from distsgd.engine.spec import RunSpec
from distsgd.errors import DistsgdError, ServerLostError

SETTLE_S = 1.0
"""Seconds without a change after which a view is made: workers often come and go together."""

MAX_TRIES = 2
"""Views of the same members that are made if they end by a problem soon."""

HEALTHY_S = 60.0
"""A view that lasted so long does not count as tried."""


class Slicing:
    """The views of one run."""

    def __init__(self, spec: RunSpec, group: WorkerGroup) -> None:
        self._spec, self._group = spec, group
        self._run = spec.config.run
        self._number = 0
        self._wanted: tuple[object, ...] = ()
        """The members, by what has to be the same for a view to remain valid."""
        self._since = 0.0
        self._offered = False
        self._tries = 0

    @property
    def has_view(self) -> bool:
        """Whether the server may be doing its steps together with other nodes."""
        return self._offered

    def update(self, server: Any, tick: Tick, *, settle_s: float = SETTLE_S) -> None:
        """Make a view if there is none of the present members, who have not changed for `settle_s`.

        Raise ServerLostError if the server is gone.
        """
        here, members = self._group.connections.slice_members()
        wanted = (id(server), here, *((member.pid, member.name, member.weight) for member in members))
        now = time.monotonic()
        if wanted != self._wanted:
            self._wanted, self._since, self._offered, self._tries = wanted, now, False, 0
        if self._offered:
            self._check(server)
        if members and not self._offered and self._tries < MAX_TRIES and now - self._since >= settle_s:
            self._tries += 1
            self._offered = self._offer(server, here, members, tick)
            self._since = time.monotonic()

    def _check(self, server: Any) -> None:
        """Find out whether the view is over."""
        status: SlicesStatus = await_server(server.slices.remote(), self._run.reply_timeout_s)
        if status.ended >= self._number:
            now = time.monotonic()
            if now - self._since >= HEALTHY_S:
                self._tries = 0
            self._offered, self._since = False, now
            if self._tries == MAX_TRIES:
                self._give_up(status.problem)

    def _give_up(self, problem: str) -> None:
        self._group.workers.note(
            f"{SERVER} updates the parameters alone, which is slower than sharing that among the nodes: {problem}"
        )

    def _offer(self, server: Any, here: int, members: list[SliceMember], tick: Tick) -> bool:
        """Connect all members to each other and have the server use the view; return whether that worked."""
        self._number += 1
        spec, tcp = self._spec, self._group.connections.tcp
        address = tcp.listening()
        timeout_s = self._run.reply_timeout_s + JOIN_S
        calls = [(m.actor.listen_view.remote(tcp.secret, self._run.port_range, spec.net.size), m.name) for m in members]
        addresses = [address, *await_replies(calls, timeout_s, tick)]
        for name, found in zip((SERVER, *(member.name for member in members)), addresses, strict=True):
            if not isinstance(found, TcpAddress):
                return self._failed(found if isinstance(found, DistsgdError) else f"{name}: {found}")
        view = View.of(
            self._number,
            [here, *(member.weight for member in members)],
            num_shards=spec.plan.sampler.num_shards,
            parameters=spec.net.size,
            grain=grain(spec.config.optim),
            arithmetic=spec.net.arithmetic,
        )
        names = [SERVER, *(member.name for member in members)]
        offer = ViewOffer(view=view, names=names, addresses=addresses, secret=tcp.secret, net=spec.net, plan=spec.plan)
        calls = [(server.join_view.remote(offer, 0), SERVER)]
        calls += [(m.actor.join_view.remote(offer, number), m.name) for number, m in enumerate(members, 1)]
        from_server, *others = await_replies(calls, timeout_s, tick)
        if isinstance(from_server, DistsgdError):
            raise ServerLostError(str(from_server))
        problem = next((found for found in (*others, from_server) if found is not None), None)
        if problem is not None:
            return self._failed(problem)
        await_server(server.use_view.remote(), self._run.reply_timeout_s)
        return True

    def _failed(self, problem: object) -> bool:
        """Note why there is no view; if a member is gone, which is noticed elsewhere, others are wanted next."""
        if self._tries == MAX_TRIES:
            self._give_up(str(problem))
        return False
