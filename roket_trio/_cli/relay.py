"""``roket relay [BIND:]PORT HOST:PORT``."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from functools import partial
from time import monotonic
from typing import Any

import anyio
from anyio.abc import SocketAttribute

from .._connecting import connect_tcp, connect_unix
from .._errors import BrokenResourceError, ConnectionFailed
from .._relaying import RelayReport, relay
from .._serving import serve
from .._sockets import SocketStream
from ._connections import announce, listen, remove_socket
from ._exits import Problem
from ._output import tell
from ._running import run as run_in_loop
from ._tally import Tally
from ._values import Address, count, local, remote, seconds
from ._words import duration, exact

DESCRIPTION = """\
Forward connections: each one that comes to PORT is joined to a new one to TARGET. A half-close is passed on as it is,
and a reset stays a reset. Listens on 127.0.0.1 unless told otherwise (*:PORT is everywhere). SIGTERM or Ctrl-C ends it
when the connections have ended or --drain is over; a second one at once."""


def configure(parser: ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("where", metavar="[BIND:]PORT", type=local, help="where to listen: [BIND:]PORT, or unix:PATH")
    parser.add_argument("target", metavar="TARGET", type=remote, help="where to connect: HOST:PORT, or unix:PATH")
    parser.add_argument(
        "--max-connections", type=count, metavar="N", help="more than N wait in the listen queue (default: no limit)"
    )
    parser.add_argument(
        "--connect-timeout", type=seconds, default=10.0, metavar="SECONDS", help="for the target (default: 10)"
    )
    parser.add_argument(
        "--idle-timeout", type=seconds, metavar="SECONDS", help="end a connection on which nothing moves for so long"
    )
    add_drain(parser)


def add_drain(parser: ArgumentParser) -> None:
    """What ends a server, and what it says."""
    parser.add_argument(
        "--drain",
        type=seconds,
        default=10.0,
        metavar="SECONDS",
        help="how long connections may go on after SIGTERM or Ctrl-C (default: 10)",
    )
    parser.add_argument("--json", action="store_true", help="a line of JSON for each, on standard output")
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors")


def run(options: Namespace) -> int:
    """The exit code."""
    tally = Tally("relay", options.quiet, is_json=False)
    shutdown = Shutdown()
    return run_in_loop(partial(_relay, options, tally, shutdown), tally, told=shutdown.set)


class Shutdown:
    """An event that can be made before there is an event loop."""

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    async def wait(self) -> None:
        """Until :meth:`set`."""
        self._event = anyio.Event()
        await self._event.wait()

    def set(self) -> bool:
        """Whether anybody was waiting for it."""
        if self._event is None:
            return False
        self._event.set()
        return True


async def _relay(options: Namespace, tally: Tally, shutdown: Shutdown) -> int:
    try:
        listener, where = await listen(options.where)
    except Problem as problem:
        return tally.fail_with(problem)
    try:
        announce(where, tally)
        await serve(
            partial(_forward, options, tally),
            listener,
            max_connections=options.max_connections,
            shutdown=shutdown,
            drain_seconds=options.drain,
            idle_seconds=options.idle_timeout,
        )
    finally:
        remove_socket(options.where)
    return 0


async def _forward(options: Namespace, tally: Tally, client: SocketStream) -> None:
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
            reason = "the target does not answer" if type(error) is TimeoutError else str(error)
            _tell(options, tally, facts, f"refused: {reason}")
            return
        async with server:
            try:
                report = await relay(client, server)
            except BrokenResourceError as error:
                client.abort()
                server.abort()
                _tell(options, tally, facts, f"cut: {error}")
                return
            except BaseException:  # cancelled between two pieces, neither is cut; and yet it is not the end
                client.abort()
                server.abort()
                raise
    _tell(options, tally, {**facts, **_counted(report, began, client, server)}, None)


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


def _tell(options: Namespace, tally: Tally, facts: dict[str, Any], failure: str | None) -> None:
    if options.json:
        tell(json.dumps({"command": "relay", **facts, "error": failure}))
        return
    who = f"{facts['client']} → {facts['target']}"
    if failure is not None:
        tally.say(f"{who}: {failure}")
        return
    moved = f"{exact(facts['bytes_there'])} there, {exact(facts['bytes_back'])} back by {facts['route']}"
    tally.say(f"{who}: {moved} in {duration(facts['seconds'])}, closed {' and '.join(facts['closed'])}")
