"""What may be done to the data and the ends that pass a relay in one direction. Pure: pieces in, pieces out.

The names are toxiproxy's where it has one. Times are seconds, sizes bytes.
"""

from __future__ import annotations

import enum
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple, final

from ..._origin import public

_LOOK_AGAIN: Final = 0.005


@final
class End(enum.Enum):
    """What may come instead of data."""

    FIN = "fin"
    """The source has finished: pass it on."""
    CLOSE = "close"
    """Close both sockets as a plain program does: RST where something lies unread, FIN otherwise."""
    RESET = "reset"
    """Reset both."""


class Piece(NamedTuple):
    """Some data, or an end, that is to leave the relay at a time."""

    due: float
    what: bytes | End


class Stage:
    """One toxic at work on one direction of one connection; this one does nothing."""

    is_reading = True
    """Whether the relay may take more from the source."""
    alarm: float | None = None
    """When :meth:`ring` wants to be called; ``None``: never."""

    def take(self, piece: Piece) -> Iterator[Piece]:
        """What becomes of a piece. The order is kept, whatever the times say."""
        yield piece

    def ring(self, now: float, unread_bytes: int) -> End | None:
        """The alarm; ``unread_bytes`` is what waits at the source. An end is carried out at once."""
        self.alarm = None
        return None


class Situation(NamedTuple):
    """What a stage may know where it begins."""

    now: float
    chance: random.Random
    """Its own, so that what it draws depends on nothing else."""
    other_moved_at: Callable[[], float]
    """When something last passed in the other direction."""


@public
class Toxic(ABC):
    """A way to spoil one direction of a connection."""

    @abstractmethod
    def begin(self, situation: Situation) -> Stage:
        """Set to work on one direction of one connection."""


@public
@final
@dataclass(frozen=True)
class Latency(Toxic):
    """Delay everything by ``seconds``, give or take up to ``jitter``."""

    seconds: float
    jitter: float = 0.0

    def begin(self, situation: Situation) -> Stage:
        toxic = self

        class Delays(Stage):
            def take(self, piece: Piece) -> Iterator[Piece]:
                delay = toxic.seconds + situation.chance.uniform(-toxic.jitter, toxic.jitter)
                yield Piece(piece.due + max(0.0, delay), piece.what)

        return Delays()


@public
@final
@dataclass(frozen=True)
class Bandwidth(Toxic):
    """Let through at most ``bytes_per_second``."""

    bytes_per_second: float

    def begin(self, situation: Situation) -> Stage:
        rate = self.bytes_per_second
        at_once = max(1, int(rate / 50))  # pieces of 20 ms

        class Paces(Stage):
            free_at = situation.now

            def take(self, piece: Piece) -> Iterator[Piece]:
                if isinstance(piece.what, End):
                    yield Piece(max(piece.due, self.free_at), piece.what)
                    return
                for start in range(0, len(piece.what), at_once):
                    data = piece.what[start : start + at_once]
                    self.free_at = max(piece.due, self.free_at) + len(data) / rate
                    yield Piece(self.free_at, data)

        return Paces()


@public
@final
@dataclass(frozen=True)
class Slicer(Toxic):
    """Cut data into pieces of ``average_size``, give or take up to ``size_variation``, ``seconds`` apart."""

    average_size: int
    size_variation: int = 0
    seconds: float = 0.0

    def begin(self, situation: Situation) -> Stage:
        toxic = self

        class Slices(Stage):
            due = situation.now

            def take(self, piece: Piece) -> Iterator[Piece]:
                self.due = max(self.due, piece.due)
                if isinstance(piece.what, End):
                    yield Piece(self.due, piece.what)
                    return
                rest = piece.what
                while rest:
                    variation = situation.chance.randint(-toxic.size_variation, toxic.size_variation)
                    size = max(1, toxic.average_size + variation)
                    yield Piece(self.due, rest[:size])
                    rest = rest[size:]
                    self.due += toxic.seconds

        return Slices()


@public
@final
@dataclass(frozen=True)
class LimitData(Toxic):
    """Close the connection once so many bytes have passed."""

    count: int

    def begin(self, situation: Situation) -> Stage:
        return _Limit(self.count, End.CLOSE)


@public
@final
@dataclass(frozen=True)
class OneWayFin(Toxic):
    """Once ``after`` bytes have passed, end this direction with a FIN that the source never sent.

    What the source sends from there on is taken and dropped, and the other direction goes on: each side has its own
    idea of the connection.
    """

    after: int = 0

    def begin(self, situation: Situation) -> Stage:
        return _Limit(self.after, End.FIN, situation.now)


class _Limit(Stage):
    """Lets so many bytes through, then an end, then nothing."""

    def __init__(self, count: int, end: End, alarm: float | None = None) -> None:
        self._left = count
        self._end = end
        self._is_over = False
        self.alarm = alarm if not count else None  # nothing is to come through: no need to wait for data

    def take(self, piece: Piece) -> Iterator[Piece]:
        if self._is_over:
            return
        if isinstance(piece.what, End):
            yield piece
            return
        data = piece.what[: self._left]
        self._left -= len(data)
        if data:
            yield Piece(piece.due, data)
        if not self._left:
            self._is_over = True
            yield Piece(piece.due, self._end)

    def ring(self, now: float, unread_bytes: int) -> End | None:
        self.alarm = None
        self._is_over = True
        return self._end


@public
@final
@dataclass(frozen=True)
class SlowClose(Toxic):
    """Pass on the FIN only after ``seconds``."""

    seconds: float

    def begin(self, situation: Situation) -> Stage:
        delay = self.seconds

        class DelaysFin(Stage):
            def take(self, piece: Piece) -> Iterator[Piece]:
                yield Piece(piece.due + delay, piece.what) if piece.what is End.FIN else piece

        return DelaysFin()


@public
@final
@dataclass(frozen=True)
class SwallowFin(Toxic):
    """Never pass on the FIN: the sink does not learn that the source has finished, as long as this is there."""

    def begin(self, situation: Situation) -> Stage:
        class Swallows(Stage):
            def take(self, piece: Piece) -> Iterator[Piece]:
                if piece.what is not End.FIN:
                    yield piece

        return Swallows()


@public
@final
@dataclass(frozen=True)
class Timeout(Toxic):
    """Let no data through, and close the connection after ``seconds``; ``None``: never."""

    seconds: float | None = None

    def begin(self, situation: Situation) -> Stage:
        return _Silence(None if self.seconds is None else situation.now + self.seconds, End.CLOSE)


@public
@final
@dataclass(frozen=True)
class ResetPeer(Toxic):
    """Let no data through, and reset the connection, on both sides, after ``seconds``."""

    seconds: float = 0.0

    def begin(self, situation: Situation) -> Stage:
        return _Silence(situation.now + self.seconds, End.RESET)


class _Silence(Stage):
    """Lets nothing through, up to an end."""

    def __init__(self, alarm: float | None, end: End) -> None:
        self.alarm = alarm
        self._end = end

    def take(self, piece: Piece) -> Iterator[Piece]:
        return iter(())

    def ring(self, now: float, unread_bytes: int) -> End | None:
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

    def begin(self, situation: Situation) -> Stage:
        toxic = self

        class StopsReading(Stage):
            is_reading = toxic.after > 0
            left = toxic.after
            alarm = situation.now + toxic.seconds if toxic.seconds is not None and not toxic.after else None

            def take(self, piece: Piece) -> Iterator[Piece]:
                if self.left > 0 and not isinstance(piece.what, End):
                    self.left -= len(piece.what)
                    if self.left <= 0:
                        self.is_reading = False
                        self.alarm = piece.due + toxic.seconds if toxic.seconds is not None else None
                yield piece

            def ring(self, now: float, unread_bytes: int) -> End | None:
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

    def begin(self, situation: Situation) -> Stage:
        count = self.count

        class Waits(Stage):
            is_reading = False
            alarm: float | None = situation.now

            def ring(self, now: float, unread_bytes: int) -> End | None:
                if unread_bytes >= count:
                    self.alarm = None
                    return End.CLOSE
                self.alarm = now + _LOOK_AGAIN
                return None

        return Waits()


@public
@final
@dataclass(frozen=True)
class LateReply(Toxic):
    """Hold everything back until ``seconds`` after the last byte, or the FIN, in the other direction."""

    seconds: float

    def begin(self, situation: Situation) -> Stage:
        delay = self.seconds

        class Holds(Stage):
            def take(self, piece: Piece) -> Iterator[Piece]:
                yield Piece(max(piece.due, situation.other_moved_at() + delay), piece.what)

        return Holds()
