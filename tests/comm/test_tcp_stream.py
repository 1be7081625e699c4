"""One end of a connection between nodes: addresses, and messages that name both ends."""

from __future__ import annotations

import re
import socket
import struct

import pytest
from runs import eventually
from tcp_nodes import HOST, SECRET

from distsgd.comm.tcp_acceptor import TcpAcceptor
from distsgd.comm.tcp_endpoint import TcpEndpoint
from distsgd.comm.tcp_greeting import Introduction
from distsgd.comm.tcp_stream import Stream
from distsgd.comm.unix_socket import ConnectionClosedError, WaitTimeoutError

SOMEONE = Introduction("worker 7", "there", 1, 1)


def test_the_end_of_a_stream_names_both_ends():
    with socket.create_server((HOST, 0)) as listener:
        stream = Stream(socket.create_connection(listener.getsockname()))
        other, _ = listener.accept()
        # A reset in place of an orderly end.
        other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        other.close()
        port = listener.getsockname()[1]
        with pytest.raises(ConnectionClosedError, match=rf"from 127.0.0.1:\d+ to 127.0.0.1:{port} ended: .*reset"):
            stream.receive_within(bytearray(1), 5)
        stream.close()


def test_an_answer_that_does_not_come_is_a_sentence_with_both_ends():
    with socket.create_server((HOST, 0)) as listener:
        stream = Stream(socket.create_connection(listener.getsockname()))
        with pytest.raises(
            WaitTimeoutError, match=r"^nothing arrived for 0.1 s by the connection from 127.0.0.1:\d+ to"
        ):
            stream.receive_within(bytearray(1), 0.0987)
        stream.close()


def test_ipv6_works_and_its_addresses_are_written_with_brackets():
    def join(stream: Stream, introduction: Introduction) -> None:
        paths.append((stream.path, introduction))
        stream.close()

    paths: list[tuple[str, Introduction]] = []
    try:
        acceptor = TcpAcceptor("::1", range(0), node="", parameters=5, secret=SECRET, on_join=join)
    except OSError:
        pytest.skip("this machine has no IPv6")
    try:
        assert str(acceptor.address) == f"[::1]:{acceptor.address.port}"
        TcpEndpoint.connect(acceptor.address, SECRET, SOMEONE, 5).close()
        assert eventually(lambda: paths, 30)
    finally:
        acceptor.close()
    ((path, introduction),) = paths
    assert introduction == SOMEONE
    assert re.fullmatch(rf"the connection from \[::1\]:{acceptor.address.port} to \[::1\]:\d+", path)


@pytest.mark.parametrize("usual", ["bbr", "cubic", "reno"])
def test_bursts_are_not_paced_and_other_congestion_control_is_the_kernels(usual):
    with socket.create_server((HOST, 0)) as listener, socket.create_connection(listener.getsockname()) as sock:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, usual.encode())
        except OSError:
            pytest.skip(f"this kernel has no {usual}, or does not allow it to this user")
        stream = Stream(sock)
        found = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0").decode()
        assert found == ("reno" if usual == "bbr" else usual)
        stream.close()
