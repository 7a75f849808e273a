"""What ``roket relay`` does: open a connection to the target for each that arrives, and relay between the two."""

from __future__ import annotations

import json
from argparse import Namespace
from functools import partial
from time import monotonic
from typing import Any

import anyio
from anyio.abc import SocketAttribute

from ... import BrokenResourceError, ConnectionFailed, RelayReport, SocketStream, relay, serve
from ...staticfiles._clients import Clients, network_of
from ..connections.accepting import accept_error, listening, peer_address
from ..connections.connecting import connect_error_text, connect_stream
from ..console.command_status import CommandStatus
from ..console.event_loop import Shutdown, run_in_event_loop
from ..console.exit_codes import CommandError, ExitCode
from ..console.units import duration, exact_size


def run_relay(options: Namespace) -> int:
    """Relay until a signal arrives; returns the exit code."""
    status = CommandStatus("relay", options.quiet, is_json=False)
    shutdown = Shutdown()
    return run_in_event_loop(partial(_relay, options, status, shutdown), status, on_first_signal=shutdown.set)


async def _relay(options: Namespace, status: CommandStatus, shutdown: Shutdown) -> int:
    try:
        async with listening(options.address, status) as (listener, _):
            await serve(
                partial(_forward, options, status, Clients(most_per_address=options.max_per_address)),
                listener,
                max_connections=options.max_connections,
                shutdown=shutdown,
                drain_seconds=options.drain,
                idle_seconds=options.idle_timeout,
            )
    except CommandError as error:
        return status.fail_with(error)
    except OSError as error:
        return status.fail_with(accept_error(error))
    return ExitCode.DONE


async def _forward(options: Namespace, status: CommandStatus, clients: Clients, client: SocketStream) -> None:
    """Handle one connection, unless there are too many from its address."""
    facts: dict[str, Any] = {"client": peer_address(client) or "-", "target": str(options.target)}
    with clients.admitted(network_of(client.extra(SocketAttribute.remote_address, ""))) as admitted:
        if admitted is not None:
            await _forward_admitted(options, status, facts, client)
            return
    client.abort()
    _print(options, status, facts, f"refused: more than {options.max_per_address} connections from its address")


async def _forward_admitted(
    options: Namespace, status: CommandStatus, facts: dict[str, Any], client: SocketStream
) -> None:
    """Connect to the target, relay, and print a line about it."""
    began = monotonic()
    async with client:
        try:
            with anyio.fail_after(options.connect_timeout):
                server = await connect_stream(options.target)
        except OSError as error:  # ConnectionFailed and TimeoutError are; descriptors may have run out, too
            client.abort()
            _print(options, status, facts, f"refused: {_refusal(error)}")
            return
        async with server:
            try:
                report = await relay(client, server)
            except (BrokenResourceError, OSError) as error:
                client.abort()
                server.abort()
                _print(options, status, facts, f"cut: {error}")
                return
            except BaseException:
                # Cancelled between two pieces, neither connection is cut: without a reset their ends would look clean.
                client.abort()
                server.abort()
                raise
    _print(options, status, {**facts, **_figures(report, began, client, server)}, None)


def _refusal(error: OSError) -> str:
    if isinstance(error, ConnectionFailed):
        return connect_error_text(error)
    return "the target does not answer" if isinstance(error, TimeoutError) else error.strerror or str(error)


def _figures(report: RelayReport, began: float, client: SocketStream, server: SocketStream) -> dict[str, Any]:
    return {
        "bytes_there": report.left_to_right.bytes_moved,
        "bytes_back": report.right_to_left.bytes_moved,
        "route": report.left_to_right.route,
        "seconds": round(monotonic() - began, 6),
        "closed": [end.close_report.outcome.value for end in (client, server) if end.close_report is not None],
    }


def _print(options: Namespace, status: CommandStatus, facts: dict[str, Any], failure: str | None) -> None:
    if options.json:
        status.print_record(json.dumps({"command": "relay", **facts, "error": failure}))
        return
    ends = f"{facts['client']} → {facts['target']}"
    if failure is not None:
        status.inform(f"{ends}: {failure}")
        return
    moved = f"{exact_size(facts['bytes_there'])} there, {exact_size(facts['bytes_back'])} back by {facts['route']}"
    status.inform(f"{ends}: {moved} in {duration(facts['seconds'])}, closed {' and '.join(facts['closed'])}")
