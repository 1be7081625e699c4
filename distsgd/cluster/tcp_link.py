"""Connecting actors on other nodes to the parameter server by TCP, and what to do where that is not possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distsgd.cluster.actors import Location
from distsgd.cluster.rpc import SERVER, await_reply, await_server
from distsgd.comm.deadlines import transfer_s
from distsgd.comm.tcp_acceptor import TcpAddress
from distsgd.comm.tcp_endpoint import CONNECT_S
from distsgd.comm.tcp_greeting import Secret
from distsgd.config import Config
from distsgd.errors import ResourceError, WorkerLostError


class TcpLink:
    """The run's secret, and the address at which its current server listens for other nodes."""

    def __init__(self, config: Config, parameters: int, note: Callable[[str], None]) -> None:
        """The net has so many `parameters`; `note` is called with what the user should know."""
        self._run, self._timeout_s, self._note = config.run, config.run.reply_timeout_s, note
        self._transfer_s = transfer_s(config.run.timeout_s, 4 * parameters)
        self.secret = Secret.new()
        """What proves that a process belongs to this run."""
        self._server: Any = None
        self._address: TcpAddress | None = None

    def use(self, server: Any) -> None:
        """Connect to this server from now on; it begins to listen when it is first needed."""
        self._server, self._address = server, None

    def connect(self, actor: Any, name: str, location: Location, weight: int) -> bool:
        """Connect an actor, for `weight` workers, to the server by its `connect_tcp`; return whether that worked.

        Raise ResourceError if it did not and run.link is `tcp`, WorkerLostError if the actor is dead or does not reply,
        and ServerLostError if that is true of the server.
        """
        address = self.listening()
        if isinstance(address, str):
            problem: str | None = address
            remedy = "correct that"
        else:
            opened = "the ports of run.ports" if self._run.ports else "ports that you set as run.ports"
            remedy = f"if a firewall is in between, open {opened}"
            reply = actor.connect_tcp.remote(address, self.secret, name, weight, self._transfer_s)
            problem = self._reply(reply, name)
            if problem is None:
                return True
        message = f"{name} on {location.host} cannot reach {SERVER} by TCP ({problem})"
        if self._run.link == "tcp":
            raise ResourceError(f"{message}: {remedy}, or set run.link=auto to use Ray calls then")
        self._note(f"{message} and uses Ray calls, which are slower: {remedy}")
        return False

    def _reply(self, reply: Any, name: str) -> str | None:
        """Return an actor's reply, which tries for CONNECT_S before it says that there is no way to the server."""
        try:
            problem: str | None = await_reply(reply, name, self._timeout_s + CONNECT_S)
        except ResourceError as error:  # it hangs, and can be replaced like one that is dead
            raise WorkerLostError(str(error)) from None
        return problem

    def listening(self) -> TcpAddress | str:
        """Return where the server listens, from now on, or why it cannot."""
        if self._address is None:
            reply = self._server.listen.remote(self.secret, self._run.port_range)
            found: TcpAddress | str = await_server(reply, self._timeout_s)
            if isinstance(found, str):
                return found
            self._address = found
        return self._address
