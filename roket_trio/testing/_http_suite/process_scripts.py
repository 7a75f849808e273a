"""Clients of a server that is asked to end, has no descriptors left, has a crowd before it, or fails."""

from __future__ import annotations

from typing import Final

from .._close_suite.context import CaseContext
from .._peers.wire import Wire
from .._results.case_result import Data
from .conversation import Conversation
from .crowd import Crowd
from .script_steps import IDLE, begins_a_large_answer, keeps_a_connection

_CROWD: Final = 1000
_CROWD_QUIET: Final = 9.0  # seconds: a client that found the queue full is heard again after 1, 3, 7, 15 s
_CROWD_SECONDS: Final = 30.0


def _needs_a_process(context: CaseContext) -> None:
    if not context.has_process:
        context.unsupported("it is running already, and is not to be ended")


def sees_how_large(wire: Wire, context: CaseContext) -> None:
    """Receive the large answer, to know how large it is."""
    _needs_a_process(context)
    client = begins_a_large_answer(wire, context, "Connection: close", judges=False)
    answer = client.wait_answer()
    if answer is not None:
        context.memory["bytes"] = len(answer.body)
    client.finish()
    client.wait_end(context.within)


def is_terminated_in_an_answer(wire: Wire, context: CaseContext) -> None:
    """Receive the beginning of a large answer; then the server gets SIGTERM; receive the rest."""
    client = begins_a_large_answer(wire, context, "Connection: close")
    context.judge_by(wire, lambda: _judge_large(client))
    wire.stall(IDLE)
    context.terminate()
    wire.stall(IDLE)
    client.wait_answers(context.patience)
    client.wait_end(context.patience)


def _judge_large(client: Conversation) -> tuple[Data, str]:
    """The data of an answer of known size. One that ends with the connection may be cut and look whole."""
    data, reason = client.judge()
    wanted = client.context.memory.get("bytes")
    answer = next(iter(client.answers), None)
    if data == "complete" and answer is not None and isinstance(wanted, int) and len(answer.body) < wanted:
        return "corrupt", f"{len(answer.body):,} of {wanted:,} bytes came, and look like the whole answer"
    return data, reason


def is_terminated_when_idle(wire: Wire, context: CaseContext) -> None:
    """Keep an idle connection while the server gets SIGTERM."""
    _needs_a_process(context)
    client = keeps_a_connection(wire, context)
    context.terminate()
    if not client.wait_end(context.within):
        context.fault(f"its FIN did not come within {context.within:g} s of SIGTERM")
        client.finish()
    if not context.wait_exited(context.within):
        context.fault(f"it is still running {context.within:g} s after SIGTERM")


def stays_with_a_request(wire: Wire, context: CaseContext) -> None:
    """Stay, with the beginning of a request, until all of them are there."""
    if not context.target.http.tls:
        wire.send(b"GET ")
    context.assembled.wait(context.patience * 2)
    wire.wait_gone(0.5)


def comes_in_a_crowd(wire: Wire, context: CaseContext) -> None:
    """A thousand clients ask at once, and each is to be answered or refused."""
    target = context.target
    if target.http.tls:
        context.unsupported("the thousand clients speak no TLS")
    client = Conversation(wire, context, judges=False)
    request = client.request("GET", target.http.path, "Connection: close")
    assert isinstance(wire.remote, tuple)
    try:
        found = Crowd(wire.remote, request, _CROWD).run(_CROWD_QUIET, _CROWD_SECONDS, lambda: wire.wait_readable(0.001))
    except OSError as error:
        context.unseen(f"a thousand clients cannot be had here: {error}")
        return
    wire.timeline.note("note", detail=f"of {_CROWD:,} clients {found}")
    if found.cut or found.empty or found.unanswered:
        context.fault(f"of {_CROWD:,} clients {found}")


def sees_a_failure(wire: Wire, context: CaseContext) -> None:
    """Ask for what fails in the middle of its answer."""
    path = context.target.http.failing_path
    if path is None:
        context.unsupported("no path is known whose handler fails (--failing-path)")
    client = Conversation(wire, context)
    client.get("Connection: close", path=path)
    client.wait_answers(context.patience)
    client.wait_end(context.patience)
    answer = next(iter(client.answers), None)
    if answer is not None and answer.is_whole:
        if answer.status >= 500:
            context.unsupported(f"GET {path} is answered with {answer}: it fails before its answer is on its way")
        context.fault(f"an answer whose handler failed looks whole: {answer}")
