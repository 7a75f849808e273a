"""Servers that answer a client that runs once: whole answers of each form, and answers that are cut."""

from __future__ import annotations

from typing import Final

from .._peers.payload import payload
from .._peers.wire import ScriptOverError
from .exchange import BODY, Exchange, Request, Turn, chunk, head

_PART: Final = BODY // 2
_MOMENT: Final = 0.1
_LENGTH: Final = f"Content-Length: {BODY}"
_CHUNKED: Final = "Transfer-Encoding: chunked"
_CLOSE: Final = "Connection: close"


def _speaks_1_1(exchange: Exchange, request: Request, what: str) -> None:
    """A server sends nothing to a client of HTTP/1.0 that is not of HTTP/1.0 (RFC 9110, 15.2; RFC 9112, 7.1)."""
    if request.version == "1.0":
        exchange.context.unsupported(f"it speaks HTTP/1.0, which has no {what}")


# --- whole answers ---------------------------------------------------------------------------------------------------


def answers(exchange: Exchange, request: Request) -> None:
    """A whole answer, under Content-Length."""
    exchange.take(request)
    exchange.answer(request)


def answers_in_chunks(exchange: Exchange, request: Request) -> None:
    """A whole answer in chunks, the last of which comes after a pause."""
    _speaks_1_1(exchange, request, "chunks")
    exchange.take(request)
    exchange.send(head(_CHUNKED) + chunk(payload(_PART)) + chunk(payload(BODY - _PART, _PART)))
    exchange.wire.stall(_MOMENT)
    exchange.send(b"0\r\n\r\n")
    if request.wants_close:
        exchange.end()


def answers_to_the_end(exchange: Exchange, request: Request) -> None:
    """A whole answer whose end is the end of the connection."""
    exchange.take(request)
    exchange.send(head(_CLOSE) + payload(BODY))
    exchange.wire.stall(_MOMENT)
    exchange.end()


def answers_and_resets(exchange: Exchange, request: Request) -> None:
    """A whole answer under Content-Length, and then RST."""
    exchange.take(request)
    exchange.send(head(_LENGTH, _CLOSE) + payload(BODY))
    exchange.reset()


def answers_after_interims(exchange: Exchange, request: Request) -> None:
    """Two interim answers, and then the final one."""
    _speaks_1_1(exchange, request, "interim answers")
    exchange.take(request)
    for _ in range(2):
        exchange.send(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")
        exchange.wire.stall(_MOMENT)
    exchange.answer(request)


def answers_in_pieces(exchange: Exchange, request: Request) -> None:
    """A whole answer, in pieces that come one by one."""
    exchange.take(request)
    whole = head(_LENGTH, *([_CLOSE] if request.wants_close else []))
    for start in range(0, len(whole), 7):
        exchange.send(whole[start : start + 7])
        exchange.wire.stall(0.01)
    for start in range(0, BODY, 999):
        exchange.send(payload(min(999, BODY - start), start))
        exchange.wire.stall(0.02)
    if request.wants_close:
        exchange.end()


def says_close_and_stays(exchange: Exchange, request: Request) -> None:
    """A whole answer that says that the connection closes; it does not."""
    exchange.take(request)
    exchange.send(head(_LENGTH, _CLOSE) + payload(BODY))
    exchange.is_last = True


# --- cut answers -----------------------------------------------------------------------------------------------------


def _begins(*parts: bytes) -> Turn:
    """Answer with these bytes, and finish."""

    def turn(exchange: Exchange, request: Request) -> None:
        exchange.take(request)
        exchange.send(b"".join(parts))
        exchange.wire.stall(_MOMENT)
        exchange.end()

    return turn


def _begins_and_resets(*parts: bytes) -> Turn:
    """Answer with these bytes, and reset when they have arrived."""

    def turn(exchange: Exchange, request: Request) -> None:
        exchange.take(request)
        exchange.send(b"".join(parts))
        exchange.reset()

    return turn


def _in_chunks(turn: Turn) -> Turn:
    def checked(exchange: Exchange, request: Request) -> None:
        _speaks_1_1(exchange, request, "chunks")
        turn(exchange, request)

    return checked


says_nothing = _begins()
cuts_the_head = _begins(head(_LENGTH)[:-12])
cuts_under_length = _begins(head(_LENGTH), payload(_PART))
cuts_between_chunks = _in_chunks(_begins(head(_CHUNKED), chunk(payload(_PART))))
resets_under_length = _begins_and_resets(head(_LENGTH), payload(_PART))
resets_between_chunks = _in_chunks(_begins_and_resets(head(_CHUNKED), chunk(payload(_PART))))
resets_before_the_end = _begins_and_resets(head(_CLOSE), payload(_PART))


# --- TLS -------------------------------------------------------------------------------------------------------------


def _cuts_below_tls(*parts: bytes) -> Turn:
    """Answer with these bytes, and finish without close_notify."""

    def turn(exchange: Exchange, request: Request) -> None:
        exchange.take(request)
        exchange.send(b"".join(parts))
        exchange.wire.stall(_MOMENT)
        exchange.is_last = True
        exchange.wire.half_close()

    return turn


cuts_before_the_end_below_tls = _cuts_below_tls(head(_CLOSE), payload(_PART))
cuts_under_length_below_tls = _cuts_below_tls(head(_LENGTH), payload(_PART))
cuts_between_chunks_below_tls = _in_chunks(_cuts_below_tls(head(_CHUNKED), chunk(payload(_PART))))
answers_and_cuts_below_tls = _cuts_below_tls(head(_LENGTH, _CLOSE), payload(BODY))


def sees_close_notify(exchange: Exchange, request: Request) -> None:
    """A whole answer; the client is to say that it closes, before it does."""
    exchange.take(request)
    exchange.send(head(_LENGTH, _CLOSE) + payload(BODY))
    exchange.is_last = True
    assert exchange.session is not None
    try:
        exchange.wait_end(exchange.context.patience)
    except ScriptOverError:
        if not exchange.wire.timeline.saw("rst seen"):
            raise
    if not exchange.session.saw_close_notify:
        how = "RST" if exchange.wire.timeline.saw("rst seen") else "FIN"
        exchange.context.fault(f"its {how} came without close_notify")
