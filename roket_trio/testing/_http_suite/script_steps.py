"""What several scripts of clients do: ask for a large answer, have a connection kept, be answered."""

from __future__ import annotations

from typing import Final

from .._close_suite.context import CaseContext
from .._close_suite.files import LARGE_FILE
from .._peers.wire import ScriptOverError, Wire
from .conversation import Conversation

IDLE: Final = 0.3
"""Seconds after an answer: the server waits for the next request."""
NO_SUCH_PATH: Final = "/roket-check-no-such-path"
_LARGE: Final = 1 << 20  # at least so many bytes, or the whole answer may be in the kernel before anything is read


def large_path(context: CaseContext) -> str:
    target = context.target
    if target.http.large_path is not None:
        return target.http.large_path
    return f"/{LARGE_FILE}" if target.has_place("directory") else target.http.path


def upload_path(context: CaseContext) -> str:
    http = context.target.http
    return http.path if http.upload_path is None else http.upload_path


def begins_a_large_answer(wire: Wire, context: CaseContext, *fields: str, judges: bool = True) -> Conversation:
    """Ask for the large answer, and receive its beginning; the rest does not fit between the server and here."""
    client = Conversation(wire, context, judges=judges)
    path = large_path(context)
    client.get(*fields, path=path)
    client.receive(4096, context.patience)
    answer = next(iter(client.answers), None)
    if answer is None:
        context.unseen(f"GET {path} was not answered in {context.patience:g} s")
        raise ScriptOverError("no answer")
    if not answer.fault and answer.status and (answer.is_whole or not 200 <= answer.status < 300):
        context.unsupported(f"GET {path} is answered with {answer}: too little to be in the middle of (--large-path)")
    if answer.wanted is not None and answer.wanted < _LARGE:
        context.unsupported(f"GET {path} is answered with {answer.wanted:,} bytes: too few (--large-path)")
    return client


def is_answered(wire: Wire, context: CaseContext) -> None:
    """A good client: it asks, is answered, and sees the server close."""
    client = Conversation(wire, context)
    client.get("Connection: close")
    client.wait_answers(context.patience)
    client.finish()
    client.wait_end(context.patience)


def keeps_a_connection(wire: Wire, context: CaseContext) -> Conversation:
    """Ask, and be answered on a connection that the server keeps."""
    client = Conversation(wire, context)
    client.get()
    answer = client.wait_answer()
    if answer is None:
        client.wait_end(IDLE)
        raise ScriptOverError("no whole answer")
    if not answer.keeps:
        context.unsupported("it keeps no connection: its answer says that it closes")
    wire.stall(IDLE)
    return client
