"""Discarding what a receive queue holds."""

from __future__ import annotations

import socket
import sys
from typing import NamedTuple

from .signal_handlers import is_from_kernel

_AT_ONCE = 1 << 18
_scratch = bytearray(_AT_ONCE)


class Discarded(NamedTuple):
    """What :func:`discard_received` dropped, and why it stopped."""

    dropped: int
    """The number of bytes dropped."""
    reached_end: bool
    """Whether the peer's FIN was reached."""
    error: OSError | None
    """ECONNRESET and the like, which the kernel reports once, after the last byte."""


def discard_received(sock: socket.socket, *, limit: int | None = None, copies: bool = False) -> Discarded:
    """Receive what has arrived on ``sock`` and drop it, without waiting.

    On TCP ``MSG_TRUNC`` frees the queue without copying it (tcp(7), Linux 2.4).

    :param limit: stop after this many bytes, so that a peer that never stops sending cannot keep the caller busy
    :param copies: into a scratch buffer, for a UNIX socket (to ask ``sock`` for its family takes 2 µs)
    """
    flags = socket.MSG_TRUNC if sys.platform == "linux" and not copies else 0
    dropped = 0
    while limit is None or dropped < limit:
        try:
            count = sock.recv_into(_scratch, 0, flags)
        except OSError as error:
            if not is_from_kernel(error):
                raise
            if isinstance(error, BlockingIOError):
                break
            return Discarded(dropped, False, error.with_traceback(None))  # which would keep this frame
        if count == 0:
            return Discarded(dropped, True, None)
        dropped += count
    return Discarded(dropped, False, None)
