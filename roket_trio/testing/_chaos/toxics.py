"""Toxics: what a relay may do to the data, and to the ends of data, that pass it in one direction. Pure.

The names are toxiproxy's where it has one. Times are seconds, sizes bytes.
"""

from __future__ import annotations

import enum
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple, final

from ..._public import public

_LOOK_AGAIN: Final = 0.005


@final
class RelayEnd(enum.Enum):
    """What may come instead of data."""

    FIN = "fin"
    """The source has finished: pass it on."""
    CLOSE = "close"
    """Close both sockets as a plain program does: RST where something lies unread, FIN otherwise."""
    RESET = "reset"
    """Reset both."""


class Chunk(NamedTuple):
    """Some data, or an end of the data, on its way through the relay."""

    due: float
    """When it may leave the relay."""
    what: bytes | RelayEnd


class RelayStage:
    """One toxic at work on one direction of one connection. This base class lets everything pass."""

    is_reading = True
    """Whether the relay may take more from the source."""
    alarm: float | None = None
    """When :meth:`on_alarm` is to be called; ``None``: never."""

    def take(self, chunk: Chunk) -> Iterator[Chunk]:
        """The chunks that one chunk becomes. They leave in this order, whatever their times are."""
        yield chunk

    def on_alarm(self, now: float, unread_bytes: int) -> RelayEnd | None:
        """Called when the time of :attr:`alarm` has come.

        :param unread_bytes: how many bytes wait at the source
        :returns: an end to carry out at once; ``None``: none
        """
        self.alarm = None
        return None


class StageContext(NamedTuple):
    """What a stage may know when it begins."""

    now: float
    chance: random.Random
    """A generator of its own, so that what it draws depends on nothing else."""
    other_moved_at: Callable[[], float]
    """When something last passed in the other direction."""


@public
class Toxic(ABC):
    """A way to spoil one direction of a connection."""

    @abstractmethod
    def begin(self, context: StageContext) -> RelayStage:
        """Begin to work on one direction of one connection."""


@public
@final
@dataclass(frozen=True)
class Latency(Toxic):
    """Delay everything by ``seconds``, give or take up to ``jitter``."""

    seconds: float
    jitter: float = 0.0

    def begin(self, context: StageContext) -> RelayStage:
        toxic = self

        class Delays(RelayStage):
            def take(self, chunk: Chunk) -> Iterator[Chunk]:
                delay = toxic.seconds + context.chance.uniform(-toxic.jitter, toxic.jitter)
                yield Chunk(chunk.due + max(0.0, delay), chunk.what)

        return Delays()


@public
@final
@dataclass(frozen=True)
class Bandwidth(Toxic):
    """Let through at most ``bytes_per_second``."""

    bytes_per_second: float

    def begin(self, context: StageContext) -> RelayStage:
        rate = self.bytes_per_second
        at_once = max(1, int(rate / 50))  # chunks of 20 ms

        class LimitsRate(RelayStage):
            free_at = context.now

            def take(self, chunk: Chunk) -> Iterator[Chunk]:
                if isinstance(chunk.what, RelayEnd):
                    yield Chunk(max(chunk.due, self.free_at), chunk.what)
                    return
                for start in range(0, len(chunk.what), at_once):
                    data = chunk.what[start : start + at_once]
                    self.free_at = max(chunk.due, self.free_at) + len(data) / rate
                    yield Chunk(self.free_at, data)

        return LimitsRate()


@public
@final
@dataclass(frozen=True)
class Slicer(Toxic):
    """Cut data into chunks of ``average_size``, give or take up to ``size_variation``, ``seconds`` apart."""

    average_size: int
    size_variation: int = 0
    seconds: float = 0.0

    def begin(self, context: StageContext) -> RelayStage:
        toxic = self

        class Slices(RelayStage):
            due = context.now

            def take(self, chunk: Chunk) -> Iterator[Chunk]:
                self.due = max(self.due, chunk.due)
                if isinstance(chunk.what, RelayEnd):
                    yield Chunk(self.due, chunk.what)
                    return
                rest = chunk.what
                while rest:
                    variation = context.chance.randint(-toxic.size_variation, toxic.size_variation)
                    size = max(1, toxic.average_size + variation)
                    yield Chunk(self.due, rest[:size])
                    rest = rest[size:]
                    self.due += toxic.seconds

        return Slices()


@public
@final
@dataclass(frozen=True)
class LimitData(Toxic):
    """Close the connection once so many bytes have passed."""

    count: int

    def begin(self, context: StageContext) -> RelayStage:
        return _Limit(self.count, RelayEnd.CLOSE)


@public
@final
@dataclass(frozen=True)
class OneWayFin(Toxic):
    """Once ``after`` bytes have passed, end this direction with a FIN that the source never sent.

    What the source sends from there on is taken and dropped, and the other direction goes on: each side has its own
    idea of the connection.
    """

    after: int = 0

    def begin(self, context: StageContext) -> RelayStage:
        return _Limit(self.after, RelayEnd.FIN, context.now)


class _Limit(RelayStage):
    """Lets a number of bytes pass, then an end, then nothing."""

    def __init__(self, count: int, end: RelayEnd, alarm: float | None = None) -> None:
        self._left = count
        self._end = end
        self._is_over = False
        self.alarm = alarm if not count else None  # nothing is to come through: no need to wait for data

    def take(self, chunk: Chunk) -> Iterator[Chunk]:
        if self._is_over:
            return
        if isinstance(chunk.what, RelayEnd):
            yield chunk
            return
        data = chunk.what[: self._left]
        self._left -= len(data)
        if data:
            yield Chunk(chunk.due, data)
        if not self._left:
            self._is_over = True
            yield Chunk(chunk.due, self._end)

    def on_alarm(self, now: float, unread_bytes: int) -> RelayEnd | None:
        self.alarm = None
        self._is_over = True
        return self._end


@public
@final
@dataclass(frozen=True)
class SlowClose(Toxic):
    """Pass on the FIN only after ``seconds``."""

    seconds: float

    def begin(self, context: StageContext) -> RelayStage:
        delay = self.seconds

        class DelaysFin(RelayStage):
            def take(self, chunk: Chunk) -> Iterator[Chunk]:
                yield Chunk(chunk.due + delay, chunk.what) if chunk.what is RelayEnd.FIN else chunk

        return DelaysFin()


@public
@final
@dataclass(frozen=True)
class SwallowFin(Toxic):
    """Never pass on the FIN: the sink does not learn that the source has finished, as long as this is there."""

    def begin(self, context: StageContext) -> RelayStage:
        class Swallows(RelayStage):
            def take(self, chunk: Chunk) -> Iterator[Chunk]:
                if chunk.what is not RelayEnd.FIN:
                    yield chunk

        return Swallows()


@public
@final
@dataclass(frozen=True)
class Timeout(Toxic):
    """Let no data through, and close the connection after ``seconds``; ``None``: never."""

    seconds: float | None = None

    def begin(self, context: StageContext) -> RelayStage:
        return _Silence(None if self.seconds is None else context.now + self.seconds, RelayEnd.CLOSE)


@public
@final
@dataclass(frozen=True)
class ResetPeer(Toxic):
    """Let no data through, and reset the connection, on both sides, after ``seconds``."""

    seconds: float = 0.0

    def begin(self, context: StageContext) -> RelayStage:
        return _Silence(context.now + self.seconds, RelayEnd.RESET)


class _Silence(RelayStage):
    """Lets nothing pass, and ends the connection at its alarm."""

    def __init__(self, alarm: float | None, end: RelayEnd) -> None:
        self.alarm = alarm
        self._end = end

    def take(self, chunk: Chunk) -> Iterator[Chunk]:
        return iter(())

    def on_alarm(self, now: float, unread_bytes: int) -> RelayEnd | None:
        self.alarm = None
        return self._end


@public
@final
@dataclass(frozen=True)
class ZeroWindow(Toxic):
    """Once ``after`` bytes have passed take nothing from the source for ``seconds``; ``None``: never again.

    The source's window shuts once the relay's receive buffer is full: give the relay a small ``receive_buffer``.
    """

    seconds: float | None = None
    after: int = 0

    def begin(self, context: StageContext) -> RelayStage:
        toxic = self

        class StopsReading(RelayStage):
            is_reading = toxic.after > 0
            left = toxic.after
            alarm = context.now + toxic.seconds if toxic.seconds is not None and not toxic.after else None

            def take(self, chunk: Chunk) -> Iterator[Chunk]:
                if self.left > 0 and not isinstance(chunk.what, RelayEnd):
                    self.left -= len(chunk.what)
                    if self.left <= 0:
                        self.is_reading = False
                        self.alarm = chunk.due + toxic.seconds if toxic.seconds is not None else None
                yield chunk

            def on_alarm(self, now: float, unread_bytes: int) -> RelayEnd | None:
                self.alarm = None
                self.is_reading = True
                return None

        return StopsReading()


@public
@final
@dataclass(frozen=True)
class UnreadThenClose(Toxic):
    """Take nothing from the source, and close both sides once ``count`` bytes lie unread: the source gets a RST."""

    count: int = 1

    def begin(self, context: StageContext) -> RelayStage:
        count = self.count

        class Waits(RelayStage):
            is_reading = False
            alarm: float | None = context.now

            def on_alarm(self, now: float, unread_bytes: int) -> RelayEnd | None:
                if unread_bytes >= count:
                    self.alarm = None
                    return RelayEnd.CLOSE
                self.alarm = now + _LOOK_AGAIN
                return None

        return Waits()


@public
@final
@dataclass(frozen=True)
class LateReply(Toxic):
    """Hold everything back until ``seconds`` after the last byte, or the FIN, in the other direction."""

    seconds: float

    def begin(self, context: StageContext) -> RelayStage:
        delay = self.seconds

        class Holds(RelayStage):
            def take(self, chunk: Chunk) -> Iterator[Chunk]:
                yield Chunk(max(chunk.due, context.other_moved_at() + delay), chunk.what)

        return Holds()
