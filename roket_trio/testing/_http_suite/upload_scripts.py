"""Clients that upload: whole, too much, cut by FIN or RST; and what must not be taken for a whole upload."""

from __future__ import annotations

from typing import Final

from .._close_suite.context import CaseContext
from .._peers.payload import payload
from .._peers.wire import ScriptOverError, Wire
from .conversation import Conversation
from .script_steps import NO_SUCH_PATH, upload_path

_UPLOAD: Final = 2 << 20
SMALL_UPLOAD: Final = 100_000
_TOO_MUCH: Final = 1 << 40
_TAKES_NO_BODY: Final = "POST {path} is answered with {status}: it takes no body there (--upload-path)"


def _uploads(wire: Wire, context: CaseContext, path: str) -> None:
    """Send a whole upload as a plain client does, which sends all before it receives, and receive the answer."""
    client = Conversation(wire, context)
    request = client.request("POST", path, "Connection: close", body=payload(_UPLOAD))
    client.expect(request)
    if client.send(request, seconds=context.patience) < len(request):
        context.fault("it neither took the whole upload nor closed the connection")
        return
    client.wait_answers(context.patience)
    client.finish()
    client.wait_end(context.patience)


def uploads_to_nowhere(wire: Wire, context: CaseContext) -> None:
    """Upload to a path that is not there, of which a server knows before it has the body."""
    _uploads(wire, context, NO_SUCH_PATH)


def uploads(wire: Wire, context: CaseContext) -> None:
    """Upload to the path for uploads, whether it takes one or not."""
    _uploads(wire, context, upload_path(context))


def uploads_too_much(wire: Wire, context: CaseContext) -> None:
    """Announce a tebibyte, and send until there is an answer, and a while longer."""
    client = Conversation(wire, context)
    request = client.request("POST", upload_path(context), "Connection: close", f"Content-Length: {_TOO_MUCH}")
    client.ask(request)
    piece = payload(1 << 16)
    for _ in range(_UPLOAD // len(piece)):
        if client.send(piece, seconds=context.within) < len(piece):
            break
    if not wire.wait_readable(1.0):
        context.unsupported("it takes a body of any announced size, and gives no early answer")
    client.wait_answers(context.patience)
    client.finish()
    client.wait_end(context.patience)


def expects_to_continue(wire: Wire, context: CaseContext) -> None:
    """Ask with ``Expect: 100-continue``, and send the body once the server says so, or says nothing for a second."""
    client = Conversation(wire, context)
    body = payload(SMALL_UPLOAD)
    fields = "Connection: close", "Expect: 100-continue", f"Content-Length: {len(body)}"
    head = client.request("POST", upload_path(context), *fields)
    client.ask(head)
    if not wire.wait_readable(1.0):
        client.send(body, seconds=context.patience)
    else:
        client.receive_some(context.patience)
        answer = next(iter(client.answers), None)
        if answer is not None and not answer.status and not answer.fault:
            client.send(body, seconds=context.patience)
    client.wait_answers(context.patience)
    client.finish()
    client.wait_end(context.patience)


def tries_an_upload(wire: Wire, context: CaseContext) -> None:
    """See whether a whole small upload is answered with success; otherwise the case says nothing."""
    client = Conversation(wire, context, judges=False)
    path = upload_path(context)
    request = client.request("POST", path, "Connection: close", body=payload(SMALL_UPLOAD))
    try:
        client.ask(request)
        client.wait_answers(context.patience)
    except ScriptOverError:
        pass
    answer = next(iter(client.answers), None)
    if answer is None or not 200 <= answer.status < 300:
        status = answer.status if answer is not None and answer.status else "nothing"
        context.unsupported(_TAKES_NO_BODY.format(path=path, status=status))
    client.finish()
    client.wait_end(context.within)


def is_no_success(client: Conversation) -> None:
    """Say that an upload which was cut must not be answered with success."""
    answer = next(iter(client.answers), None)
    if answer is not None and 200 <= answer.status < 300:
        client.context.fault(f"an upload that was cut is answered with {answer.status}, as if it were whole")


def finishes_in_an_upload(wire: Wire, context: CaseContext) -> None:
    """Announce a body, send half of it, and finish."""
    client = Conversation(wire, context, judges=False)
    request = client.request("POST", upload_path(context), body=payload(SMALL_UPLOAD))
    client.ask(request[: -SMALL_UPLOAD // 2])
    wire.stall(0.1)
    client.finish()
    client.wait_end(context.patience)
    is_no_success(client)


def finishes_in_a_chunked_upload(wire: Wire, context: CaseContext) -> None:
    """Send a chunk, and finish without the last chunk."""
    client = Conversation(wire, context, judges=False)
    client.ask(client.request("POST", upload_path(context), "Transfer-Encoding: chunked"))
    body = payload(SMALL_UPLOAD)
    client.send(b"%x\r\n%b\r\n" % (len(body), body))
    wire.stall(0.1)
    client.finish()
    client.wait_end(context.patience)
    is_no_success(client)


def tries_a_chunked_upload(wire: Wire, context: CaseContext) -> None:
    """See whether a whole upload in chunks is answered with success; otherwise the case says nothing."""
    client = Conversation(wire, context, judges=False)
    path = upload_path(context)
    body = payload(SMALL_UPLOAD)
    fields = "Connection: close", "Transfer-Encoding: chunked"
    try:
        client.ask(client.request("POST", path, *fields) + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        client.wait_answers(context.patience)
    except ScriptOverError:
        pass
    answer = next(iter(client.answers), None)
    if answer is None or not 200 <= answer.status < 300:
        context.unsupported(f"a POST in chunks to {path} is not answered with success (--upload-path)")
    client.finish()
    client.wait_end(context.within)


def resets_in_an_upload(wire: Wire, context: CaseContext) -> None:
    """Announce a body, send half of it, and reset."""
    client = Conversation(wire, context, judges=False)
    request = client.request("POST", upload_path(context), body=payload(SMALL_UPLOAD))
    client.ask(request[: -SMALL_UPLOAD // 2])
    context.wait_accepted(wire, context.within)
    wire.stall(0.1)
    wire.reset()
    context.wait_released(wire, context.within)
