"""Changes in a socket's state, as edges on a descriptor that an event loop can wait for."""

from __future__ import annotations

import select
import socket
from typing import final

AVAILABLE = hasattr(select, "epoll")

if AVAILABLE:
    ANY_CHANGE = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
    PEER_CLOSED = select.EPOLLRDHUP


@final
class EdgeWatch:
    """A private epoll on one socket: readable whenever the socket has something new of ``events`` to say.

    With :data:`ANY_CHANGE` this tells that our FIN was acknowledged, without polling: reaching FIN_WAIT2 wakes the
    socket's writers, and the edge-triggered epoll reports EPOLLOUT again (``tcp_rcv_state_process``, Linux 6.18).
    With :data:`PEER_CLOSED` it stays readable from the peer's FIN or RST on, whatever data lies unread (EPOLLHUP and
    EPOLLERR are always reported, epoll_ctl(2)).
    """

    __slots__ = ("_epoll",)

    def __init__(self, sock: socket.socket, events: int) -> None:
        self._epoll = select.epoll(1)
        try:
            self._epoll.register(sock, events)
        except BaseException:
            self._epoll.close()
            raise

    def fileno(self) -> int:
        return self._epoll.fileno()

    def take(self) -> int:
        """The events since the last call, 0 for none."""
        found = self._epoll.poll(0)
        return found[0][1] if found else 0

    def close(self) -> None:
        self._epoll.close()
