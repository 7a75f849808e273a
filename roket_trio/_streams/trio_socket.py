"""Trio's ``.socket`` of a stream or listener: a Trio socket over the descriptor that it has, or that it was made of."""

from __future__ import annotations

from socket import SOCK_STREAM
from socket import socket as RawSocket
from typing import TYPE_CHECKING

import trio

from .adopted import check_protocol


class HasTrioSocket:
    """Mixed into what has a ``_raw_socket``: Trio's libraries read the addresses and options from ``.socket``."""

    _trio_socket: trio.socket.SocketType | None = None

    if TYPE_CHECKING:

        @property
        def _raw_socket(self) -> RawSocket: ...

    @property
    def socket(self) -> trio.socket.SocketType:
        """A Trio socket over the same descriptor, to ask for names and options and to set options.

        It is the same object each time, it does not own the descriptor, and after the close its ``fileno()`` is -1, as
        Trio's is. Its methods that are not async work on each loop, its async ones under Trio alone. What is sent or
        received through it is not counted, so leave that, ``shutdown`` and ``close`` to the stream.

        :raises TypeError: the socket is an instance of a subclass of ``socket.socket``, which Trio does not take
        """
        if self._trio_socket is None:
            self._trio_socket = _trio_socket_over(self._raw_socket)
        return self._trio_socket


def _trio_socket_over(sock: RawSocket) -> trio.socket.SocketType:
    if sock.fileno() >= 0:
        return trio.socket.from_stdlib_socket(sock)
    # Trio makes none over a socket that is closed, so this is one of the same kind, which is closed then.
    with RawSocket(sock.family, sock.type, sock.proto) as another:
        return trio.socket.from_stdlib_socket(another)


def raw_socket_below(sock: object, owner: str) -> RawSocket:
    """The socket under a Trio socket that is handed over, with Trio's words where Trio checks the same.

    :raises TypeError: it is no Trio socket, or one that is not over the system's
    :raises ValueError: it is closed, or neither TCP nor UNIX
    """
    if not isinstance(sock, trio.socket.SocketType):
        raise TypeError(f"{owner} requires a Trio socket object")
    if sock.type != SOCK_STREAM:
        raise ValueError(f"{owner} requires a SOCK_STREAM socket")
    # Trio has no public name for it. With detach() the Trio socket, which the program may go on using, would be closed.
    raw = getattr(sock, "_sock", None)
    if not isinstance(raw, RawSocket):
        raise TypeError(f"{owner} requires a Trio socket over a socket of the system, not {type(sock).__name__}")
    if raw.fileno() < 0:
        raise ValueError(f"{owner} requires a socket that is open")
    check_protocol(raw)
    return raw
