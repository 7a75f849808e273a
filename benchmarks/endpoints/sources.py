"""A sender: ``python -m benchmarks.endpoints.sources``. It is asked for a number of bytes, sends them, and finishes.

One connection after the other is served. A receiver that has enough closes.
"""

from __future__ import annotations

import contextlib
import socket
from contextlib import AbstractContextManager

from .processes import COUNT, Address, bound, running, serve

_PIECE = bytes(1 << 20)


def source() -> AbstractContextManager[Address]:
    """A running source; yields its address."""
    return running("sources")


def _serve(listener: socket.socket) -> None:
    while True:
        peer, _ = listener.accept()
        with peer:
            bound(peer)
            with contextlib.suppress(OSError):  # the receiver counts, and may end the connection by a reset
                told = peer.recv(COUNT.size, socket.MSG_WAITALL)
                if len(told) < COUNT.size:
                    continue
                left = COUNT.unpack(told)[0]
                while left:
                    left -= peer.send(_PIECE[:left] if left < len(_PIECE) else _PIECE)
                peer.shutdown(socket.SHUT_WR)
                peer.recv(1)


def main() -> None:
    serve(_serve)


if __name__ == "__main__":
    main()
