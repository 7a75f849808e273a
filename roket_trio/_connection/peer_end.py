"""Whether, when and how the peer has ended a connection: by FIN or by RST."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING

from .._kernel import epoll, poll, tcp
from .._kernel.signal_handlers import is_from_kernel
from .states import ConnectionEvent, Phase

if TYPE_CHECKING:
    from .connection import Connection


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
    if life.phase is Phase.RELEASED:  # a reset would have been raised
        return
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
