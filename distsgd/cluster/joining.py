"""Joins a Ray cluster by its address, or fails within seconds with the reason; leaves it."""

from __future__ import annotations

import gc
import logging
import os
import socket

from distsgd.errors import ResourceError
from distsgd.system.signals import signals_kept_from_ray
from distsgd.system.streams import standard_streams

CONNECT_S = 3.0
"""Seconds in which a cluster's address must accept a connection, and then say that it speaks gRPC."""

ATTEMPTS = "RAY_gcs_server_port_wait_time_s"
"""Ray's name for how often it tries to reach a cluster, with a second in between: 20 times if nothing is set."""

SETTINGS = 4
"""Type of the frame that an HTTP/2 server, and so a gRPC server, begins every connection with (RFC 9113, 3.4)."""

REMEDY = "start a cluster with `ray start --head`, correct the address, or leave it out to train on this machine"


def join(address: str) -> None:
    """Connect this process to the cluster at `address`; ResourceError if there is none, or if it refuses."""
    if address.startswith("ray://"):
        raise ResourceError(
            f"the Ray address {address!r} is a Ray Client's; distsgd's driver runs on a node of the cluster: "
            "submit it with `ray job submit`"
        )
    if ":" in address:
        try:
            _check_answer(address)
        except (OSError, ValueError, OverflowError) as error:
            raise ResourceError(f"no Ray cluster answers at {address!r} ({error}); {REMEDY}") from None
    import ray

    set_by_user = ATTEMPTS in os.environ
    os.environ.setdefault(ATTEMPTS, "1")
    try:
        with signals_kept_from_ray(), standard_streams():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, AssertionError) as error:
        if "InvalidAuthToken" in str(error.__cause__):
            raise ResourceError(
                f"the Ray cluster at {address!r} requires its token: set RAY_AUTH_MODE=token, and "
                "RAY_AUTH_TOKEN_PATH to the file that holds it"
            ) from None
        raise ResourceError(
            f"the Ray cluster at {address!r} cannot be joined: {first_lines(error)}; {REMEDY}"
        ) from None
    finally:
        if not set_by_user:  # a Ray that this process starts later needs longer
            del os.environ[ATTEMPTS]


def leave() -> None:
    """Disconnect this process from Ray, and end the processes of a local one.

    An exit handler of Ray's keeps the node object, and so a client whose sockets would never be closed; the other
    descriptors are held by reference cycles.
    """
    import ray
    from ray._private import worker

    node = worker._global_node
    ray.shutdown()
    if node is not None:
        node._gcs_client = None
    gc.collect()


def _check_answer(address: str) -> None:
    """Raise OSError, ValueError or OverflowError unless something that may be a Ray cluster answers at `host:port`.

    Ray itself waits for more than two minutes for a port that something else listens on.
    """
    host, _, port = address.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S) as connection:
        if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
            return
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]))
        start = connection.recv(4, socket.MSG_WAITALL)
        if len(start) < 4 or start[3] != SETTINGS:
            raise ValueError("another program listens there")


def first_lines(error: Exception) -> str:
    """Return the beginning of an error's message, in one line."""
    return " ".join(line.strip() for line in str(error).splitlines()[:3]).rstrip(".") or type(error).__name__
