"""What ``roket recv`` does. :mod:`roket_trio._cli.transfers.receiving_with_digest` does it with ``--digest``."""

from __future__ import annotations

from argparse import Namespace
from functools import partial

from ... import Transfer
from ..connections.accepting import accept
from ..connections.command_connection import CommandConnection
from ..console.command_status import CommandStatus
from ..console.event_loop import bare_task_group, run_in_event_loop
from ..console.exit_codes import CommandError, ExitCode
from ..console.options import status_for
from ..local_files.recv_destinations import Destination, UnpackedDirectory, destination_at, is_standard_output
from .monitoring import monitored
from .storing import commit, descriptor_of, open_destination, write_behind


def receive(options: Namespace) -> int:
    """Accept a connection and receive; returns the exit code."""
    if is_standard_output(options.destination):
        options.destination = "-"
    status = status_for("recv", options)
    status.data_on_stdout = options.destination == "-"
    return run_in_event_loop(partial(_receive, options, status), status)


async def _receive(options: Namespace, status: CommandStatus) -> int:
    try:
        if options.digest or options.resume:
            if options.unpack:
                raise CommandError(ExitCode.USAGE, "--unpack is not for --digest: the sender says whether it sends tar")
            from .receiving_with_digest import receive_with_digest

            return status.succeed(await receive_with_digest(options, status))
        async with open_destination(partial(_destination, options)) as destination:
            connection = await accept(options, status)
            async with monitored(connection, status, options, file=destination.label, file_is="sink"):
                last_line = await _receive_raw(options, status, destination, connection)
        return status.succeed(last_line)
    except CommandError as error:
        return status.fail_with(error)


def _destination(options: Namespace) -> Destination:
    """Blocks."""
    if options.unpack:
        return UnpackedDirectory(options.destination, overwrite=options.force)
    return destination_at(options.destination, overwrite=options.force)


async def _receive_raw(
    options: Namespace, status: CommandStatus, destination: Destination, connection: CommandConnection
) -> str:
    async with descriptor_of(destination) as fd, bare_task_group() as tasks:
        transfer = Transfer(connection.stream, fd, rate_limit=options.rate)
        status.moved = lambda: transfer.bytes_moved
        tasks.start_soon(write_behind, destination, status)
        report = await transfer.run()
        tasks.cancel_scope.cancel()
    status.facts["fallbacks"] = list(report.fallbacks)
    await commit(destination, status)
    # The FIN comes after the file is safe: a sender that waits for it knows that.
    await connection.stream.aclose()
    return f"received {status.summary(report.route)}: {destination.result}"
