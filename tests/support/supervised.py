"""What the tests of ``supervise`` share."""

from __future__ import annotations

import socket
from typing import Any

from roket_trio._kernel import tcp
from support.sockets import Pair

# A budget that runs out in a test (seconds), and one that does not.
SOON = 0.1
NEVER = 1000.0


def connected(family: str) -> Pair:
    """A pair for those who need many."""
    if family == "unix":
        return socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname())
        return listener.accept()[0], peer


def finish(peer: socket.socket) -> None:
    peer.shutdown(socket.SHUT_WR)


CLOSE_WAIT = f"{tcp.TCPState.CLOSE_WAIT:02X}"


def ends_of(ours: socket.socket) -> tuple[Any, Any]:
    return ours.getsockname(), ours.getpeername()


class Oops(Exception):
    pass
