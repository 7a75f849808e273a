"""What goes on beside every transfer: its progress, its time limits, and the report of its failure."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ..connections.command_connection import CommandConnection
from ..connections.time_limits import enforce_time_limits
from ..console.command_status import CommandStatus
from ..console.event_loop import bare_task_group
from ..console.exit_codes import CommandError
from ..progress.showing import show_progress
from .failures import Side, as_command_error, missing_bytes_text


@asynccontextmanager
async def monitored(
    connection: CommandConnection, status: CommandStatus, options: Namespace, *, file: str, file_is: Side
) -> AsyncIterator[None]:
    """Show progress and enforce the time limits during the block. An exception that leaves it resets the connection.

    :param file: the name of the file, for the user
    :param file_is: which side of the transfer the file is
    :raises CommandError: the transfer failed, or took too long
    """
    kind = "none" if options.quiet else options.progress
    try:
        async with bare_task_group() as tasks:
            tasks.start_soon(show_progress, status, kind)
            tasks.start_soon(enforce_time_limits, connection, status, options.idle_timeout)
            yield
            tasks.cancel_scope.cancel()
    except Exception as error:
        _reset(connection)
        failure = as_command_error(error, file=file, file_is=file_is, peer=connection.peer)
        if failure is None:
            raise
        if file_is == "source":
            failure = CommandError(failure.code, failure.message + missing_bytes_text(connection, status))
        raise failure from error
    except BaseException:
        _reset(connection)
        raise


def _reset(connection: CommandConnection) -> None:
    """Reset the connection, so that the peer does not see a clean end; unless its close has begun, with all bytes
    sent."""
    if connection.socket.close_report is None:
        connection.socket.abort()
