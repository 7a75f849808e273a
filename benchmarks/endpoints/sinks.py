"""Receivers: ``python -m benchmarks.endpoints.sinks HOW``. A receiver drops what comes, and answers the
end of a connection with the number of bytes.

HOW is ``discard`` (MSG_TRUNC: the kernel frees the queue without copying it, so that nothing but the sender can be
slow), ``copy`` (into one buffer, as a program that reads), both for one connection after the other, or ``many``: as
``discard``, for any number of connections at once.
"""

from __future__ import annotations

import select
import socket
import sys
from contextlib import AbstractContextManager

from .processes import COUNT, Address, bound, running, serve

_BUFFER = 256 << 10
_TRUNC = socket.MSG_TRUNC if sys.platform == "linux" else 0


def sink(how: str) -> AbstractContextManager[Address]:
    """A running sink; yields its address."""
    return running("sinks", how)


def _one_by_one(listener: socket.socket, flags: int) -> None:
    buffer = bytearray(_BUFFER)
    while True:
        peer, _ = listener.accept()
        with peer:
            bound(peer)
            total = 0
            try:
                while count := peer.recv_into(buffer, 0, flags):
                    total += count
                peer.sendall(COUNT.pack(total))
            except OSError as error:  # the sender learns of it, since the count does not come
                print(f"sink: {error}", file=sys.stderr)


def _all_at_once(listener: socket.socket) -> None:
    buffer = bytearray(_BUFFER)
    peers: dict[int, socket.socket] = {}
    totals: dict[int, int] = {}
    epoll = select.epoll()
    epoll.register(listener, select.EPOLLIN)
    while True:
        for fd, _ in epoll.poll():
            if fd == listener.fileno():
                peer, _ = listener.accept()
                peer.setblocking(False)
                peers[peer.fileno()], totals[peer.fileno()] = peer, 0
                epoll.register(peer, select.EPOLLIN)
                continue
            peer = peers[fd]
            try:
                count = peer.recv_into(buffer, 0, _TRUNC)
                totals[fd] += count
                if not count:
                    peer.send(COUNT.pack(totals[fd]))
            except BlockingIOError:
                continue
            except OSError as error:
                print(f"sink: {error}", file=sys.stderr)
                count = 0
            if not count:
                peers.pop(fd).close()


def main() -> None:
    how = sys.argv[1]
    serve(_all_at_once if how == "many" else lambda listener: _one_by_one(listener, _TRUNC if how == "discard" else 0))


if __name__ == "__main__":
    main()
