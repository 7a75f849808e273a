"""How a connection ends: the states, the policy, the report. Pure: no socket, no loop, no clock.

A connection has two directions, and each ends on its own; the whole is closed once::

    sending     OPEN ──part of an item, then stopped──▶ CUT ──the transfer resumed──▶ OPEN
                OPEN ──FIN queued──▶ EOF
    receiving   OPEN ──FIN read──▶ EOF
    both        OPEN, CUT ──RST, timeout──▶ RESET    (what had arrived before is still received first)
    the whole   LIVE ──aclose──▶ CLOSING ──descriptor released──▶ CLOSED        LIVE ──abort──▶ CLOSED
                LIVE ──the peer's FIN or RST, if a watch is to release──▶ RELEASED ──aclose, abort──▶ CLOSED

What may happen stands in :data:`SENDING` and :data:`RECEIVING`; a pair that is missing changes nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, final

from .._errors import BrokenResourceError, BusyResourceError, ClosedResourceError
from .._public import public


@public
@final
class CloseOutcome(enum.Enum):
    """How a close ended, as far as the kernel on this side can know."""

    CLEAN = "clean"
    """Both sides sent FIN, and the peer's kernel has acknowledged every byte."""
    ACKED = "acked"
    """The peer's kernel has acknowledged every byte and our FIN; it has not sent its own FIN."""
    UNACKED = "unacked"
    """FIN is queued behind data that the peer's kernel has not acknowledged: it may get it, within bounds, or not."""
    ABORTED = "aborted"
    """This side reset the connection: by ``abort()``, or because a send had been cut."""
    RESET = "reset"
    """The peer reset the connection, or the network lost it, before the close was complete."""


@public
@final
@dataclass(frozen=True, slots=True)
class CloseReport:
    """What is known about a connection at the moment its descriptor was released."""

    outcome: CloseOutcome
    acked: bool
    """Whether the peer's kernel is known to have every byte that was sent."""
    unacked_bytes: int | None
    """How many bytes it may lack; ``None`` where the kernel does not tell."""
    discarded_bytes: int
    """How many bytes of the peer's were dropped unread by the close."""
    peer_closed: bool
    """Whether the peer's FIN was seen."""
    seconds: float
    """How long the close took."""


@public
@final
@dataclass(frozen=True, slots=True)
class ClosePolicy:
    """How long, and for what, ``aclose()`` may wait; and what leaving ``async with`` by an exception does.

    :param linger_seconds: how long ``aclose()`` waits in all, at most; 0 releases at once, without waiting
    :param wait_for_peer: wait for the peer's FIN too, reading and dropping what it still sends (nginx's
        ``lingering_close always``), for early answers to peers that are still sending: closing while their data comes
        in provokes an RST, which destroys the answer that they have not read yet (RFC 9112, section 9.6)
    :param idle_seconds: with ``wait_for_peer``: give up when nothing arrives for so long once all is acknowledged
    :param max_bytes: give up after so many bytes were dropped; ``None`` for no bound but time
    :param on_error: what ``async with stream`` does when an exception other than cancellation leaves it: ``"finish"``
        closes as usual, ``"abort"`` resets, so that the peer cannot take a broken answer for a whole one
    :raises ValueError: a negative time or count, or an unknown ``on_error``
    """

    linger_seconds: float = 1.0
    wait_for_peer: bool = False
    idle_seconds: float = 5.0
    max_bytes: int | None = None
    on_error: Literal["finish", "abort"] = "finish"

    def __post_init__(self) -> None:
        if not self.linger_seconds >= 0:
            raise ValueError(f"linger_seconds must not be negative: {self.linger_seconds}")
        if not self.idle_seconds >= 0:
            raise ValueError(f"idle_seconds must not be negative: {self.idle_seconds}")
        if self.max_bytes is not None and self.max_bytes < 0:
            raise ValueError(f"max_bytes must not be negative: {self.max_bytes}")
        if self.on_error not in ("finish", "abort"):
            raise ValueError(f'on_error must be "finish" or "abort", not {self.on_error!r}')


DEFAULT_POLICY = ClosePolicy()


@final
class Direction(enum.Enum):
    """Whether bytes can go one way, to the peer or from it, and why not."""

    OPEN = enum.auto()
    CUT = enum.auto()
    EOF = enum.auto()
    RESET = enum.auto()


@final
class Phase(enum.Enum):
    """How far the close of a connection has come."""

    LIVE = enum.auto()
    RELEASED = enum.auto()
    """The descriptor is gone, at the peer's end; what had arrived can be received until the close."""
    CLOSING = enum.auto()
    CLOSED = enum.auto()


@final
class ConnectionEvent(enum.Enum):
    """What happens to a connection, seen from this side."""

    SEND_STOPPED = enum.auto()
    """A send stopped after at least one byte of its item and before the last."""
    SEND_RESUMED = enum.auto()
    """The transfer that was stopped goes on from the byte that it had reached."""
    EOF_SENT = enum.auto()
    EOF_RECEIVED = enum.auto()
    SEND_FAILED = enum.auto()
    """A send learnt that the connection is gone (RST, a timeout...). What had arrived before can still be received."""
    RECEIVE_FAILED = enum.auto()
    """A receive learnt that the connection is gone: the queue is empty, and nothing more will come."""
    PROTOCOL_FAILED = enum.auto()
    """What the peer sent is no TLS, or ends it: nothing more can be sent or received, though the socket is open."""


SENDING = {
    (Direction.OPEN, ConnectionEvent.SEND_STOPPED): Direction.CUT,
    (Direction.CUT, ConnectionEvent.SEND_RESUMED): Direction.OPEN,
    (Direction.OPEN, ConnectionEvent.EOF_SENT): Direction.EOF,
    (Direction.OPEN, ConnectionEvent.SEND_FAILED): Direction.RESET,
    (Direction.OPEN, ConnectionEvent.RECEIVE_FAILED): Direction.RESET,
    (Direction.OPEN, ConnectionEvent.PROTOCOL_FAILED): Direction.RESET,
    (Direction.CUT, ConnectionEvent.SEND_FAILED): Direction.RESET,
    (Direction.CUT, ConnectionEvent.RECEIVE_FAILED): Direction.RESET,
}

RECEIVING = {
    (Direction.OPEN, ConnectionEvent.EOF_RECEIVED): Direction.EOF,
    (Direction.OPEN, ConnectionEvent.RECEIVE_FAILED): Direction.RESET,
    (Direction.OPEN, ConnectionEvent.PROTOCOL_FAILED): Direction.RESET,
}


@final
class Lifecycle:
    """Where a connection stands, and what may be done with it there."""

    __slots__ = (
        "_cut",
        "_cut_by",
        "_last_call",
        "_loss",
        "_stop_pieces",
        "may_receive",
        "may_send",
        "phase",
        "receiving",
        "sending",
    )

    def __init__(self, last_call: str = "send_eof()") -> None:
        """:param last_call: the call that sends EOF, for the message about a later send"""
        self.phase: Phase = Phase.LIVE
        # Kept beside the states for the hot path: whether check_sending() and check_receiving() would pass.
        self.may_send: bool = True
        self.may_receive: bool = True
        self.sending: Direction = Direction.OPEN
        self.receiving: Direction = Direction.OPEN
        self._last_call = last_call
        # What was cut, and where.
        self._cut = ""
        self._cut_by: object = None
        self._loss: BrokenResourceError | None = None
        self._stop_pieces: Callable[[], None] | None = None

    def happened(self, event: ConnectionEvent) -> None:
        """Move both directions as the tables say."""
        self.sending = SENDING.get((self.sending, event), self.sending)
        self.receiving = RECEIVING.get((self.receiving, event), self.receiving)
        self._update_permissions()

    def enter(self, phase: Phase) -> None:
        """Note that the close has begun, or is over."""
        if self._stop_pieces is not None:
            self._stop_pieces()
        self.phase = phase
        self._update_permissions()

    def _update_permissions(self) -> None:
        self.may_send = self.phase is Phase.LIVE and self.sending is Direction.OPEN
        self.may_receive = self.is_open and self.receiving is not Direction.RESET

    def close_if_released(self) -> bool:
        """Begin a close: a connection without a descriptor is closed by that. Returns whether nothing is left to do."""
        if self.phase is Phase.RELEASED:
            self.enter(Phase.CLOSED)
        return self.phase is Phase.CLOSED

    def stopped(self, sent: int, total: int | None, by: object = None) -> None:
        """Note that a send stopped after ``sent`` of ``total`` bytes: a cut, unless nothing or everything had gone.

        :param sent: ``~sent`` where an unknown number of bytes may have gone in addition: a cut that is never lifted
        :param by: the only sender that may go on with it (:meth:`resume`)
        """
        if sent and sent != total and self.sending is Direction.OPEN:
            self._cut_by = by if sent > 0 else None
            known = sent if sent > 0 else f"at least {~sent}"
            of = "an unknown number of" if total is None else total
            self.cut(f"an earlier send was stopped after {known} of {of} bytes")

    @contextmanager
    def sending_in_pieces(self, sent: Callable[[], int], total: int | None) -> Iterator[None]:
        """An item of ``total`` bytes is sent by many sends, each of which is whole.

        The item is stopped if the block fails, or if another task closes the connection, also between two sends.

        :param sent: how many bytes have been sent
        :raises BusyResourceError: another item is being sent in pieces
        """

        def stop() -> None:
            self.stopped(sent(), total)

        self.check_between_items()
        self._stop_pieces = stop
        try:
            yield
        except BaseException:
            stop()
            raise
        finally:
            self._stop_pieces = None

    def check_between_items(self) -> None:
        """:raises BusyResourceError: an item is being sent in pieces, so that no clean end may follow yet"""
        if self._stop_pieces is not None:
            raise BusyResourceError("writing to")

    def cut(self, what: str) -> None:
        """Allow no further send, since the peer would not know that something is missing before it.

        :param what: what was stopped, and where, for the error of a later send
        """
        self._cut = what
        self.happened(ConnectionEvent.SEND_STOPPED)

    def resume(self, by: object) -> None:
        """Lift the cut: the sender that was stopped goes on from where it was."""
        if self.sending is Direction.CUT and by is not None and by is self._cut_by:
            self.happened(ConnectionEvent.SEND_RESUMED)

    def failed(self, event: ConnectionEvent, loss: BrokenResourceError) -> None:
        """Note that the connection is gone. The first reason is kept, since the kernel reports it only once.

        :param event: what has failed: ``SEND_FAILED``, ``RECEIVE_FAILED`` or ``PROTOCOL_FAILED``
        """
        self._loss = self._loss or loss
        self.happened(event)

    @property
    def is_open(self) -> bool:
        """Whether this side has not begun to close."""
        return self.phase is Phase.LIVE or self.phase is Phase.RELEASED

    @property
    def is_cut(self) -> bool:
        """Whether the peer must not see a clean end."""
        return self.sending is Direction.CUT

    @property
    def sent_eof(self) -> bool:
        """Whether FIN was sent."""
        return self.sending is Direction.EOF

    @property
    def has_peer_finished(self) -> bool:
        """Whether the peer's FIN was received, or the connection is known to be gone."""
        return self.receiving is not Direction.OPEN or self._loss is not None

    @property
    def has_received_eof(self) -> bool:
        """Whether the peer's FIN was received."""
        return self.receiving is Direction.EOF

    @property
    def loss(self) -> BrokenResourceError | None:
        """Why the connection is gone, if it is."""
        return self._loss

    def check_open(self) -> None:
        """:raises ClosedResourceError: the stream was closed on this side"""
        if not self.is_open:
            raise ClosedResourceError("the stream was closed on this side")

    def check_sending(self) -> None:
        """Check that bytes may be sent.

        :raises ClosedResourceError: the stream was closed on this side
        :raises BrokenResourceError: a send was cut, FIN was sent, or the connection is gone
        """
        if self.may_send:
            return
        self.check_open()
        if self.sending is Direction.CUT:
            raise BrokenResourceError(f"{self._cut}; the peer must not see more")
        if self.sending is Direction.EOF:
            raise BrokenResourceError(f"cannot send after {self._last_call}")
        self._raise_loss()

    def check_receiving(self) -> None:
        """Check that a receive may ask the kernel.

        :raises ClosedResourceError: the stream was closed on this side
        :raises BrokenResourceError: a receive has reported already that the connection is gone
        """
        if self.may_receive:
            return
        self.check_open()
        self._raise_loss()

    def _raise_loss(self) -> None:
        assert self._loss is not None
        again = BrokenResourceError(*self._loss.args)
        again.errno = self._loss.errno
        raise again from self._loss.__cause__
