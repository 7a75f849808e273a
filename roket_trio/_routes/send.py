"""Sending from memory in fair shares: what the routes do with bytes that they could not keep in the kernel."""

from __future__ import annotations

from collections.abc import Callable

from .._connection.connection import Connection
from .fair_share import scheduler_of


async def send_fairly(connection: Connection, data: memoryview, accepted: Callable[[int], None]) -> None:
    """Send all of ``data``, as the connection's one sender.

    :param accepted: is told each count of bytes that the kernel took, so that an interruption is exact
    :raises OSError: what the system call raised
    :raises ClosedResourceError: another task has closed the connection
    """
    scheduler = scheduler_of(connection.loop)
    while data:
        await scheduler.acquire()
        try:
            connection.life.check_open()  # it may have been closed while this task waited
            count = connection.sock.send(data)
        except BlockingIOError:
            count = 0
        finally:
            scheduler.release()
        if count:
            connection.sent(count)
            accepted(count)
            data = data[count:]
        else:
            await connection.readiness.wait_writable()
