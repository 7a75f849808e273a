"""What ``roket serve`` does: serve static files over HTTP, with TLS where the options ask for it."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import asdict
from functools import partial

from ... import TLSListener, serve
from ...staticfiles import Exchange, StaticFiles
from ..connections.accepting import accept_error, listening
from ..connections.tls_contexts import server_context
from ..console.command_status import CommandStatus
from ..console.event_loop import Shutdown, run_in_event_loop
from ..console.exit_codes import CommandError, ExitCode, local_file_error
from ..console.values import Address

# How long a TLS handshake may take (seconds).
_HANDSHAKE = 20.0


def run_server(options: Namespace) -> int:
    """Serve until a signal arrives; returns the exit code."""
    status = CommandStatus("serve", options.quiet, is_json=False)
    try:
        files = StaticFiles(
            options.directory,
            listings=not options.no_listing,
            least_rate=options.min_rate,
            max_connections=options.max_connections,
            max_per_address=options.max_per_address,
            log=partial(_print, options, status),
        )
    except ModuleNotFoundError as error:
        return status.fail(ExitCode.USAGE, str(error))
    except OSError as error:
        return status.fail_with(local_file_error(options.directory, error))
    with files:
        shutdown = Shutdown()

        def drain() -> bool:
            files.drain()
            return shutdown.set()

        return run_in_event_loop(partial(_serve, options, status, files, shutdown), status, on_first_signal=drain)


async def _serve(options: Namespace, status: CommandStatus, files: StaticFiles, shutdown: Shutdown) -> int:
    try:
        context = server_context(options)
        async with listening(options.bind, status) as (listener, address):
            if not address.is_unix:
                host = address if address.host is not None else Address("localhost", address.port)
                status.inform(f"{'https' if context else 'http'}://{host}/ is {options.directory}")
            await serve(
                files,
                listener if context is None else TLSListener(listener, context, False, handshake_timeout=_HANDSHAKE),
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


def _print(options: Namespace, status: CommandStatus, exchange: Exchange) -> None:
    if options.json:
        status.print_record(json.dumps(asdict(exchange)))
    else:
        status.inform(str(exchange))
