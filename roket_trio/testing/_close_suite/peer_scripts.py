"""What the peers of the close suite do in its cases, each a script for one connection."""

from __future__ import annotations

from typing import Final

from .._peers.payload import payload
from .._peers.wire import Wire
from .context import CaseContext

UPLOAD: Final = 100_000  # bytes, of what is sent in one direction
_UNREAD: Final = 20_000


def finishes(wire: Wire, context: CaseContext) -> None:
    wire.half_close()
    wire.receive(seconds=context.patience)


def sends_and_finishes(wire: Wire, context: CaseContext) -> None:
    wire.send(payload(UPLOAD))
    finishes(wire, context)


def listens(wire: Wire, context: CaseContext) -> None:
    wire.receive(seconds=context.patience)
    wire.half_close()


def replies_late(wire: Wire, context: CaseContext) -> None:
    wire.receive(seconds=context.within)
    wire.stall(1.0)
    wire.send(payload(UPLOAD))
    wire.stall(0.8)
    finishes(wire, context)


def answers_and_finishes(wire: Wire, context: CaseContext) -> None:
    wire.receive_until(b"\r\n\r\n")
    wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    wire.stall(0.3)
    finishes(wire, context)


def leaves_something_unread(wire: Wire, context: CaseContext) -> None:
    wire.send(payload(_UNREAD))
    wire.wait_acked(context.within)
    context.feed()
    wire.wait_gone(0.3)  # the program closes before anything of its is received
    wire.receive(seconds=context.patience)


def reads_late(wire: Wire, context: CaseContext) -> None:
    context.feed()
    wire.stall(1.2)
    wire.receive(seconds=context.patience)


def swallows_the_fin(wire: Wire, context: CaseContext) -> None:
    context.feed()
    wire.receive(seconds=context.patience)
    context.wait_released(wire, context.within)


def uploads_and_reads_at_the_end(wire: Wire, context: CaseContext) -> None:
    wire.send(payload(10_000_000), seconds=context.patience)
    wire.half_close()
    wire.receive(seconds=context.patience)


def reads_after_a_while(wire: Wire, context: CaseContext) -> None:
    wire.stall(1.0)
    wire.receive(seconds=context.patience)


def reads_once_it_is_released(wire: Wire, context: CaseContext) -> None:
    wire.stall(0.5)
    context.wait_released(wire, context.within)
    wire.receive(seconds=context.patience)


def waits_for_the_end(wire: Wire, context: CaseContext) -> None:
    wire.wait_gone(context.patience)


def sends_and_resets(wire: Wire, context: CaseContext) -> None:
    wire.send(payload(50_000))
    wire.wait_acked(context.within)
    context.wait_accepted(wire, context.within)  # a connection that is reset in the queue may be dropped unread
    wire.reset()


def resets_in_the_middle(wire: Wire, context: CaseContext) -> None:
    wire.receive(UPLOAD)
    wire.reset()


def resets_soon(wire: Wire, context: CaseContext) -> None:
    wire.stall(0.3)
    wire.reset()


def resets_at_once(wire: Wire, context: CaseContext) -> None:
    wire.reset()


def is_echoed(wire: Wire, context: CaseContext) -> None:
    """Send, finish, and receive what comes back."""
    sends_and_finishes(wire, context)


def stays_a_while(wire: Wire, context: CaseContext) -> None:
    context.assembled.wait(context.patience * 2)
    wire.wait_gone(0.5)


def never_answers_close_notify(wire: Wire, context: CaseContext) -> None:
    session = context.tls(wire)
    context.feed()
    session.receive(seconds=context.patience)
    context.wait_released(wire, context.patience)


def truncates_tls(wire: Wire, context: CaseContext) -> None:
    session = context.tls(wire)
    session.send(payload(50_000))
    wire.half_close()  # no close_notify
    wire.receive(seconds=context.patience)


def leaves_tickets_unread(wire: Wire, context: CaseContext) -> None:
    session = context.tls(wire)
    wire.wait_acked(context.within)
    context.feed()
    wire.wait_gone(0.3)
    session.receive(seconds=context.patience)
    wire.half_close()
    wire.receive(seconds=context.patience)


def kills_the_sender(wire: Wire, context: CaseContext) -> None:
    wire.receive(UPLOAD)
    wire.stall(0.3)
    context.kill()
    wire.receive(seconds=context.patience)
