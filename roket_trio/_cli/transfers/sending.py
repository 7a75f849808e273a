"""``roket send``: over raw TCP; with ``--digest`` see :mod:`roket_trio._cli.transfers.sending_with_digest`."""

from __future__ import annotations

from argparse import Namespace
from functools import partial

from ..._transfer.transfer import Transfer
from ..connections.command_connection import CommandConnection, close_and_describe
from ..connections.connecting import connect
from ..console.command_status import CommandStatus
from ..console.event_loop import run_in_event_loop
from ..console.exit_codes import CommandError, ExitCode
from ..console.options import status_for
from ..local_files.send_sources import Source, opened
from .monitoring import explained, measured, watched


def send(options: Namespace) -> int:
    """The exit code."""
    status = status_for("send", options)
    return run_in_event_loop(partial(_send, options, status), status)


async def _send(options: Namespace, status: CommandStatus) -> int:
    try:
        async with opened(options.source) as source:
            if options.resume and source.size is None:
                raise CommandError(ExitCode.USAGE, f"--resume is for files, and {source.label} is none with a size")
            connection = await connect(options.address, options)
            status.facts["peer"] = connection.peer
            status.waits_for_local = source.is_slow
            status.start()
            if options.digest or options.resume:
                from .sending_with_digest import send_checked as how
            else:
                how = _send_raw
            async with explained(connection, status, file=source.label, file_is="source"):
                async with watched(connection, status, options):
                    what_happened = await how(options, status, source, connection)
        return status.succeed(what_happened)
    except CommandError as problem:
        return status.fail_with(problem)


async def _send_raw(options: Namespace, status: CommandStatus, source: Source, connection: CommandConnection) -> str:
    transfer = Transfer(source.fd, connection.stream, rate_limit=options.rate)
    status.moved, status.total = lambda: transfer.bytes_moved, source.size
    report = await transfer.run()
    source.check()
    status.waits_for_local = False
    status.facts["fallbacks"] = list(report.fallbacks)
    what_is_known = await close_and_describe(connection, status)
    return f"sent {measured(status, report.route, status.began)}: {what_is_known}"
