"""poll(2) of one socket, without waiting."""

from __future__ import annotations

import select
import socket


def is_readable(sock: socket.socket) -> bool:
    """Whether a receive would have an answer now."""
    return _polls(sock, select.POLLIN)


def is_writable(sock: socket.socket) -> bool:
    """Whether a send would have an answer now."""
    return _polls(sock, select.POLLOUT)


def peer_has_finished(sock: socket.socket) -> bool:
    """Whether the peer's FIN or RST has arrived, whatever lies unread (POLLRDHUP: Linux)."""
    return _polls(sock, select.POLLRDHUP)


def _polls(sock: socket.socket, events: int) -> bool:
    poll = select.poll()
    poll.register(sock, events)
    return bool(poll.poll(0))
