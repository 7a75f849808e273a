"""Empty a receive queue without looking at it."""

from __future__ import annotations

import socket
import sys

_AT_ONCE = 1 << 18
_scratch = bytearray(_AT_ONCE)


def discard_received(sock: socket.socket, *, limit: int | None = None) -> tuple[int, bool]:
    """Take what has arrived off ``sock`` and drop it, without waiting.

    On TCP ``MSG_TRUNC`` frees the queue without copying it (tcp(7), Linux 2.4); a UNIX socket ignores the flag and
    copies into a scratch buffer.

    :param limit: stop after this many bytes, so that a peer that never stops cannot hold the caller
    :returns: the number of bytes dropped, and whether the peer's FIN was reached
    :raises OSError: ECONNRESET and the like, once the queue is empty
    """
    flags = socket.MSG_TRUNC if sys.platform == "linux" and sock.family != socket.AF_UNIX else 0
    dropped = 0
    while limit is None or dropped < limit:
        try:
            count = sock.recv_into(_scratch, 0, flags)
        except BlockingIOError:
            return dropped, False
        if count == 0:
            return dropped, True
        dropped += count
    return dropped, False
