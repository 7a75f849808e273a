"""``roket recv``: over raw TCP; with ``--digest`` see :mod:`roket_trio._cli.transfers.receiving_with_digest`."""

from __future__ import annotations

from argparse import Namespace
from functools import partial

from ..._transfer.transfer import Transfer
from ..connections.accepting import accept
from ..connections.command_connection import CommandConnection
from ..console.command_status import CommandStatus
from ..console.event_loop import bare_task_group, run_in_event_loop
from ..console.exit_codes import CommandError, ExitCode
from ..console.options import status_for
from ..local_files.recv_destinations import NewTree, Target, target_for
from .monitoring import explained, measured, watched
from .storing import commit, kept, place_of, write_behind, written


def receive(options: Namespace) -> int:
    """The exit code."""
    status = status_for("recv", options)
    status.data_on_stdout = options.destination == "-"
    return run_in_event_loop(partial(_receive, options, status), status)


async def _receive(options: Namespace, status: CommandStatus) -> int:
    try:
        if options.digest or options.resume:
            if options.unpack:
                raise CommandError(ExitCode.USAGE, "--unpack is not for --digest: the sender says whether it is tar")
            from .receiving_with_digest import receive_checked

            return status.succeed(await receive_checked(options, status))
        async with kept(partial(_raw_target, options)) as target:
            connection = await accept(options, status)
            async with explained(connection, status, file=target.label, file_is="sink"):
                async with watched(connection, status, options):
                    what_happened = await _receive_raw(options, status, target, connection)
        return status.succeed(what_happened)
    except CommandError as problem:
        return status.fail_with(problem)


def _raw_target(options: Namespace) -> Target:
    if options.unpack:
        return NewTree(options.destination, overwrite=options.force)
    return target_for(options.destination, overwrite=options.force)


async def _receive_raw(options: Namespace, status: CommandStatus, target: Target, connection: CommandConnection) -> str:
    async with written(target) as fd, bare_task_group() as tasks:
        transfer = Transfer(connection.stream, fd, rate_limit=options.rate)
        status.moved = lambda: transfer.bytes_moved
        tasks.start_soon(write_behind, target, status)
        report = await transfer.run()
        tasks.cancel_scope.cancel()
    status.facts["fallbacks"] = list(report.fallbacks)
    await commit(target, status)
    # After the file is safe: a sender that waits for our end then knows that it is.
    await connection.stream.aclose()
    return f"received {measured(status, report.route, status.began)}: {place_of(target)}"
