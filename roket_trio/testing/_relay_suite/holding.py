"""How much a relay holds: what it has taken from one side, and not given to the kernel for the other one."""

from __future__ import annotations

from typing import Final

from ..._kernel.tcp import unacked_bytes, unread_bytes
from .._census.records import SocketRecord
from .._close_suite.context import CaseContext, is_end_of
from .._peers.wire import Wire

MOST_HELD: Final = 16 << 20
"""How many bytes a relay may hold for one direction of one connection: a generous buffer, and no spool of everything.
HAProxy takes 16 KiB (``tune.bufsize``), nginx 16 KiB (``proxy_buffer_size``), Envoy 1 MiB
(``per_connection_buffer_limit_bytes``)."""


def held_bytes(context: CaseContext, source: Wire, sink: Wire) -> int | None:
    """How many bytes of those that ``source`` has sent are inside the relay: in neither kernel's queue, and not at
    ``sink``. ``None``: its sockets cannot be observed.

    The queues are read one after another. Read while something moves, the number may be wrong by what moves.
    """
    records = context.sockets()
    if records is None:
        return None
    inlet, outlet = _end_of(records, source), _end_of(records, sink)
    if inlet is None or outlet is None:
        return None
    taken = source.timeline.sent_bytes - unacked_bytes(source.sock) - (inlet.unread_bytes or 0)
    passed_on = sink.timeline.received_bytes + unread_bytes(sink.sock) + (outlet.unacked_bytes or 0)
    return max(0, taken - passed_on)


def _end_of(records: list[SocketRecord], wire: Wire) -> SocketRecord | None:
    return next((record for record in records if is_end_of(record, wire)), None)
