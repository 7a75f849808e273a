"""Clients over TLS: closure alerts, and handshakes that do not come about."""

from __future__ import annotations

from .._close_suite.context import CaseContext
from .._peers.payload import payload
from .._peers.wire import Wire
from .conversation import Conversation
from .script_steps import keeps_a_connection, upload_path
from .upload_scripts import SMALL_UPLOAD, is_no_success


def sees_close_notify(wire: Wire, context: CaseContext) -> None:
    """Ask with ``Connection: close``, and wait for close_notify and FIN."""
    client = Conversation(wire, context)
    client.get("Connection: close")
    client.wait_answers(context.patience)
    client.wait_end(context.patience)
    assert client.session is not None
    if wire.saw_fin and not client.session.saw_close_notify:
        context.fault("its FIN came without close_notify")


def says_close_notify(wire: Wire, context: CaseContext) -> None:
    """Ask, be answered, and send close_notify without FIN."""
    client = keeps_a_connection(wire, context)
    assert client.session is not None
    client.session.send_close_notify()
    client.wait_end(context.patience)


def finishes_without_close_notify(wire: Wire, context: CaseContext) -> None:
    """Ask, be answered, and send FIN without close_notify."""
    client = keeps_a_connection(wire, context)
    wire.half_close()
    client.wait_end(context.patience)


def truncates_an_upload(wire: Wire, context: CaseContext) -> None:
    """Announce a body, send half of it, and FIN without close_notify."""
    client = Conversation(wire, context, judges=False)
    request = client.request("POST", upload_path(context), body=payload(SMALL_UPLOAD))
    client.ask(request[: -SMALL_UPLOAD // 2])
    wire.stall(0.1)
    wire.half_close()
    client.wait_end(context.patience)
    is_no_success(client)


def cuts_the_handshake(wire: Wire, context: CaseContext) -> None:
    """Send the beginning of a ClientHello, and finish."""
    wire.send(bytes.fromhex("16030100f5010000f10303"))
    wire.stall(0.1)
    wire.half_close()
    wire.receive(seconds=context.patience)


def never_begins_the_handshake(wire: Wire, context: CaseContext) -> None:
    """Connect, and say nothing."""
    wire.receive(seconds=context.within)
    if not wire.saw_fin:
        context.unseen(f"it waits longer than {context.within:g} s, and may close later")
        wire.half_close()
        wire.receive(seconds=context.within)
