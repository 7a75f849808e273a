"""``Sight``: one census, and what can be told of it beyond single sockets: listeners, pairs, what event loops own."""

from __future__ import annotations

from functools import cached_property
from typing import final

from .._census.census import Census
from .._census.records import SocketRecord
from .referrers import event_loop_descriptors


@final
class Sight:
    """A census of this process. What costs much is found out when it is asked for, and once."""

    def __init__(self, census: Census) -> None:
        self.census = census

    @cached_property
    def inodes(self) -> frozenset[int]:
        return frozenset(record.inode for record in self.census.sockets)

    @cached_property
    def loop_descriptors(self) -> set[int]:
        """Those of the sockets with which event loops of this process wake themselves."""
        return event_loop_descriptors()

    def listener_of(self, record: SocketRecord) -> tuple[SocketRecord | None, bool]:
        """The listener in this process that has accepted a connection, or to which it goes.

        :returns: the listener, and whether the connection was accepted from it
        """
        if record.is_listening:
            return None, False
        for listener in self._listeners:
            if _is_from(record, listener):
                return listener, True
        for listener in self._listeners:
            if record.remote is not None and record.remote in (listener.local, _as_seen_here(listener, record)):
                return listener, False
        return None, False

    @cached_property
    def _listeners(self) -> list[SocketRecord]:
        return [record for record in self.census.sockets if record.is_listening]


def _as_seen_here(listener: SocketRecord, record: SocketRecord) -> tuple[str, int] | None:
    """The address of a listener for every address of this host, as one who connects from here has it."""
    if isinstance(listener.local, tuple) and listener.local[0] in ("0.0.0.0", "::") and isinstance(record.local, tuple):
        return record.local[0], listener.local[1]
    return None


def _is_from(record: SocketRecord, listener: SocketRecord) -> bool:
    """Whether a listener has accepted this connection. If so, they have the same port or path."""
    if isinstance(record.local, tuple) and isinstance(listener.local, tuple):
        return listener.local[1] == record.local[1]
    return bool(record.local) and listener.local == record.local
