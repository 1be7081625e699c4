"""TLS between nodes, with the certificates that Ray uses."""

from __future__ import annotations

import contextlib
import ssl
import time
from pathlib import Path

import pytest
from certificates import write_authority
from plain_training import serial_parameters, some_spec
from sliced_nodes import sliced_nodes
from tcp_nodes import SECRET, listening
from test_tcp_greeting import SOMEONE, raw, strangers_hello

from distsgd.comm import tcp_endpoint
from distsgd.comm.tcp_endpoint import TcpEndpoint
from distsgd.comm.tcp_greeting import GreetingError


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    """A refused client gives up soon."""
    monkeypatch.setattr(tcp_endpoint, "CONNECT_S", 1.0)


@pytest.fixture(scope="module")
def authorities(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("authorities")
    for name in ("ours", "theirs"):
        write_authority(folder / name)
    return folder


def use_tls(monkeypatch, folder: Path) -> None:
    monkeypatch.setenv("RAY_USE_TLS", "1")
    for name, file in (("SERVER_CERT", "crt"), ("SERVER_KEY", "key"), ("CA_CERT", "ca.crt")):
        monkeypatch.setenv(f"RAY_TLS_{name}", str(folder / file))


@pytest.mark.parametrize("hidden", [5, 60_000])
def test_with_tls_the_bits_are_the_same_and_nothing_is_readable(authorities, monkeypatch, hidden):
    use_tls(monkeypatch, authorities / "ours")
    spec = some_spec(model__hidden=hidden)
    with listening(spec) as node:
        assert node.acceptor.address.tls
        for _ in range(2):
            node.start_worker()
        assert node.server.run(4) == 4
        assert node.server.parameters.tobytes() == serial_parameters(spec, 4)
        with raw(node.acceptor.address) as sock:  # a plain greeting is not understood
            sock.sendall(strangers_hello(spec.net.size))
            answer = b""
            with contextlib.suppress(ConnectionResetError):
                answer = sock.recv(4096)
            assert answer[:1] in (b"", b"\x15"), "neither the end nor an alert"


def test_slices_travel_by_tls(authorities, monkeypatch):
    use_tls(monkeypatch, authorities / "ours")
    spec = some_spec(model__hidden=3000, optim__momentum=0.9, train__num_shards=4)  # slices longer than a TLS record
    with sliced_nodes(spec, [1, 1, 2]) as nodes:
        nodes.offer()
        assert nodes.head.server.run(4) == 4
        assert nodes.head.server.slices() == (1, 0, "")
        channels = [channel for mesh in nodes.meshes for channel in mesh._channels]
        assert len(channels) == 6
        assert all(isinstance(channel.stream._socket, ssl.SSLSocket) for channel in channels)
        assert nodes.head.server.parameters.tobytes() == serial_parameters(spec, 4)


def test_a_certificate_of_another_authority_is_refused(authorities, monkeypatch):
    use_tls(monkeypatch, authorities / "ours")
    with listening() as node:
        use_tls(monkeypatch, authorities / "theirs")
        with pytest.raises(OSError, match="certificate verify failed"):
            TcpEndpoint.connect(node.acceptor.address, SECRET, SOMEONE, node.spec.net.size)
        assert node.dispatcher.members.size() == 0


def test_a_missing_file_of_a_client_is_named_at_once(authorities, monkeypatch):
    use_tls(monkeypatch, authorities / "ours")
    monkeypatch.setattr(tcp_endpoint, "CONNECT_S", 60.0)
    with listening() as node:
        monkeypatch.setenv("RAY_TLS_CA_CERT", str(authorities / "none"))
        began = time.monotonic()
        with pytest.raises(OSError, match=r"the file that RAY_TLS_CA_CERT names cannot be used: No such file"):
            TcpEndpoint.connect(node.acceptor.address, SECRET, SOMEONE, node.spec.net.size)
        assert time.monotonic() - began < 30


@pytest.mark.parametrize("on_server", [True, False])
def test_tls_on_one_side_only_is_refused(authorities, monkeypatch, on_server):
    with contextlib.ExitStack() as stack:
        if on_server:
            use_tls(monkeypatch, authorities / "ours")
        node = stack.enter_context(listening())
        if on_server:
            monkeypatch.delenv("RAY_USE_TLS")
        else:
            use_tls(monkeypatch, authorities / "ours")
        with pytest.raises(GreetingError, match=r"RAY_USE_TLS is set on (the node of the server|this node) only"):
            TcpEndpoint.connect(node.acceptor.address, SECRET, SOMEONE, node.spec.net.size)


def test_tls_without_usable_files_is_an_error_and_not_a_plain_connection(authorities, monkeypatch):
    use_tls(monkeypatch, authorities / "ours")
    monkeypatch.setenv("RAY_TLS_SERVER_KEY", str(authorities / "theirs" / "key"))
    wrong = r"(?i)the file that RAY_TLS_SERVER_CERT or RAY_TLS_SERVER_KEY names cannot be used: .*key values mismatch"
    with pytest.raises(OSError, match=wrong), listening():
        pass
    monkeypatch.delenv("RAY_TLS_SERVER_KEY")
    with pytest.raises(OSError, match="RAY_USE_TLS is set, and RAY_TLS_SERVER_KEY is not"), listening():
        pass
