"""Changes of a socket's state, reported by an epoll descriptor, which an event loop can wait for."""

from __future__ import annotations

import os
import select
import socket
import weakref
from collections.abc import Callable
from typing import final

AVAILABLE = hasattr(select, "epoll")

if AVAILABLE:
    ANY_CHANGE = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET

# A flood of resets is handled in pieces, so that other tasks can run between them.
_EVENTS_AT_ONCE = 128


_of_this_process: weakref.WeakKeyDictionary[object, Callable[[], int]] = weakref.WeakKeyDictionary()


def copy_in_child(owner: object, fileno: Callable[[], int]) -> None:
    """Give a forked child an epoll of its own with the same interests, as long as ``owner`` exists.

    What the child inherits is the same epoll: an event that it takes, or an interest that it changes, would be lost to
    the parent (epoll(7)). The copy has the same number, so that whoever uses it need not know.

    :param fileno: gives the epoll's descriptor; -1 or ``ValueError`` when it is closed
    """
    _of_this_process[owner] = fileno


def _after_fork() -> None:
    for fileno in tuple(_of_this_process.values()):
        try:
            fd = fileno()
            with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as info, select.epoll() as copy:
                for line in info:
                    if line.startswith("tfd:"):  # tfd: 5 events: 19 data: ... (proc(5))
                        _, watched, _, events, *_ = line.split()
                        copy.register(int(watched), int(events, 16))
                os.dup2(copy.fileno(), fd, inheritable=False)
        except (OSError, ValueError):  # it is closed; no /proc; no descriptor is left
            pass


if AVAILABLE:
    os.register_at_fork(after_in_child=_after_fork)


@final
class SocketEvents:
    """A private epoll on one socket: readable whenever one of ``events`` has newly happened.

    With :data:`ANY_CHANGE` it reports that our FIN was acknowledged, without polling: reaching FIN_WAIT2 wakes the
    socket's writers, and the edge-triggered epoll reports EPOLLOUT again (``tcp_rcv_state_process``, Linux 6.18).
    """

    __slots__ = ("__weakref__", "_epoll")

    def __init__(self, sock: socket.socket, events: int) -> None:
        self._epoll = select.epoll(1)
        copy_in_child(self, self._epoll.fileno)
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

    __slots__ = ("__weakref__", "_epoll")

    def __init__(self) -> None:
        self._epoll = select.epoll()
        copy_in_child(self, self._epoll.fileno)

    def fileno(self) -> int:
        return self._epoll.fileno()

    def add(self, sock: socket.socket) -> None:
        """Watch ``sock``. A peer that has finished already is reported at once. Closing ``sock`` removes it.

        :raises OSError: ENOSPC, the user's limit of watches (epoll(7)); ENOMEM
        """
        self._epoll.register(sock, select.EPOLLRDHUP | select.EPOLLET)

    def drop(self, sock: socket.socket | int) -> None:
        """Watch a socket, or the one with this descriptor, no longer."""
        self._epoll.unregister(sock)

    def take(self) -> list[int]:
        """The descriptors with events since the last call; when there are very many, some of them."""
        return [fd for fd, _ in self._epoll.poll(0, _EVENTS_AT_ONCE)]

    def close(self) -> None:
        self._epoll.close()
