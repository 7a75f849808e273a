"""``roket serve DIRECTORY``."""

from __future__ import annotations

import json
import logging
import ssl
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from functools import partial
from typing import Any

import anyio

from .._errors import BrokenResourceError
from .._serving import serve
from .._tls import wrap_tls
from ..staticfiles import Exchange, StaticFiles
from ._connections import add_tls, announce, listen, remove_socket, server_context
from ._exits import Exit, Problem, local_file
from ._output import tell
from ._running import run as run_in_loop
from ._tally import Tally
from ._values import LOCALHOST, Address, count, local, seconds
from .relay import Shutdown, add_drain

DESCRIPTION = """\
Serve a directory over HTTP/1.1: ranges, conditional requests, sendfile. Nothing outside of it, and no name that begins
with a dot, is ever served. Listens on 127.0.0.1 unless told otherwise (*:PORT is everywhere). SIGTERM or Ctrl-C ends it
when the answers under way are sent or --drain is over; a second one at once."""
_PORT = 8000


def configure(parser: ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("directory", metavar="DIR", nargs="?", default=".", help="what to serve (default: this one)")
    parser.add_argument(
        "--bind",
        metavar="[BIND:]PORT",
        type=local,
        default=Address(LOCALHOST, _PORT),
        help=f"where to listen: [BIND:]PORT, or unix:PATH (default: {_PORT})",
    )
    parser.add_argument("--no-listing", action="store_true", help="no list for a directory without index.html")
    parser.add_argument(
        "--max-connections",
        type=count,
        default=1000,
        metavar="N",
        help="more than N wait in the listen queue (default: 1000)",
    )
    parser.add_argument(
        "--idle-timeout",
        type=seconds,
        default=60.0,
        metavar="SECONDS",
        help="end a connection on which nothing moves for so long (default: 60)",
    )
    add_drain(parser)
    add_tls(parser, server=True)


def run(options: Namespace) -> int:
    """The exit code."""
    tally = Tally("serve", options.quiet, is_json=False)
    try:
        files = StaticFiles(options.directory, listings=not options.no_listing, log=partial(_tell, options, tally))
    except ModuleNotFoundError as error:
        return tally.fail(Exit.USAGE, str(error))
    except OSError as error:
        return tally.fail_with(local_file(options.directory, error))
    with files:
        shutdown = Shutdown()

        def stop() -> bool:
            files.drain()
            return shutdown.set()

        return run_in_loop(partial(_serve, options, tally, files, shutdown), tally, told=stop)


async def _serve(options: Namespace, tally: Tally, files: StaticFiles, shutdown: Shutdown) -> int:
    _log_to(tally)
    try:
        context = server_context(options)
        listener, where = await listen(options.bind)
    except Problem as problem:
        return tally.fail_with(problem)
    try:
        announce(where, tally)
        if not where.is_unix:
            host = where if where.host is not None else Address("localhost", where.port)
            tally.say(f"{'https' if context else 'http'}://{host}/ is {options.directory}")
        await serve(
            files if context is None else partial(_handle_tls, files, context),
            listener,
            max_connections=options.max_connections,
            shutdown=shutdown,
            drain_seconds=options.drain,
            idle_seconds=options.idle_timeout,
        )
    finally:
        remove_socket(options.bind)
    return Exit.DONE


# How long a TLS handshake may take (seconds).
_HANDSHAKE = 20.0


async def _handle_tls(files: StaticFiles, context: ssl.SSLContext, stream: Any) -> None:
    try:
        with anyio.fail_after(_HANDSHAKE):
            wrapped = await wrap_tls(stream, server_side=True, ssl_context=context)
    except (ssl.SSLError, BrokenResourceError, anyio.EndOfStream, TimeoutError):
        stream.abort()  # a client that speaks something else, or has left
        return
    async with wrapped:
        await files(wrapped)


def _tell(options: Namespace, tally: Tally, exchange: Exchange) -> None:
    if options.json:
        tell(json.dumps(asdict(exchange)))
    else:
        tally.say(str(exchange))


def _log_to(tally: Tally) -> None:
    """What the server logs: descriptors that run out, a file that cannot be read."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            error = record.exc_info[1] if record.exc_info else None
            tally.warn(f"{record.getMessage()}: {error}" if error else record.getMessage())

    logger = logging.getLogger("roket_trio")
    logger.addHandler(Handler(logging.WARNING))
    logger.propagate = False
