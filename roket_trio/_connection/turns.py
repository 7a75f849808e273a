"""The right to send on a connection, and the right to receive: each is one task's at a time, for a ``with`` block."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, final

from .._errors import BusyResourceError

if TYPE_CHECKING:
    from .connection import Connection


@final
class Sending:
    """One item that is being sent; see :meth:`Connection.sending`."""

    __slots__ = ("_by", "_connection", "_sent", "_total")

    def __init__(self, connection: Connection, total: int | None, sent: int, by: object) -> None:
        self._connection = connection
        self._total = total
        self._sent = sent
        self._by = by

    def __enter__(self) -> None:
        connection = self._connection
        if self._sent and not connection._is_sending:
            connection.life.resume(self._by)
        connection.life.check_sending()
        if connection._is_sending:
            raise BusyResourceError("sending to")
        connection._is_sending = True
        connection._item_sent = self._sent
        connection._item_total = self._total

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection._is_sending = False
        if exc_type is not None:
            self._connection._item_stopped(exc_type, self._by)


@final
class Receiving:
    """The right to receive; see :meth:`Connection.receiving`."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        connection = self._connection
        connection.life.check_receiving()
        if connection._is_receiving:
            raise BusyResourceError("receiving from")
        connection._is_receiving = True

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection._is_receiving = False
