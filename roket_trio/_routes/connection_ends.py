"""A socket of ours as the source or the sink of the plain loop."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import final

from .._connection.connection import Connection
from .._connection.peer_end import received_nothing
from .._kernel.signal_handlers import is_from_kernel
from .ends import Reader, Writer
from .fair_share import scheduler_of


@final
class ConnectionReader(Reader):
    """Receives from a connection."""

    __slots__ = ("peeks",)

    connection: Connection

    def __init__(self, connection: Connection) -> None:
        self.name = "the source"
        self.connection = connection
        self.offset = self.path = self.total = None
        # Whether bytes are left in the socket until the sink has them: the sink is a pipe, which may never take them.
        self.peeks = False

    @property
    def failure(self) -> str:
        return "the source is gone"

    def receiving(self) -> AbstractContextManager[None]:
        return self.connection.receiving()

    def read_now(self, size: int) -> memoryview | None:
        connection = self.connection
        connection.life.check_open()  # another task may have closed it while this one waited
        try:
            count = connection.sock.recv_into(self._buffer[:size], 0, socket.MSG_PEEK if self.peeks else 0)
        except BlockingIOError as error:
            if not is_from_kernel(error):
                raise
            return None
        if count and not self.peeks:
            self.connection.received(count)
        return self.filled(count)

    async def read(self, size: int) -> memoryview | None:
        await self.connection.readiness.wait_readable()
        return None

    def confirm(self) -> None:
        if self.peeks:
            self.connection.life.check_open()

    def accepted(self, count: int) -> None:
        if self.peeks:
            self.connection.sock.recv_into(self._buffer, count)
            self.connection.received(count)

    def has_again(self, count: int) -> bool:
        return self.peeks

    def check_end(self) -> None:
        received_nothing(self.connection)

    def lost(self, error: OSError) -> Exception | None:
        return self.connection.receive_failed(error)


@final
class ConnectionWriter(Writer):
    """Sends to a connection. The whole transfer is one item, so that an interruption cuts the connection."""

    __slots__ = ()

    connection: Connection

    def __init__(self, connection: Connection) -> None:
        self.name = "the sink"
        self.connection = connection
        self.offset = self.path = None
        self.is_exact = True

    @property
    def failure(self) -> str:
        return "the sink is gone"

    def sending(self, total: int | None, moved: int) -> AbstractContextManager[None]:
        return self.connection.sending(total, sent=moved, by=self)

    async def write(self, data: memoryview, accepted: Callable[[int], None]) -> None:
        connection = self.connection
        scheduler = scheduler_of(connection.loop)
        await scheduler.acquire()
        try:
            connection.life.check_open()  # another task may have closed it while this one waited
            count = connection.accounting.send_part(connection.sock.send, data)
        finally:
            scheduler.release()
        if count is None:
            await connection.readiness.wait_writable()
        else:
            accepted(count)

    def lost(self, error: OSError) -> Exception | None:
        return self.connection.send_failed(error)
