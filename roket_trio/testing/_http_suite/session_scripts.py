"""Servers for a client that goes on: what they do to its idle connections, and to requests that it gives up."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from .._close_suite.case import CaseScript
from .._close_suite.context import CaseContext
from .._peers.payload import payload
from .._peers.wire import ScriptOverError, Wire
from .._results.case_result import Data
from .exchange import Exchange, Request, Turn, head, serves

_IDLE: Final = 0.3
_FIRST, _SECOND, _STOLEN, _FAILED = "first", "second", "stolen", "failed"
_LARGE: Final = 4 << 20
_BEGINNING: Final = 1 << 16
_WIRE: Final = "the first wire"
_AGAIN: Final = "again"
_STOLEN_ANSWER: Final = head(f"Content-Length: {len(_STOLEN)}") + _STOLEN.encode()


# --- the lines that the client writes --------------------------------------------------------------------------------


def _judge_second(context: CaseContext) -> tuple[Data, str]:
    """What the client says of its second request."""
    line = next(iter(context.lines[1:2]), None)
    if line == _SECOND:
        return "complete", "the second request was answered"
    if line == _FAILED:
        return "truncated", "the second request failed"
    if line is None:
        return "hung", "nothing came of the second request"
    return "corrupt", f"the second request was answered with {line[:40]!r} instead of {_SECOND!r}"


def _judge_given_up(context: CaseContext) -> tuple[Data, str]:
    """What the client says of a request that it was to give up."""
    line = next(iter(context.lines), None)
    if line == _FAILED:
        return "complete", "it gave the request up"
    return ("hung", "it did not give the request up") if line is None else ("corrupt", f"it said {line[:40]!r}")


def _answer_first(exchange: Exchange, request: Request, answer: bytes) -> None:
    """Answer the first request, and wait until the client has the answer; then wait a while."""
    context = exchange.context
    context.memory[_WIRE] = exchange.wire
    context.judge_by(exchange.wire, lambda: _judge_second(context))
    if request.wants_close:
        context.unsupported("it keeps no connection: its request says so")
    exchange.take(request)
    exchange.send(answer)
    said = context.wait_lines(1, context.patience)
    if said[:1] != [_FIRST]:
        context.unsupported(f"it did not say {_FIRST!r} when it was answered so, but {said[:1] or 'nothing'}")
    _pause(exchange)


def _pause(exchange: Exchange) -> None:
    """Let the connection be idle; the client may end it meanwhile."""
    with suppress(ScriptOverError):
        exchange.wire.stall(_IDLE)


def _first(*fields: str) -> bytes:
    return head(f"Content-Length: {len(_FIRST)}", *fields) + _FIRST.encode()


def _ask_again(context: CaseContext) -> None:
    context.tell(_AGAIN)
    context.say("again")


def goes_on(*turns: Turn) -> CaseScript:
    """A server as :func:`serves` makes it, that stays until the client has said what came of its second request, if it
    was to make one."""
    server = serves(*turns)

    def script(wire: Wire, context: CaseContext) -> None:
        try:
            server(wire, context)
        finally:
            if context.told(_AGAIN):
                context.wait_lines(2, context.patience)

    return script


def _is_reused(exchange: Exchange) -> None:
    """See that the second request came on the connection of the first."""
    if exchange.context.memory.get(_WIRE) is not exchange.wire:
        exchange.context.unsupported("it does not use a connection for a second request")


def answers_second(exchange: Exchange, request: Request) -> None:
    """Answer a further request, and close once the client has said something."""
    exchange.take(request)
    exchange.answer(request, _SECOND.encode())
    exchange.context.wait_lines(2, exchange.context.patience)
    if not exchange.is_last:
        exchange.end()


# --- connections that wait in a pool ---------------------------------------------------------------------------------


def closes_when_idle(exchange: Exchange, request: Request) -> None:
    """Finish while the connection is idle, see whether the client closes it, and have it ask again."""
    context = exchange.context
    _answer_first(exchange, request, _first())
    exchange.end()
    exchange.see_end(context.patience)
    context.wait_released(exchange.wire, context.within)
    _ask_again(context)


def answers_first(exchange: Exchange, request: Request) -> None:
    """Answer the first request, and have the client ask again."""
    _answer_first(exchange, request, _first())
    _ask_again(exchange.context)


def closes_on_a_request(exchange: Exchange, request: Request) -> None:
    """Finish, without an answer, when a request comes on a kept connection."""
    _is_reused(exchange)
    exchange.end()


def resets_on_a_request(exchange: Exchange, request: Request) -> None:
    """Reset when a request comes on a kept connection, as a server's kernel does that has closed meanwhile."""
    _is_reused(exchange)
    exchange.is_last = True
    exchange.wire.reset()


def says_close(exchange: Exchange, request: Request) -> None:
    """Say ``Connection: close``, do not close, see whether the client does, and have it ask again."""
    context = exchange.context
    _answer_first(exchange, request, _first("Connection: close"))
    if not exchange.see_end(context.within):
        context.fault(f"after {context.within:g} s it had not closed a connection of which the server had said so")
    _ask_again(context)


def answers_second_elsewhere(exchange: Exchange, request: Request) -> None:
    """Answer a further request, which must not come on the first connection."""
    if exchange.context.memory.get(_WIRE) is exchange.wire:
        exchange.context.fault("it sent a request on a connection of which the server had said that it closes")
    answers_second(exchange, request)


def says_something_unasked(exchange: Exchange, request: Request) -> None:
    """Send an answer that nobody has asked for on the idle connection, and have the client ask again."""
    _answer_first(exchange, request, _first())
    with suppress(ScriptOverError):  # the client may have closed before, or close at once
        exchange.send(_STOLEN_ANSWER)
        exchange.wire.wait_acked(exchange.context.within)
    _pause(exchange)
    _ask_again(exchange.context)


def says_too_much(exchange: Exchange, request: Request) -> None:
    """Send an answer that nobody has asked for directly behind the first one, and have the client ask again."""
    _answer_first(exchange, request, _first() + _STOLEN_ANSWER)
    _ask_again(exchange.context)


# --- requests that the client gives up -------------------------------------------------------------------------------


def never_answers(exchange: Exchange, request: Request) -> None:
    """Do not answer, until the client gives up; see whether it closes."""
    context = exchange.context
    context.judge_by(exchange.wire, lambda: _judge_given_up(context))
    exchange.take(request)
    context.wait_lines(1, context.patience)
    exchange.see_end(context.within)
    context.wait_released(exchange.wire, context.within)


def _begin_a_large_answer(exchange: Exchange, request: Request) -> None:
    exchange.take(request)
    exchange.send(head(f"Content-Length: {_LARGE}") + payload(_BEGINNING))
    exchange.context.wait_lines(1, exchange.context.patience)


def begins_to_answer(exchange: Exchange, request: Request) -> None:
    """Send the beginning of an answer, until the client gives up; see whether it closes."""
    context = exchange.context
    context.judge_by(exchange.wire, lambda: _judge_given_up(context))
    _begin_a_large_answer(exchange, request)
    exchange.see_end(context.within)
    context.wait_released(exchange.wire, context.within)


def goes_on_to_answer(exchange: Exchange, request: Request) -> None:
    """Send the beginning of an answer, the rest when the client has given up, and have it ask again."""
    context = exchange.context
    context.judge_by(exchange.wire, lambda: _judge_second(context))
    _begin_a_large_answer(exchange, request)
    if context.lines[:1] != [_FAILED]:
        context.unsupported("it did not give up the request")
    with suppress(ScriptOverError):  # it has closed, which is good
        exchange.send(payload(_LARGE - _BEGINNING, _BEGINNING), seconds=context.within)
    _ask_again(context)
