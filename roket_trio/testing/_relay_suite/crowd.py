"""A thousand clients of a relay at once, and their target, in one thread: threads for each would measure themselves."""

from __future__ import annotations

import resource
import select
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, final

from .._peers.payload import payload
from .._peers.peers import PeerAddress, family_of

_EACH: Final = 1000  # bytes
_BACKLOG: Final = 4096
_AT_ONCE: Final = 1 << 16


class NoDescriptorsError(RuntimeError):
    """This process may not have as many descriptors as the crowd needs."""


@final
@dataclass(slots=True)
class _Client:
    sock: socket.socket
    wanted: bytes
    has_sent: bool = False
    received: bytearray = field(default_factory=bytearray)


@final
class Crowd:
    """Clients that all connect at once; each sends a text of its own, and should get back that very text."""

    def __init__(self, relay: PeerAddress, target: PeerAddress, count: int) -> None:
        """Listen at the target's address, and begin to connect to the relay.

        :raises OSError: somebody else listens there
        """
        self.ends: Final[Counter[str]] = Counter()
        """How the clients have fared: served, reset, finished, or answered with another's text."""
        self._count = count
        self._epoll = select.epoll()
        self._clients: dict[int, _Client] = {}
        self._behind: dict[int, _Client] = {}
        host, port = target[0], target[1]
        self._listener = socket.create_server((host, port), family=family_of(str(host)), backlog=_BACKLOG)
        self._listener.setblocking(False)
        self._epoll.register(self._listener, select.EPOLLIN)
        for number in range(count):
            sock = socket.socket(self._listener.family)
            sock.setblocking(False)
            sock.connect_ex(relay)
            self._clients[sock.fileno()] = _Client(sock, payload(_EACH, number * _EACH))
            self._epoll.register(sock, select.EPOLLIN | select.EPOLLOUT)

    def step(self) -> bool:
        """Do what can be done now; returns whether every client has come to its end."""
        for fd, events in self._epoll.poll(0):
            if fd == self._listener.fileno():
                self._accept()
            elif fd in self._clients:
                self._serve_client(fd, events)
            elif fd in self._behind:
                self._serve_target(fd)
        return self.ended >= self._count

    @property
    def ended(self) -> int:
        """How many clients have come to their end."""
        return sum(self.ends.values())

    def close(self) -> None:
        """Close everything that is open."""
        for one in (*self._clients.values(), *self._behind.values()):
            one.sock.close()
        self._listener.close()
        self._epoll.close()

    def _accept(self) -> None:
        with suppress(BlockingIOError, ConnectionError):
            while True:
                sock, _ = self._listener.accept()
                sock.setblocking(False)
                self._behind[sock.fileno()] = _Client(sock, b"")
                self._epoll.register(sock, select.EPOLLIN)

    def _serve_client(self, fd: int, events: int) -> None:
        client = self._clients[fd]
        try:
            if events & select.EPOLLOUT and not client.has_sent:
                client.sock.send(client.wanted, socket.MSG_NOSIGNAL)
                client.has_sent = True
                self._epoll.modify(fd, select.EPOLLIN)
            data = client.sock.recv(_AT_ONCE)
        except BlockingIOError:
            return
        except OSError:
            self._end(fd, "reset")
            return
        client.received += data
        if len(client.received) >= _EACH:
            self._end(fd, "served" if client.received == client.wanted else "answered with another's text")
        elif not data:
            self._end(fd, "finished without an answer")

    def _end(self, fd: int, how: str) -> None:
        self.ends[how] += 1
        self._close(self._clients.pop(fd))

    def _serve_target(self, fd: int) -> None:
        one = self._behind[fd]
        try:
            data = one.sock.recv(_AT_ONCE)
            one.received += data
            if len(one.received) == _EACH and data:
                one.sock.send(one.received, socket.MSG_NOSIGNAL)
                return
            is_over = not data
        except BlockingIOError:
            return
        except OSError:
            is_over = True
        if is_over:
            self._close(self._behind.pop(fd))

    def _close(self, one: _Client) -> None:
        # Unregistered first: a child that was forked meanwhile has a copy until it calls exec, and epoll reports that.
        self._epoll.unregister(one.sock)
        one.sock.close()


@contextmanager
def descriptors(count: int) -> Iterator[None]:
    """For the time of a ``with`` block this process may have so many more descriptors.

    :raises NoDescriptorsError: it may not
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        if hard != resource.RLIM_INFINITY and hard < count:
            raise NoDescriptorsError(f"{count} descriptors are needed here, and {hard} are allowed")
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
