"""Whether, when and how the peer has ended a connection: by FIN or by RST."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING

import anyio

from .._kernel import epoll, poll, tcp
from .._kernel.signal_handlers import is_from_kernel
from .states import ConnectionEvent

if TYPE_CHECKING:
    from .connection import Connection

# How often to look where there is no epoll (seconds).
_CHECK_EVERY = 0.05


async def wait_peer_closed(connection: Connection) -> None:
    """Wait until the peer's FIN or RST has arrived, without receiving data. Any number of tasks may wait.

    :raises ClosedResourceError: the connection was closed on this side, before or meanwhile
    """
    connection.life.check_open()
    await connection.loop.checkpoint()
    connection.life.check_open()
    if connection.life.has_peer_finished:
        return
    try:
        events = epoll.SocketEvents(connection.sock, epoll.PEER_CLOSED) if epoll.AVAILABLE else None
    except OSError as error:
        if not is_from_kernel(error):
            raise
        events = None  # no descriptor is left
    if events is None:
        while not peer_has_finished(connection):
            # Only the receiver may wait for the socket to become readable.
            await anyio.sleep(_CHECK_EVERY)
            connection.life.check_open()
        return
    try:
        readiness = connection.loop.readiness(events.fileno())
        connection._at_close.add(readiness.close)
        try:
            while not events.take():
                await readiness.wait_readable()
        finally:
            connection._at_close.discard(readiness.close)
            readiness.close()
    finally:
        events.close()


def peer_has_finished(connection: Connection) -> bool:
    """Whether the peer's FIN or RST has arrived. Without epoll a FIN behind unread data cannot be seen."""
    if connection.life.has_peer_finished:
        return True
    if epoll.AVAILABLE:
        return poll.peer_has_finished(connection.sock)
    try:
        return not connection.sock.recv(1, socket.MSG_PEEK)
    except OSError as error:
        if isinstance(error, BlockingIOError) and is_from_kernel(error):
            return False
        connection.send_failed(error)  # the kernel reports it only once, so it has to be remembered
        return True


def received_nothing(connection: Connection) -> None:
    """Note that a receive returned no bytes: the peer's FIN, or what is left of a reset that another call has taken.

    :raises BrokenResourceError: the connection is gone, and the peer had not finished
    :raises ClosedResourceError: this side has closed the connection
    """
    life = connection.life
    life.check_open()
    is_fin = tcp.fin_has_arrived(connection.sock) if connection.accounting.is_tcp else None
    if is_fin is None:  # the peer of a UNIX socket has closed it, if a send says EPIPE
        is_fin = life.loss is None or life.loss.errno == errno.EPIPE
    if is_fin:
        life.happened(ConnectionEvent.EOF_RECEIVED)
        return
    if life.loss is None:
        connection.receive_failed(OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)))
    life.happened(ConnectionEvent.RECEIVE_FAILED)
    life.check_receiving()  # raises
