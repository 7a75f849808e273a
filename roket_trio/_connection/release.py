"""Releasing a descriptor when the peer has finished, while what it had sent can still be received."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, final

from .._errors import BrokenResourceError, broken
from .._kernel import tcp
from .._kernel.signal_handlers import is_from_kernel
from .._unclosed import is_inherited
from .log import log
from .peer_watch import PeerWatch, watch_peer
from .states import ConnectionEvent, Phase

if TYPE_CHECKING:
    from .connection import Connection

# What is kept in memory at most (bytes). A connection with more unread keeps its descriptor until its reader has come
# closer to the end, so that a slow reader's data stays in the kernel.
KEPT_MOST = 256 << 10

_FINISHED = "the peer has finished, and the connection was released"


@final
class ReleasedSocket(socket.socket):
    """A closed socket that still gives out what it had received: ``recv`` until its end, and then the end itself.

    It is never not ready. Descriptors that had come with the bytes (``SCM_RIGHTS``) were closed.
    """

    __slots__ = ("_closed", "_error", "_kept")

    def __init__(  # not socket's own, which opens a descriptor
        self, closed: socket.socket, kept: bytes, error: OSError | None
    ) -> None:
        self._closed = closed
        self._kept = kept
        self._error = error

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AddressFamily(self._closed.family)

    @property
    def type(self) -> socket.SocketKind:
        return socket.SocketKind(self._closed.type)

    @property
    def proto(self) -> int:
        return self._closed.proto

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        if self._error is not None and not self._kept:
            raise OSError(self._error.errno, self._error.strerror)
        data = self._kept[:bufsize]
        if not flags & socket.MSG_PEEK:
            self._kept = self._kept[len(data) :]
        return data

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0, /) -> int:
        with memoryview(buffer) as view, view.cast("B") as target:
            data = self.recv(nbytes or len(target), flags)
            target[: len(data)] = data
        return len(data)

    def recvmsg(self, bufsize: int, ancbufsize: int = 0, flags: int = 0, /) -> tuple[bytes, list[Any], int, Any]:
        return self.recv(bufsize, flags & socket.MSG_PEEK), [], 0, None


def _take_received(sock: socket.socket, at_once: int) -> tuple[bytes, OSError | None]:
    """Take all that a socket has received, behind whose last byte is FIN or RST; the kernel reports a reset once.

    One call is not enough: each ends at a byte of urgent data (tcp(7)) and behind passed descriptors (unix(7)), and
    SIOCINQ counts to the urgent byte alone.
    """
    received: list[bytes] = []
    error: OSError | None = None
    try:
        while data := sock.recv(at_once):
            received.append(data)
    except OSError as reported:
        if not is_from_kernel(reported):
            raise
        if not isinstance(reported, BlockingIOError):
            error = reported.with_traceback(None)  # else it would keep this frame, and that it
    return b"".join(received), error


def release(connection: Connection) -> bool:
    """Release the descriptor of a connection whose peer has finished.

    :returns: whether it is released or closed; False while a task uses it or more than :data:`KEPT_MOST` is unread
    """
    life = connection.life
    if life.phase is not Phase.LIVE or is_inherited(connection):  # a forked child would take what is its parent's
        return True
    if (
        connection._send_guard.is_taken
        or connection._receive_guard.is_taken
        or not connection.descriptor_users.are_none
    ):
        return False
    unread = tcp.unread_bytes(connection.sock)
    if unread > KEPT_MOST:
        return False
    try:
        _release(connection, unread + 1)
    except BaseException:
        # A signal's handler has raised it. What was taken from the kernel may be lost, so no end may look clean.
        if connection.life.phase is not Phase.RELEASED:
            connection.abort()
        raise
    return True


def _release(connection: Connection, at_once: int) -> None:
    life, sock = connection.life, connection.sock
    kept, error = _take_received(sock, at_once)
    if error is None and connection.accounting.is_tcp and tcp.fin_has_arrived(sock) is False:
        error = OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
    if error is None:
        loss = BrokenResourceError(_FINISHED)
        loss.errno = errno.EPIPE
        life.happened(ConnectionEvent.EOF_RECEIVED)
    else:
        loss = broken("the connection is gone", error)
        life.failed(ConnectionEvent.SEND_FAILED, loss)
    connection.close_now()
    connection.sock = ReleasedSocket(sock, kept, error)
    # Only now if FIN was the end, else the close above would take the connection for one that is gone.
    life.failed(ConnectionEvent.SEND_FAILED, loss)
    life.enter(Phase.RELEASED)


def release_at_fin(connection: Connection, on_release: Callable[[], object] | None) -> PeerWatch:
    """Release the descriptor once the peer has finished; see ``SocketStream.release_at_fin``."""

    def release_and_tell(connection: Connection) -> bool:
        if not release(connection):
            return False
        if on_release is not None:
            try:
                on_release()
            except Exception as error:  # there is no task that could raise it
                log(logging.ERROR, "on_release of a stream failed", error=error)
        return True

    connection.life.check_open()
    return watch_peer(connection, release_and_tell)
