"""Changes of a socket's state, reported by an epoll descriptor, which an event loop can wait for."""

from __future__ import annotations

import select
import socket
from typing import final

AVAILABLE = hasattr(select, "epoll")

if AVAILABLE:
    ANY_CHANGE = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
    PEER_CLOSED = select.EPOLLRDHUP

# A flood of resets is handled in pieces, so that other tasks can run between them.
_EVENTS_AT_ONCE = 128


@final
class SocketEvents:
    """A private epoll on one socket: readable whenever one of ``events`` has newly happened.

    With :data:`ANY_CHANGE` it reports that our FIN was acknowledged, without polling: reaching FIN_WAIT2 wakes the
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


@final
class PeerEvents:
    """One epoll on many sockets: readable when the peer of any of them has finished, by FIN or by RST.

    It is edge-triggered, so each such change is reported once, and a peer that has finished costs nothing from then on.
    Data that arrives does not wake it, since the kernel announces data with other events (``sock_def_readable``).
    """

    __slots__ = ("_epoll",)

    def __init__(self) -> None:
        self._epoll = select.epoll()

    def fileno(self) -> int:
        return self._epoll.fileno()

    def add(self, sock: socket.socket) -> None:
        """Watch ``sock``. A peer that has finished already is reported at once. Closing ``sock`` removes it.

        :raises OSError: ENOSPC, the user's limit of watches (epoll(7)); ENOMEM
        """
        self._epoll.register(sock, select.EPOLLRDHUP | select.EPOLLET)

    def drop(self, sock: socket.socket) -> None:
        """Watch ``sock`` no longer."""
        self._epoll.unregister(sock)

    def take(self) -> list[int]:
        """The descriptors with events since the last call; when there are very many, some of them."""
        return [fd for fd, _ in self._epoll.poll(0, _EVENTS_AT_ONCE)]

    def close(self) -> None:
        self._epoll.close()
