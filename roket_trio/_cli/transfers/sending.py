"""What ``roket send`` does. :mod:`roket_trio._cli.transfers.sending_with_digest` does it with ``--digest``."""

from __future__ import annotations

from argparse import Namespace
from functools import partial

from ... import Transfer
from ..connections.command_connection import CommandConnection, close_and_describe
from ..connections.connecting import connect
from ..console.command_status import CommandStatus
from ..console.event_loop import run_in_event_loop
from ..console.exit_codes import CommandError, ExitCode
from ..console.options import status_for
from ..local_files.send_sources import SendSource, open_source
from .monitoring import monitored


def send(options: Namespace) -> int:
    """Connect and send; returns the exit code."""
    status = status_for("send", options)
    return run_in_event_loop(partial(_send, options, status), status)


async def _send(options: Namespace, status: CommandStatus) -> int:
    try:
        async with open_source(options.source) as source:
            if options.resume and source.size is None:
                raise CommandError(ExitCode.USAGE, f"--resume needs a file with a size, and {source.label} has none")
            connection = await connect(options.address, options)
            status.facts["peer"] = connection.peer
            status.waits_for_local = source.may_stall
            status.start()
            async with monitored(connection, status, options, file=source.label, file_is="source"):
                if options.digest or options.resume:
                    from .sending_with_digest import DigestSender

                    last_line = await DigestSender(options, status, source, connection).run()
                else:
                    last_line = await _send_raw(options, status, source, connection)
        return status.succeed(last_line)
    except CommandError as error:
        return status.fail_with(error)


async def _send_raw(
    options: Namespace, status: CommandStatus, source: SendSource, connection: CommandConnection
) -> str:
    transfer = Transfer(source.fd, connection.stream, rate_limit=options.rate)
    status.moved, status.total = lambda: transfer.bytes_moved, source.size
    report = await transfer.run()
    source.check_complete()
    status.waits_for_local = False
    status.facts["fallbacks"] = list(report.fallbacks)
    outcome = await close_and_describe(connection, status)
    return f"sent {status.summary(report.route)}: {outcome}"
