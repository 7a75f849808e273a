"""The time limits of a connection: ``--idle-timeout``, and a peer that has vanished from the network."""

from __future__ import annotations

import sys
from math import inf

import anyio
from anyio.abc import SocketAttribute

from ..._connection.idle_clock import IdleClock
from ..._kernel.tcp import unacked_bytes, unanswered_seconds
from ..console.command_status import CommandStatus
from ..console.exit_codes import CommandError, ExitCode
from .command_connection import CommandConnection

# A peer has vanished when it has acknowledged nothing for so long, through retransmissions (seconds).
_VANISHED = 60.0

# The connection is looked at at least so often (seconds).
_CHECK_EVERY = 1.0


async def enforce_time_limits(connection: CommandConnection, status: CommandStatus, idle_seconds: float | None) -> None:
    """Watch a connection until it is closed, or this call is cancelled.

    :param idle_seconds: for how long no byte may move, unless this side is the reason; ``None``: for ever
    :raises CommandError: no byte has moved for too long, or the peer has vanished
    """
    sock = connection.socket.extra(SocketAttribute.raw_socket)
    limit = inf if idle_seconds is None else idle_seconds
    clock = IdleClock(limit, None, anyio.current_time())
    while True:
        await anyio.sleep(min(max(0.0, clock.due - anyio.current_time()), _CHECK_EVERY))
        if sock.fileno() == -1:
            return
        now = anyio.current_time()
        queued = unacked_bytes(sock) if sys.platform == "linux" else 0
        figure = (status.moved(), queued)
        if status.waits_for_local and not queued:
            clock.restart(figure, now)
        elif clock.is_over(figure, now):
            raise CommandError(ExitCode.TIMEOUT, f"nothing moved for {limit:g} s")
        if not connection.is_unix and unanswered_seconds(sock) > min(limit, _VANISHED):
            raise CommandError(ExitCode.TIMEOUT, f"{connection.peer} has vanished: it acknowledges nothing any more")
