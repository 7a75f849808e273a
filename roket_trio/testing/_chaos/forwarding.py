"""One connection of a relay: two sockets, the flow of data between them in each direction, and the toxics on it."""

from __future__ import annotations

import select
import socket
from collections import deque
from contextlib import suppress
from time import monotonic
from typing import Final, Literal, final

from ..._kernel.tcp import discard_on_close, unread_bytes
from .._peers.timeline import Timeline
from .toxics import Chunk, RelayEnd, RelayStage

Direction = Literal["upstream", "downstream"]
"""``upstream`` is what the client sends, ``downstream`` what it gets."""

_AT_ONCE: Final = 1 << 16
_HELD: Final = 1 << 18  # bytes in one direction: more is left in the source's socket, so that senders feel it


@final
class RelaySocket:
    """One socket of a connection."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.has_hung_up = False


@final
class Flow:
    """One direction of a connection: what was taken from its source and has not gone to its sink yet."""

    def __init__(self, source: RelaySocket, sink: RelaySocket) -> None:
        self.source: Final = source
        self.sink: Final = sink
        self.timeline: Final = Timeline()
        self.stages: dict[str, RelayStage] = {}
        """The toxics at work, by name, in the order in which they were added."""
        self.queue: deque[Chunk] = deque()
        self.moved_at = monotonic()
        """When something last came from the source."""
        self.is_source_over = self.is_sink_over = self.is_sink_full = False

    @property
    def is_full(self) -> bool:
        return sum(len(chunk.what) for chunk in self.queue if not isinstance(chunk.what, RelayEnd)) >= _HELD

    @property
    def is_reading(self) -> bool:
        return not self.is_source_over and not self.is_full and all(s.is_reading for s in self.stages.values())

    @property
    def is_over(self) -> bool:
        return self.is_source_over and self.is_sink_over

    def next_due(self) -> float | None:
        """When there is something to do even if no socket becomes ready; ``None``: never."""
        times = [stage.alarm for stage in self.stages.values() if stage.alarm is not None]
        if self.queue and not self.is_sink_full:
            times.append(self.queue[0].due)
        return min(times, default=None)

    def take(self, what: bytes | RelayEnd, now: float) -> None:
        """Pass something through the toxics, in the order in which they were added."""
        chunks = [Chunk(now, what)]
        for stage in self.stages.values():
            chunks = [after for chunk in chunks for after in stage.take(chunk)]
        last = self.queue[-1].due if self.queue else 0.0
        for chunk in chunks:
            last = max(last, chunk.due)
            self.queue.append(Chunk(last, chunk.what))

    def remove_stage(self, name: str, now: float) -> None:
        """Take a toxic away. What it held goes on now, and a FIN that it swallowed is passed on after all."""
        if self.stages.pop(name, None) is None:
            return
        self.queue = deque(Chunk(now, chunk.what) for chunk in self.queue)
        if self.is_source_over and not self.is_sink_over and not any(isinstance(c.what, RelayEnd) for c in self.queue):
            self.take(RelayEnd.FIN, now)


@final
class ForwardedConnection:
    """Two sockets and the two flows between them. Of the relay's thread."""

    def __init__(self, number: int, client: socket.socket, server: socket.socket) -> None:
        self.number: Final = number
        """How many connections there were before it."""
        self.sides: Final = (RelaySocket(client), RelaySocket(server))
        self.upstream: Final = Flow(*self.sides)
        self.downstream: Final = Flow(*reversed(self.sides))
        self.flows: Final = (self.upstream, self.downstream)
        self.is_over = False
        for flow in self.flows:
            flow.timeline.note("connected")

    def end(self, end: RelayEnd) -> None:
        """Close or reset both sockets."""
        self.is_over = True
        for flow in self.flows:
            flow.timeline.note("rst sent" if end is RelayEnd.RESET else "closed")
        for side in self.sides:
            if end is RelayEnd.RESET:
                discard_on_close(side.sock)
            side.sock.close()

    def register(self, poll: select.poll) -> None:
        """Have ``poll`` wait for what this connection can go on with."""
        for side in self.sides:
            events = 0
            for flow in self.flows:
                if flow.source is side and flow.is_reading:
                    events |= select.POLLIN
                if flow.sink is side and flow.is_sink_full:
                    events |= select.POLLOUT
            # A socket with both FINs reports POLLHUP for good; one that nobody reads from is watched for a RST only.
            if events or not side.has_hung_up:
                poll.register(side.sock, events)

    def next_due(self) -> float | None:
        """When there is something to do even if no socket becomes ready; ``None``: never."""
        times = [due for flow in self.flows if (due := flow.next_due()) is not None]
        return min(times, default=None)

    def forward(self, ready: dict[int, int]) -> None:
        """Move what can be moved.

        :param ready: the events of each descriptor, as ``poll`` returned them
        """
        events = {side: ready.get(side.sock.fileno(), 0) for side in self.sides}
        for flow in self.flows:
            seen = events[flow.source]
            flow.source.has_hung_up |= bool(seen & (select.POLLERR | select.POLLHUP))
            self._call_alarms(flow)
            if not self.is_over and flow.is_reading:
                if seen & (select.POLLIN | select.POLLERR | select.POLLHUP):
                    self._read(flow)
            elif not self.is_over and seen & select.POLLERR and not flow.is_full:
                self._lost(flow.source)  # nothing is going to be read that came before the error
            if not self.is_over:
                self._write(flow)
            if self.is_over:
                return
        if all(flow.is_over for flow in self.flows):
            self.end(RelayEnd.CLOSE)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _lost(self, side: RelaySocket) -> None:
        """One end is gone without a FIN, so the other is reset too."""
        for flow in self.flows:
            if flow.source is side:
                flow.timeline.note("rst seen")
        self.end(RelayEnd.RESET)

    def _call_alarms(self, flow: Flow) -> None:
        now = monotonic()
        for stage in flow.stages.values():
            if stage.alarm is None or stage.alarm > now:
                continue
            end = stage.on_alarm(now, unread_bytes(flow.source.sock))
            if end is RelayEnd.FIN:
                flow.queue.append(Chunk(now, RelayEnd.FIN))
            elif end is not None:
                self.end(end)
                return

    def _read(self, flow: Flow) -> None:
        try:
            data = flow.source.sock.recv(_AT_ONCE)
        except BlockingIOError:
            return
        except OSError:
            self._lost(flow.source)
            return
        flow.moved_at = monotonic()
        if data:
            flow.timeline.note("received", len(data))
            flow.take(data, flow.moved_at)
        else:
            flow.is_source_over = True
            flow.timeline.note("fin seen")
            flow.take(RelayEnd.FIN, flow.moved_at)

    def _write(self, flow: Flow) -> None:
        flow.is_sink_full = False
        now = monotonic()
        while flow.queue and flow.queue[0].due <= now and not flow.is_sink_full:
            due, what = flow.queue.popleft()
            if isinstance(what, bytes):
                if flow.is_sink_over:  # a toxic has ended this direction: the rest is dropped
                    continue
                try:
                    sent = flow.sink.sock.send(what, socket.MSG_NOSIGNAL)
                except BlockingIOError:
                    sent = 0
                except OSError:
                    self._lost(flow.sink)
                    return
                if sent:
                    flow.timeline.note("sent", sent)
                if sent < len(what):
                    flow.queue.appendleft(Chunk(due, what[sent:]))
                    flow.is_sink_full = True
            elif what is RelayEnd.FIN:
                if not flow.is_sink_over:
                    flow.is_sink_over = True
                    flow.timeline.note("fin sent")
                    with suppress(OSError):  # it is gone, and the next read from it says so
                        flow.sink.sock.shutdown(socket.SHUT_WR)
            else:
                self.end(what)
                return
