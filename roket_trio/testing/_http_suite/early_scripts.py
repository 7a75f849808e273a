"""Servers that answer an upload early, or do not say that they wait for it."""

from __future__ import annotations

from time import monotonic
from typing import Final

from .exchange import Exchange, Request, head

STATUS: Final = "413 Content Too Large"
_REFUSED: Final = b"413: this is too large\n"
_FIRST: Final = 1 << 16
_NEXT: Final = (b"PUT ", b"POST ", b"GET ")
_SOON: Final = 0.5
"""Seconds in which a client that was refused sends the body if it does not care; the time limits of clients that wait
for 100 are a second."""


def _needs_a_body(exchange: Exchange, request: Request) -> None:
    if not request.has_body:
        exchange.context.unsupported("its request has no body")


def _needs_100(exchange: Exchange, request: Request) -> None:
    _needs_a_body(exchange, request)
    if not request.wants_100:
        exchange.context.unsupported("its request has no `Expect: 100-continue`")


def _refuse(exchange: Exchange) -> None:
    exchange.send(head(f"Content-Length: {len(_REFUSED)}", "Connection: close", status=STATUS) + _REFUSED)
    exchange.is_last = True


def refuses_late(exchange: Exchange, request: Request) -> None:
    """Take the whole body, and refuse it."""
    _needs_a_body(exchange, request)
    exchange.take(request)
    _refuse(exchange)
    exchange.finish()


def _begins_to_take(exchange: Exchange, request: Request) -> None:
    _needs_a_body(exchange, request)
    if request.wants_100:
        exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    exchange.receive(request.body_at + _FIRST, exchange.context.patience)


def refuses_early(exchange: Exchange, request: Request) -> None:
    """Take the beginning of the body, refuse it, finish, and receive what still comes."""
    _begins_to_take(exchange, request)
    _refuse(exchange)
    exchange.finish()
    exchange.see_end(exchange.context.patience)


def refuses_and_resets(exchange: Exchange, request: Request) -> None:
    """Take the beginning of the body, refuse it, and reset a moment later."""
    _begins_to_take(exchange, request)
    _refuse(exchange)
    exchange.wire.stall(_SOON)
    exchange.reset()


def says_no_100(exchange: Exchange, request: Request) -> None:
    """Never say 100."""
    _needs_100(exchange, request)
    context = exchange.context
    if not exchange.wire.wait_readable(context.within):
        context.fault(f"it still waited for 100 (Continue) after {context.within:g} s")
        exchange.end()
        return
    exchange.receive_body(request, context.patience)
    exchange.answer(request)


def _waits_still(exchange: Exchange, sent: float) -> None:
    """See that the client sends no body, now that it knows."""
    is_body = exchange.wire.wait_readable(_SOON) and exchange.receive_some(_SOON) > 0
    if is_body and monotonic() - sent > _SOON:
        exchange.context.unseen("it did not wait for 100 (Continue) long enough to be refused")
    elif is_body:
        exchange.context.fault("it sent the body although it had been refused before")


def refuses_instead_of_100(exchange: Exchange, request: Request) -> None:
    """Refuse where the client waits for 100."""
    _needs_100(exchange, request)
    sent = monotonic()
    _refuse(exchange)
    _waits_still(exchange, sent)
    exchange.finish()
    exchange.see_end(exchange.context.patience)


def fails_the_expectation(exchange: Exchange, request: Request) -> None:
    """Answer 417 where the client waits for 100: it is to ask again without, on this connection or another."""
    _needs_100(exchange, request)
    exchange.send(head("Content-Length: 0", status="417 Expectation Failed"))
    # The connection stays, so that a client may as well send the body to keep it.
    exchange.receive_some(exchange.context.patience)
    if exchange.received[request.body_at :] and not exchange.received[request.body_at :].startswith(_NEXT):
        exchange.receive_body(request, exchange.context.patience)
