"""``roket relay``: a connection to the target for each that comes."""

from __future__ import annotations

import json
from argparse import Namespace
from functools import partial
from time import monotonic
from typing import Any

import anyio
from anyio.abc import SocketAttribute

from ..._errors import BrokenResourceError, ConnectionFailed
from ..._net.connect import connect_tcp, connect_unix
from ..._serving.serve import serve
from ..._streams.sockets import SocketStream
from ..._transfer.relay import RelayReport, relay
from ..connections.accepting import listening
from ..connections.connecting import failure_of
from ..console.command_status import CommandStatus
from ..console.event_loop import Shutdown, run_in_event_loop
from ..console.exit_codes import CommandError, ExitCode
from ..console.output import print_stdout
from ..console.units import duration, exact_size
from ..console.values import Address


def run_relay(options: Namespace) -> int:
    """The exit code."""
    status = CommandStatus("relay", options.quiet, is_json=False)
    shutdown = Shutdown()
    return run_in_event_loop(partial(_relay, options, status, shutdown), status, on_first_signal=shutdown.set)


async def _relay(options: Namespace, status: CommandStatus, shutdown: Shutdown) -> int:
    try:
        async with listening(options.address, status) as (listener, _):
            await serve(
                partial(_forward, options, status),
                listener,
                max_connections=options.max_connections,
                shutdown=shutdown,
                drain_seconds=options.drain,
                idle_seconds=options.idle_timeout,
            )
    except CommandError as problem:
        return status.fail_with(problem)
    return ExitCode.DONE


async def _forward(options: Namespace, status: CommandStatus, client: SocketStream) -> None:
    """One connection."""
    remote_address = client.extra(SocketAttribute.remote_address, None)
    facts: dict[str, Any] = {
        "client": str(Address(*remote_address)) if isinstance(remote_address, tuple) else "-",
        "target": str(options.target),
    }
    began = monotonic()
    async with client:
        try:
            with anyio.fail_after(options.connect_timeout):
                server = await _connected(options.target)
        except (ConnectionFailed, TimeoutError) as error:
            client.abort()
            reason = failure_of(error) if isinstance(error, ConnectionFailed) else "the target does not answer"
            _tell(options, status, facts, f"refused: {reason}")
            return
        async with server:
            try:
                report = await relay(client, server)
            except BrokenResourceError as error:
                client.abort()
                server.abort()
                _tell(options, status, facts, f"cut: {error}")
                return
            except BaseException:  # cancelled between two pieces, neither is cut; and yet it is not the end
                client.abort()
                server.abort()
                raise
    _tell(options, status, {**facts, **_counted(report, began, client, server)}, None)


async def _connected(target: Address) -> SocketStream:
    if target.path is not None:
        return await connect_unix(target.path)
    assert target.host is not None
    return await connect_tcp(target.host, target.port)


def _counted(report: RelayReport, began: float, client: SocketStream, server: SocketStream) -> dict[str, Any]:
    return {
        "bytes_there": report.left_to_right.bytes_moved,
        "bytes_back": report.right_to_left.bytes_moved,
        "route": report.left_to_right.route,
        "seconds": round(monotonic() - began, 6),
        "closed": [end.close_report.outcome.value for end in (client, server) if end.close_report is not None],
    }


def _tell(options: Namespace, status: CommandStatus, facts: dict[str, Any], failure: str | None) -> None:
    if options.json:
        print_stdout(json.dumps({"command": "relay", **facts, "error": failure}))
        return
    who = f"{facts['client']} → {facts['target']}"
    if failure is not None:
        status.inform(f"{who}: {failure}")
        return
    moved = f"{exact_size(facts['bytes_there'])} there, {exact_size(facts['bytes_back'])} back by {facts['route']}"
    status.inform(f"{who}: {moved} in {duration(facts['seconds'])}, closed {' and '.join(facts['closed'])}")
