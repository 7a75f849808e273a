"""What one connection has given to the kernel to send: of the item under way, and in all."""

from __future__ import annotations

import socket
from typing import final

from .._kernel import tcp
from .._kernel.sent_bytes import SentBytes
from .._kernel.tcp import TCPState
from .states import Lifecycle

FIN_UNACKED = (TCPState.FIN_WAIT1, TCPState.CLOSING, TCPState.LAST_ACK)


def is_tcp(sock: socket.socket) -> bool:
    """Whether ``sock`` speaks TCP; otherwise it is a UNIX socket, which has neither ACK nor RST."""
    return sock.family in (socket.AF_INET, socket.AF_INET6)


@final
class SendAccounting(SentBytes):
    """What was given to the kernel to send, and so what the peer's kernel may still lack, even after a reset."""

    __slots__ = ("_before", "is_answered", "is_exact", "is_tcp", "item_total")

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        self.item_total: int | None = 0
        """The length of the item that is being sent; ``None``: unknown beforehand."""
        self.is_exact: bool = True
        """Whether every system call's bytes were counted; an exception may come before the count."""
        self.is_answered: bool = False
        """Whether the peer is to answer what was sent last, before its FIN."""
        self.is_tcp: bool = is_tcp(sock)  # kept: to ask the socket takes 2 µs
        acked = tcp.acked_bytes(sock) if self.is_tcp else None
        # A socket that is handed over may have sent before: what was acknowledged until now plus what is queued.
        self._before = None if acked is None else acked + tcp.unacked_bytes(sock)

    def expect_answer(self) -> None:
        """Note that the peer is to answer what is sent last, so that the close waits a moment for that."""
        self.is_answered = True

    def unacked(self, sock: socket.socket) -> int | None:
        """Bytes of ours that the peer's kernel has not acknowledged; our FIN does not count. ``None``: unknown."""
        if not self.is_tcp:
            return 0  # a UNIX socket's send puts the bytes into the peer's own queue
        if self._before is None:
            return None
        if sock.fileno() < 0:  # it was closed by other code
            return None
        state = tcp.tcp_state(sock)
        if state == TCPState.CLOSE:  # the queue is gone; the counter is not, and may count our FIN
            if not self.is_exact:
                return None
            return max(0, self._before + self.sent_bytes - (tcp.acked_bytes(sock) or 0))
        queued = tcp.unacked_bytes(sock)
        return queued - 1 if queued and state in FIN_UNACKED else queued

    def item_stopped(self, life: Lifecycle, by: object = None) -> None:
        """An exception ends the current send. It is a cut unless nothing or everything is known to have been sent."""
        if self.item_sent < 0:
            self.is_exact = False
        life.stopped(self.item_sent, self.item_total, by)
