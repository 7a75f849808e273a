"""Clients that finish: on idle connections, behind requests, before requests; and clients that pipeline."""

from __future__ import annotations

from .._close_suite.context import CaseContext
from .._peers.wire import Wire
from .conversation import Conversation
from .script_steps import IDLE, NO_SUCH_PATH, keeps_a_connection

# --- idle and finished connections -----------------------------------------------------------------------------------


def finishes_when_idle(wire: Wire, context: CaseContext) -> None:
    """Ask, be answered, stay a while, and finish."""
    client = keeps_a_connection(wire, context)
    client.finish()
    client.wait_end(context.patience)


def asks_and_finishes(wire: Wire, context: CaseContext) -> None:
    """Ask, with FIN directly behind the request."""
    client = Conversation(wire, context)
    client.get()
    client.finish()
    client.wait_answers(context.patience)


def asks_slowly_and_finishes(wire: Wire, context: CaseContext) -> None:
    """Ask for what takes a while, with FIN before the answer."""
    path = context.target.http.slow_path
    if path is None:
        context.unsupported("no path is known whose answer takes a while (--slow-path)")
    client = Conversation(wire, context)
    client.get(path=path)
    wire.stall(IDLE)
    client.finish()
    client.wait_answers(context.patience * 2)


def asks_for_a_close(wire: Wire, context: CaseContext) -> None:
    """Ask with ``Connection: close``, and wait for the server's FIN."""
    client = Conversation(wire, context)
    client.get("Connection: close")
    client.wait_answers(context.patience)
    client.wait_end(context.patience)


def asks_as_in_1996(wire: Wire, context: CaseContext) -> None:
    """Ask with HTTP/1.0, and wait for the server's FIN."""
    client = Conversation(wire, context)
    client.ask(client.request("GET", context.target.http.path, version="1.0"))
    client.wait_answers(context.patience)
    client.wait_end(context.patience)


def never_answers_the_fin(wire: Wire, context: CaseContext) -> None:
    """Ask with ``Connection: close``, receive everything, and keep the connection."""
    client = Conversation(wire, context)
    client.get("Connection: close")
    client.wait_answers(context.patience)
    client.wait_end(context.within)
    context.wait_released(wire, context.within)


def says_nothing(wire: Wire, context: CaseContext) -> None:
    """Connect, and finish without a request."""
    wire.stall(0.1)
    wire.half_close()
    wire.receive(seconds=context.patience)


def finishes_in_a_head(wire: Wire, context: CaseContext) -> None:
    """Finish in the middle of a request's head."""
    client = Conversation(wire, context, judges=False)
    client.send(client.request("GET", context.target.http.path)[:-10])
    wire.stall(0.1)
    client.finish()
    client.wait_end(context.patience)


# --- pipelining ------------------------------------------------------------------------------------------------------


def tries_to_keep(wire: Wire, context: CaseContext) -> None:
    """See which answers keep the connection, so that others can come behind them."""
    client = Conversation(wire, context, judges=False)
    for path in (context.target.http.path, NO_SUCH_PATH):
        client.get(path=path)
        answer = client.wait_answer()
        if answer is None or not answer.keeps:
            break
        context.memory[path] = answer.status
    if context.target.http.path not in context.memory:
        context.unsupported("it keeps no connection: its answer says that it closes")
    client.finish()
    client.wait_end(context.within)


def _pipelines(wire: Wire, context: CaseContext, *fields: str) -> Conversation:
    """Send five requests in one piece, for the path that answers and for one that is not there."""
    client = Conversation(wire, context)
    good = context.target.http.path
    if good not in context.memory:
        context.unsupported("no answer of its was whole and kept the connection")
    other = NO_SUCH_PATH if NO_SUCH_PATH in context.memory else good
    paths = [good, other, other, good]
    context.memory["wanted"] = [context.memory[path] for path in [*paths, good]]
    client.ask(*[client.request("GET", path) for path in paths], client.request("GET", good, *fields))
    return client


def _has_order(client: Conversation) -> None:
    """Say so where answers came in another order than their requests."""
    found = [answer.status for answer in client.answers if answer.is_whole]
    wanted = client.context.memory["wanted"]
    if len(found) == 5 and found != wanted:
        client.context.fault(f"the answers are not in the order of the requests: {found} instead of {wanted}")


def pipelines(wire: Wire, context: CaseContext) -> None:
    """Send five requests at once; the last asks for a close."""
    client = _pipelines(wire, context, "Connection: close")
    client.wait_answers(context.patience)
    client.wait_end(context.patience)
    _has_order(client)


def pipelines_and_finishes(wire: Wire, context: CaseContext) -> None:
    """Send five requests at once, and FIN directly behind them."""
    client = _pipelines(wire, context)
    client.finish()
    client.wait_answers(context.patience)
    _has_order(client)


def asks_again_after_the_last(wire: Wire, context: CaseContext) -> None:
    """Send a request that asks for a close, and another one behind it."""
    client = Conversation(wire, context)
    path = context.target.http.path
    client.ask(client.request("GET", path, "Connection: close"))
    ignored = client.request("GET", path)
    client.send(ignored * 20)
    client.wait_answers(context.patience)
    client.wait_end(context.patience)
    answer = next(iter(client.answers), None)
    if answer is not None and answer.is_whole and answer.framing != "close" and client.count > answer.end:
        context.fault("it answered a request behind the one that asked for the close")
