"""``roket serve``: static files, with TLS where it is asked for."""

from __future__ import annotations

import json
import logging
from argparse import Namespace
from dataclasses import asdict
from functools import partial

from ..._serving.serve import serve
from ..._streams.tls import TLSListener
from ...staticfiles import Exchange, StaticFiles
from ..connections.accepting import listening
from ..connections.tls_contexts import server_context
from ..console.command_status import Tally
from ..console.event_loop import Shutdown, run
from ..console.exit_codes import Exit, Problem, local_file
from ..console.output import tell
from ..console.values import Address

# How long a TLS handshake may take (seconds).
_HANDSHAKE = 20.0


def run_server(options: Namespace) -> int:
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

        return run(partial(_serve, options, tally, files, shutdown), tally, told=stop)


async def _serve(options: Namespace, tally: Tally, files: StaticFiles, shutdown: Shutdown) -> int:
    _log_to(tally)
    try:
        context = server_context(options)
        async with listening(options.bind, tally) as (listener, where):
            if not where.is_unix:
                host = where if where.host is not None else Address("localhost", where.port)
                tally.say(f"{'https' if context else 'http'}://{host}/ is {options.directory}")
            await serve(
                files,
                listener if context is None else TLSListener(listener, context, False, handshake_timeout=_HANDSHAKE),
                max_connections=options.max_connections,
                shutdown=shutdown,
                drain_seconds=options.drain,
                idle_seconds=options.idle_timeout,
            )
    except Problem as problem:
        return tally.fail_with(problem)
    return Exit.DONE


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
