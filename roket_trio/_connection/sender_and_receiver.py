"""The sender and the receiver of a connection: one task each at a time, for the length of a ``with`` block."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from .connection import Connection


@final
class Sending:
    """The block in which one item is sent; see :meth:`Connection.sending`."""

    __slots__ = ("_by", "_connection", "_sent", "_total")

    def __init__(self, connection: Connection, total: int | None, sent: int, by: object) -> None:
        self._connection = connection
        self._total = total
        self._sent = sent
        self._by = by

    def __enter__(self) -> None:
        connection = self._connection
        guard, life = connection._send_guard, connection.life
        if self._sent and not guard.is_taken:
            life.resume(self._by)
        if not life.may_send:
            life.check_sending()
        if guard.is_taken:
            guard.check()
        guard.is_taken = True
        accounting = connection.accounting
        accounting.item_sent = self._sent
        accounting.item_total = self._total

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        connection = self._connection
        if exc_type is not None:
            try:
                connection.accounting.item_stopped(connection.life, self._by)
            except BaseException:  # of a second signal's handler. After a third the guard stays taken: no FIN is sent.
                connection.accounting.item_stopped(connection.life, self._by)
                connection._send_guard.is_taken = False
                raise
        connection._send_guard.is_taken = False


@final
class Receiving:
    """The block in which a task receives; see :meth:`Connection.receiving`."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        connection = self._connection
        connection.life.check_receiving()
        guard = connection._receive_guard
        if guard.is_taken:
            guard.check()
        guard.is_taken = True

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection._receive_guard.is_taken = False
