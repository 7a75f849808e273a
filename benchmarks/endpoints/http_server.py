"""A blocking HTTP/1.1 server that gives and takes as much as it is asked to, from and to memory.

``python -m benchmarks.endpoints.http_server`` answers ``GET /COUNT`` with that many bytes, and a ``POST`` when it has
taken its body. Connections are kept.
"""

from __future__ import annotations

import socket
import threading
from contextlib import AbstractContextManager, suppress

from .processes import Address, bound, running, serve

_PIECE = memoryview(bytes(1 << 20))
_TRUNC = getattr(socket, "MSG_TRUNC", 0)  # take without a copy: the client is what is measured


def http_server() -> AbstractContextManager[Address]:
    """A running server; yields its address."""
    return running("http_server")


def _accept(listener: socket.socket) -> None:
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=_converse, args=(sock,), daemon=True).start()


def _converse(sock: socket.socket) -> None:
    bound(sock)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with sock, suppress(OSError):
        received = b""
        while True:
            while b"\r\n\r\n" not in received:
                data = sock.recv(65536)
                if not data:
                    return
                received += data
            head, _, received = received.partition(b"\r\n\r\n")
            method, target, _ = head.split(b" ", 2)
            if method == b"POST":
                received = _take(sock, _length(head), received)
            count = int(target[1:])
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % count)
            while count:
                count -= sock.send(_PIECE[:count])


def _length(head: bytes) -> int:
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    return int(fields[b"content-length"])


def _take(sock: socket.socket, count: int, received: bytes) -> bytes:
    """Take a body of ``count`` bytes; returns what was received behind it."""
    body, behind = received[:count], received[count:]
    left, buffer = count - len(body), bytearray(1 << 20)
    while left:
        left -= sock.recv_into(buffer, min(left, len(buffer)), _TRUNC)
    return behind


if __name__ == "__main__":
    serve(_accept)
