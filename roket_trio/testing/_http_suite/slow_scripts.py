"""Clients that reset, and clients that are slow."""

from __future__ import annotations

from .._close_suite.context import CaseContext
from .._peers.wire import Wire
from .conversation import Conversation
from .script_steps import begins_a_large_answer, keeps_a_connection


def resets_in_an_answer(wire: Wire, context: CaseContext) -> None:
    """Receive the beginning of a large answer, and reset."""
    begins_a_large_answer(wire, context, judges=False)
    wire.reset()
    context.wait_released(wire, context.within)


def resets_among_others(wire: Wire, context: CaseContext) -> None:
    """Receive the beginning of a large answer, and reset; whether its descriptor is released is not looked at."""
    begins_a_large_answer(wire, context, judges=False)
    wire.reset()


def stops_reading_and_closes(wire: Wire, context: CaseContext) -> None:
    """Receive the beginning of a large answer, let the server wait, and close with the rest unread."""
    begins_a_large_answer(wire, context, judges=False)
    wire.stall(1.0)
    wire.close()
    context.wait_released(wire, context.within)


def stops_reading_and_finishes(wire: Wire, context: CaseContext) -> None:
    """Receive the beginning of a large answer, finish, and receive nothing more."""
    client = begins_a_large_answer(wire, context, judges=False)
    client.finish()
    held = context.still_held([wire], context.within)
    if held is None:
        context.unseen("whether it lets go of its descriptor is not observed")
    elif held:
        context.unseen(f"it still waits for the client after {context.within:g} s, and may close later")


def reads_slowly(wire: Wire, context: CaseContext) -> None:
    """Receive a large answer with a pause, then in small pieces, then as it comes."""
    client = begins_a_large_answer(wire, context, "Connection: close")
    wire.stall(1.0)
    for _ in range(20):
        client.receive_some(context.patience, 1000)
        wire.stall(0.02)
    client.wait_answers(context.patience)
    client.finish()
    client.wait_end(context.patience)


def asks_slowly(wire: Wire, context: CaseContext) -> None:
    """Send the head in small pieces over a second."""
    client = Conversation(wire, context)
    request = client.request("GET", context.target.http.path, "Connection: close")
    client.expect(request)
    size = len(request) // 20 + 1
    for start in range(0, len(request), size):
        client.send(request[start : start + size])
        wire.stall(0.05)
    client.wait_answers(context.patience)
    client.finish()
    client.wait_end(context.patience)


def never_ends_the_head(wire: Wire, context: CaseContext) -> None:
    """Send the beginning of a head, and then nothing."""
    client = Conversation(wire, context, judges=False)
    client.send(client.request("GET", context.target.http.path)[:-10])
    _waits_for_a_time_limit(client)


def _waits_for_a_time_limit(client: Conversation) -> None:
    """Wait for the server to close of its own accord; if it does not in time, it may do so later."""
    context = client.context
    if not client.wait_end(context.within):
        context.unseen(f"it waits longer than {context.within:g} s, and may close later")
        client.wire.half_close()
        client.wire.receive(seconds=context.within)


def resets_when_idle(wire: Wire, context: CaseContext) -> None:
    """Ask, be answered, stay a while, and reset."""
    keeps_a_connection(wire, context)
    wire.reset()
    context.wait_released(wire, context.within)
