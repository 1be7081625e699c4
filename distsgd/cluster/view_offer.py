"""What the driver tells every member of a view, and what members on nodes without the server do with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distsgd.comm.mesh import Mesh
from distsgd.comm.mesh_joining import AcceptedMembers, join_mesh
from distsgd.comm.tcp_acceptor import TcpAddress
from distsgd.comm.tcp_greeting import Secret
from distsgd.core.net import Net
from distsgd.core.slices import View
from distsgd.engine.plan import Plan
from distsgd.engine.slice_follower import SliceFollower
from distsgd.engine.slice_owner import Computer


@dataclass(frozen=True, kw_only=True)
class ViewOffer:
    """A view of a run's nodes, and how its members reach each other."""

    view: View
    names: Sequence[str]
    addresses: Sequence[TcpAddress]
    secret: Secret
    net: Net
    plan: Plan

    def join(self, member: int, accepted: AcceptedMembers, *, spin: bool) -> Mesh:
        """Return the connections of a member to all others. Raise MeshError if one of them cannot be reached."""
        return join_mesh(
            self.view,
            member,
            names=self.names,
            addresses=self.addresses,
            secret=self.secret,
            accepted=accepted,
            parameters=self.net.size,
            timeout_s=self.plan.config.run.timeout_s,
            spin=spin,
        )


class ViewServing:
    """The views that an actor has joined, and the connections of other members to it."""

    def __init__(self, role: tuple[str, int], *, threads: int, spin: bool) -> None:
        """`role` is for fault injection; large slices are updated by so many `threads`."""
        self.accepted = AcceptedMembers()
        self._role, self._threads, self._spin = role, threads, spin
        self._followers: dict[int, SliceFollower] = {}

    def join(self, offer: ViewOffer, member: int, computer: Computer, buffers: np.ndarray) -> None:
        """Join a view; `buffers` (2, P) are those that the computer's workers read. Raise MeshError if that fails."""
        mesh = offer.join(member, self.accepted, spin=self._spin)
        for outdated in [number for number in list(self._followers) if number < offer.view.number]:
            self._followers.pop(outdated).close()
        self._followers[offer.view.number] = SliceFollower(
            net=offer.net,
            plan=offer.plan,
            mesh=mesh,
            computer=computer,
            parameters=list(buffers),
            role=self._role,
            threads=self._threads,
        )

    def serve(self, view: int, step: int) -> None:
        """Take part in a view from `step` on, until it is over.

        If it was not joined, or a later one was since, its connections are closed already, and the server ends it.
        """
        follower = self._followers.pop(view, None)
        if follower is not None:
            follower.serve(step)
