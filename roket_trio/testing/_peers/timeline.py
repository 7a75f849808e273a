"""What one end of a connection did and saw, and when."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import monotonic
from typing import Final, Literal, final

from ..._public import public

EventKind = Literal[
    "listening",
    "connected",
    "sent",
    "received",
    "fin sent",
    "fin seen",
    "rst sent",
    "rst seen",
    "stalled",
    "resumed",
    "window shut",
    "vanished",
    "closed",
    "failed",
    "out of bounds",
    "note",
]
"""``fin seen`` and ``rst seen``: the other side's FIN or RST has arrived; the data before it may still be unread.
``window shut``: the other side may send no more until something is received. ``failed``: a call failed for another
reason. ``out of bounds``: a limit of time or bytes ended the script."""

_MAX_EVENTS: Final = 2_000  # of data, and twice as many in all: a hostile program must not fill the memory
_ONE_EVENT: Final = 0.02  # seconds: pieces of data that are no further apart make one event


@public
@final
@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened."""

    at: float
    """When, by ``time.monotonic()``."""
    kind: EventKind
    count: int = 0
    """Bytes."""
    total: int = 0
    """All bytes in that direction so far."""
    detail: str = ""
    until: float = 0.0
    """When the last byte moved, where several pieces make one event; otherwise the same as ``at``."""

    def __str__(self) -> str:
        bytes_ = f" {self.count:,} bytes" if self.count else ""
        total = f" ({self.total:,} in all)" if self.total != self.count else ""
        return f"{self.kind}{bytes_}{total}" + (f": {self.detail}" if self.detail else "")


@public
@final
class Timeline:
    """The events of one connection in their order. One thread writes it; any thread may read it and wait for events."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._changed = threading.Condition()
        self._dropped = 0
        self._totals = {"sent": 0, "received": 0}

    def note(self, kind: EventKind, count: int = 0, detail: str = "") -> None:
        """Add an event that happens now. Data that comes less than 20 ms after other data is added to that event."""
        now = monotonic()
        with self._changed:
            total = count
            if kind in self._totals:
                total = self._totals[kind] = self._totals[kind] + count
            last = self._events[-1] if self._events else None
            if kind in self._totals and last is not None and last.kind == kind and now - last.until < _ONE_EVENT:
                self._events[-1] = replace(last, count=last.count + count, total=total, until=now)
            elif len(self._events) < (_MAX_EVENTS if kind in self._totals else 2 * _MAX_EVENTS):
                self._events.append(Event(now, kind, count, total, detail, now))
            else:
                self._dropped += 1
            self._changed.notify_all()

    @property
    def events(self) -> tuple[Event, ...]:
        """All events so far."""
        with self._changed:
            return tuple(self._events)

    @property
    def dropped(self) -> int:
        """How many events were not kept, since there were too many."""
        return self._dropped

    @property
    def received_bytes(self) -> int:
        return self._totals["received"]

    @property
    def sent_bytes(self) -> int:
        return self._totals["sent"]

    def first(self, kind: EventKind) -> Event | None:
        """The first event of a kind; ``None``: there is none."""
        return next((event for event in self.events if event.kind == kind), None)

    def saw(self, *kinds: EventKind) -> bool:
        """Whether an event of one of these kinds has happened."""
        return any(event.kind in kinds for event in self.events)

    def wait_for(self, *kinds: EventKind, seconds: float) -> Event | None:
        """Wait for the first event of one of these kinds. Blocks the thread.

        :returns: the event; ``None``: it did not come in time
        """
        return self.wait_until(
            lambda: next((event for event in self._events if event.kind in kinds), None), seconds=seconds
        )

    def wait_until(self, condition: Callable[[], Event | None], *, seconds: float) -> Event | None:
        """Wait until ``condition`` returns an event; it is called again after each new event. Blocks the thread.

        :returns: that event; ``None``: there was none in time
        """
        with self._changed:
            return self._changed.wait_for(condition, seconds)

    def __str__(self) -> str:
        events = self.events
        if not events:
            return "nothing happened"
        lines = [f"{event.at - events[0].at:8.3f} s  {event}" for event in events]
        return "\n".join(lines + [f"({self._dropped} more events)"] * bool(self._dropped))
